"""Settings of several runs that differ in their seeds."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting


@dataclass(frozen=True)
class SeriesSettings:
    """The runs of a series."""

    seeds: str = setting(
        "",
        "new: comma list: one run per seed, in model_dir/seed=N, and a table of their dev scores",
        affects_result=False,
    )
