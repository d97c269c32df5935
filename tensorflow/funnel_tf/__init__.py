"""Funnel-Transformer in TensorFlow: graphs for TPUEstimator, variable names as released."""

from funnel import __version__

__all__ = ["__version__"]
