"""``create_pretrain_data.py``: the program of both backends; it needs absl, but not TensorFlow."""

from __future__ import annotations

from funnel.cli.create_pretrain_data import run

__all__ = ["run"]
