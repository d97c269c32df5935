"""Names of weights from elsewhere: wrappers' prefixes removed, and the layout they belong to.

Training code saves what it holds, and that is often a model inside something else: DataParallel
names every tensor ``module.…``, ``torch.compile`` ``_orig_mod.…``, a Lightning module ``model.…``.
Every reader of weights passes its names through :func:`strip_wrappers`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from funnel.utils.errors import CheckpointError
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

# Word embeddings, which every model has, by layout. Their name tells what is in front of it.
RELEASED_MARK = "input_layer.0.lookup_table"
HF_MARK = "embeddings.word_embeddings.weight"
_HF_BODY = "funnel."  # what transformers puts in front of the body of a model with a head
# Modules that wrap another one; they can be at any depth. No module of a Funnel model is named so.
_WRAPPERS = {
    *("module", "_orig_mod", "_forward_module"),
    *("_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
}
# Keys under which training code saves a model, in order of preference.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "model_state", "net", "weights")
_MAX_NESTING = 4
_MAX_MODULES = 500  # below Python's limit of recursion, should each be inside the previous one


def find_layout(names: Iterable[str]) -> str | None:
    """Return the layout of stripped names: ``pt`` (released), ``hf`` or None."""
    names = set(names)
    if RELEASED_MARK in names:
        return "pt"
    return "hf" if names & {HF_MARK, _HF_BODY + HF_MARK} else None


def strip_wrappers(tensors: Mapping[str, np.ndarray], source: object) -> dict[str, np.ndarray]:
    """Return ``tensors`` under the names that the model itself gives them.

    Names without a known word embedding stay; the reader of the layout reports them.

    Raises:
        CheckpointError: there are two models, or tensors outside the model.
    """
    found: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if plain in found:
            raise CheckpointError(f"{source}: {plain} is there twice, once in a wrapper ({name})")
        found[plain] = values
    roots = {_find_root(name) for name in found} - {None}
    if len(roots) > 1:
        listed = join_names(sorted(repr(root) for root in roots))
        raise CheckpointError(f"{source}: holds several models, with the prefixes {listed}")
    root = roots.pop() if roots else None
    if not root:
        return found
    outside = sorted(name for name in found if not name.startswith(root))
    if outside:
        raise CheckpointError(
            f"{source}: the model's tensors are named {root}…, but others are not: "
            f"{join_names(outside)}; save the model's own state_dict()"
        )
    return {name.removeprefix(root): values for name, values in found.items()}


def open_containers(state: Any, source: object) -> Any:
    """Return the state dict inside lists and dictionaries of a training checkpoint.

    Modules may also be nested dictionaries, whose keys become the parts of the names.
    """
    for _ in range(_MAX_NESTING):
        if isinstance(state, list | tuple) and state and isinstance(state[0], Mapping):
            state = state[0]  # fine-tuning saves [state_dict, optimizer]
            continue
        if not isinstance(state, Mapping):
            return state
        held = [key for key in _CONTAINERS if isinstance(state.get(key), Mapping) and state[key]]
        # A model can have a part of such a name; then its other parts are there as well.
        if not held or _find_mark(state):
            break
        if len(state) > 1:
            logger.info("%s: the weights are those of %r", source, held[0])
        state = state[held[0]]
    return _flatten(state) if isinstance(state, Mapping) else state


def _find_mark(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, str) and _find_root(name) is not None for name in state)


def _flatten(state: Mapping[Any, Any], seen: set[int] | None = None) -> dict[Any, Any]:
    """Join the keys of nested dictionaries with dots, as far as they are names.

    A dictionary that is met again stays a value, which is refused: a file can hold cycles.
    """
    seen = set() if seen is None else seen
    seen.add(id(state))
    flat: dict[Any, Any] = {}
    for name, value in state.items():
        is_module = isinstance(name, str) and isinstance(value, Mapping) and bool(value)
        if not is_module or id(value) in seen or len(seen) > _MAX_MODULES:
            flat[name] = value
            continue
        for inner, tensor in _flatten(value, seen).items():
            flat[f"{name}.{inner}" if isinstance(inner, str) else name] = tensor
    return flat


def _find_root(name: str) -> str | None:
    """Return what precedes a model's own name of its word embeddings, None for other tensors."""
    for mark in (RELEASED_MARK, HF_MARK):
        if name == mark or name.endswith(f".{mark}"):
            root = name.removesuffix(mark)
            is_body = root == _HF_BODY or root.endswith(f".{_HF_BODY}")
            return root.removesuffix(_HF_BODY) if mark == HF_MARK and is_body else root
    return None
