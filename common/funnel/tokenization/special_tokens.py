"""The nine special symbols, their two spellings, and which of them a vocabulary holds.

Released vocabularies spell them ``<cls>``; a vocabulary made for BERT spells five of them ``[CLS]``
and lacks the others. Both load.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

from funnel.utils.errors import TokenizerError

logger = logging.getLogger(__name__)

# Name -> spelling, in the order in which a new vocabulary starts with them.
FUNNEL_SYMBOLS: dict[str, str] = {
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "cls": "<cls>",
    "sep": "<sep>",
    "pad": "<pad>",
    "mask": "<mask>",
    "eod": "<eod>",
    "eop": "<eop>",
}
REQUIRED = ("unk", "cls", "sep", "pad", "mask")
BERT_SYMBOLS: dict[str, str] = {
    **FUNNEL_SYMBOLS,
    **{name: f"[{name.upper()}]" for name in REQUIRED},
}


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids of the special symbols in one vocabulary; None for an optional one it lacks."""

    unk_id: int
    bos_id: int | None
    eos_id: int | None
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    eod_id: int | None
    eop_id: int | None

    @property
    def functional(self) -> frozenset[int]:
        """Ids of the symbols that stand for no text: all but unk."""
        ids = (getattr(self, field.name) for field in fields(self) if field.name != "unk_id")
        return frozenset(i for i in ids if i is not None)


def find_special_ids(vocabulary: Mapping[str, int], path: str) -> SpecialIds:
    """Find the special symbols of a vocabulary, in whichever spelling it has more of.

    Args:
        vocabulary: token -> id.
        path: file the vocabulary came from, for messages.

    Raises:
        TokenizerError: a required symbol (unk, cls, sep, pad, mask) is absent in that spelling.
    """
    spellings = max(
        (FUNNEL_SYMBOLS, BERT_SYMBOLS),
        key=lambda names: sum(names[name] in vocabulary for name in REQUIRED),
    )
    absent = [name for name, symbol in spellings.items() if symbol not in vocabulary]
    lacking = [spellings[name] for name in absent if name in REQUIRED]
    if lacking:
        needed = [" ".join(s[name] for name in REQUIRED) for s in (FUNNEL_SYMBOLS, BERT_SYMBOLS)]
        raise TokenizerError(
            f"{path}: the vocabulary lacks {', '.join(lacking)}; "
            f"it must hold {needed[0]} or {needed[1]}"
        )
    if absent:
        missing = " ".join(spellings[name] for name in absent)
        logger.warning("%s: no symbol %s; going on without", path, missing)
    return SpecialIds(
        **{f"{name}_id": vocabulary.get(symbol) for name, symbol in spellings.items()}
    )
