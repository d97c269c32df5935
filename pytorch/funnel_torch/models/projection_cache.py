"""What evaluation computes from the weights of a layer alone, kept until they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

# A shared layer at the start of a block alternates between two sets of relative embeddings.
_MOST = 2
_Projection = TypeVar("_Projection")


class ProjectionCache:
    """Results by key; copies and pickles are empty."""

    def __init__(self) -> None:
        self._found: dict[tuple, Any] = {}

    def get(
        self, key: tuple, parameters: Sequence[Tensor], build: Callable[[], _Projection]
    ) -> _Projection:
        """Return what ``build`` makes of the parameters, kept until they or the key change.

        A change is seen by the version of a tensor; fused optimizers do not raise it, so call
        :meth:`clear` after training.
        """
        # An inference tensor has no version by which a change would be seen.
        if any(parameter.is_inference() for parameter in parameters):
            return build()
        key += tuple((parameter._version, parameter.data_ptr()) for parameter in parameters)
        found = self._found.get(key)
        if found is None:
            found = build()
            kept = list(self._found.items())[1 - _MOST :]
            self._found = dict([*kept, (key, found)])  # other threads read the old one
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._found = {}

    def __getstate__(self) -> dict:
        return {"_found": {}}
