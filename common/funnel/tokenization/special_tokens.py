"""Special tokens in their two spellings, and their ids in a vocabulary.

Released Funnel vocabularies have nine, spelled ``<cls>``; BERT vocabularies have five, spelled
``[CLS]``. Both kinds load.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

from funnel.utils.errors import TokenizerError

logger = logging.getLogger(__name__)

# Name -> token, in the order of their ids in a new vocabulary.
FUNNEL_TOKENS: dict[str, str] = {
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
BERT_TOKENS: dict[str, str] = {
    **FUNNEL_TOKENS,
    **{name: f"[{name.upper()}]" for name in REQUIRED},
}


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids of the special tokens of a vocabulary; ``None`` for an optional token that is absent."""

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
        """Ids of the tokens that represent no text: all but unk."""
        ids = (getattr(self, field.name) for field in fields(self) if field.name != "unk_id")
        return frozenset(i for i in ids if i is not None)


def find_special_ids(
    vocabulary: Mapping[str, int], path: str, named: Mapping[str, str] | None = None
) -> SpecialIds:
    """Find the special tokens of a vocabulary, in the spelling of which it has more.

    Args:
        vocabulary: token -> id.
        path: file of the vocabulary, for messages.
        named: name -> token, which precede the usual spellings if the vocabulary has them.

    Raises:
        TokenizerError: a required token (unk, cls, sep, pad, mask) is absent in that spelling.
    """
    spellings = max(
        (FUNNEL_TOKENS, BERT_TOKENS),
        key=lambda tokens: sum(tokens[name] in vocabulary for name in REQUIRED),
    )
    spellings = spellings | {n: token for n, token in (named or {}).items() if token in vocabulary}
    ids = {name: vocabulary.get(token) for name, token in spellings.items()}
    required = {name: i for name in REQUIRED if (i := ids[name]) is not None}
    if lacking := [spellings[name] for name in REQUIRED if name not in required]:
        needed = [" ".join(s[name] for name in REQUIRED) for s in (FUNNEL_TOKENS, BERT_TOKENS)]
        raise TokenizerError(
            f"{path}: the vocabulary lacks {', '.join(lacking)}; "
            f"it must hold {needed[0]} or {needed[1]}"
        )
    if absent := [spellings[name] for name, i in ids.items() if i is None]:
        logger.warning("%s: optional special tokens are absent: %s", path, " ".join(absent))
    return SpecialIds(
        unk_id=required["unk"],
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        cls_id=required["cls"],
        sep_id=required["sep"],
        pad_id=required["pad"],
        mask_id=required["mask"],
        eod_id=ids["eod"],
        eop_id=ids["eop"],
    )
