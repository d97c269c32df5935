"""Small corpora with a vocabulary, and a tokenizer whose process is killed, for corpus tests."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from funnel.tokenization import Tokenizer, get_tokenizer
from funnel.tokenization.wordpiece import WordPieceTokenizer

SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
# Words of one, two and three tokens, so that positions of tokens and of words differ.
PIECES = (*"abcdefgh", "##x", "##y", ".")
WORDS = (*"abcdefgh", "ax", "bxy", "cy", "dyx", "zzz", ".")


class DeadlyTokenizer(WordPieceTokenizer):
    """Kills its own process in use, as the system does when memory runs out."""

    def encode_batch(self, texts):
        os.kill(os.getpid(), signal.SIGKILL)


def write_vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(SPECIAL + PIECES) + "\n")
    return path


def tiny_tokenizer(folder: Path) -> Tokenizer:
    return get_tokenizer("word_piece", write_vocabulary(folder))


def random_documents(seed: int, documents: int, sentences: int, words: int) -> list[list[str]]:
    """Return documents of 1 to ``sentences`` sentences of 1 to ``words`` words."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, words)))

    return [[sentence() for _ in range(rng.randint(1, sentences))] for _ in range(documents)]


def write_text(path: Path, documents: list[list[str]], end: str = "\n") -> Path:
    """Write one sentence per line, an empty line between documents, ``end`` after the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join("\n".join(d) for d in documents) + end, newline="")
    return path
