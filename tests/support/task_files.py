"""Small task files, a tokenizer without vocabulary, and the path of the real data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

DATA = Path(os.environ.get("FUNNEL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))

needs_real_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real data in {DATA} (set FUNNEL_TEST_DATA)"
)


def write(path: Path, content: str | bytes) -> Path:
    """Write a file byte for byte, with its parent directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(*rows: str, header: str = "") -> str:
    """Return a tab-separated file; rows are given with blanks as separators."""
    lines = [header, *rows] if header else rows
    return "".join(line.replace(" ", "\t") + "\n" for line in lines)


RTE_HEADER = "index sentence1 sentence2 label"


def rte_rows(count: int, start: int = 0) -> list[str]:
    return [f"{i} a{i} b{i} entailment" for i in range(start, start + count)]


class LetterTokenizer:
    """One token per non-blank character, with its code point as id; counts encoded texts."""

    def __init__(self, name: str = "letters"):
        self.special = SimpleNamespace(cls_id=1, sep_id=2, pad_id=0, unk_id=3)
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.path = name
        self.encoded = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.encoded += len(texts)
        return [[ord(letter) for letter in text if not letter.isspace()] for text in texts]
