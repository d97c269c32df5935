"""Flags of absl's log, which every original program had through ``absl.app``."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting

_STDERR = "accepted; messages always go to stderr"


@dataclass(frozen=True)
class AbslLogging:
    """Amount of messages, by absl's flags."""

    verbosity: int = setting(
        0,
        "messages (also -v): below 0 warnings only, above 0 debug messages too",
        aliases=("v",),
        affects_result=False,
    )
    alsologtostderr: bool = setting(False, _STDERR, affects_result=False)
    logtostderr: bool = setting(False, _STDERR, affects_result=False)

    @property
    def verbose(self) -> bool:
        """Whether debug messages are shown."""
        return self.verbosity > 0

    @property
    def quiet(self) -> bool:
        """Whether warnings alone are shown."""
        return self.verbosity < 0
