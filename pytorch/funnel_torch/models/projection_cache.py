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
        # With each result what it was made of: memory in use is given to no other tensor, so an
        # address in a key stands for one parameter (``torch.func.functional_call`` brings others).
        self._found: dict[tuple, tuple[Any, Sequence[Tensor]]] = {}

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
            found = build(), [parameter.detach() for parameter in parameters]
            kept = list(self._found.items())[1 - _MOST :]
            self._found = dict([*kept, (key, found)])  # other threads read the old one
        return found[0]

    def clear(self) -> None:
        """Forget everything."""
        self._found = {}

    def __getstate__(self) -> dict:
        return {"_found": {}}
