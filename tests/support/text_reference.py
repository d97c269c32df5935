"""A slow reference implementation of WordPiece, and texts for the tests of tokenizers."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from task_files import DATA

# Blocks of CJK ideographs; in the fifth the library starts 256 characters late (U+2B920).
CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Characters of several scripts, all older than the library's Unicode tables, with everything that
# the steps treat specially: controls, marks, blanks of all kinds, CJK, long lower cases.
CHARACTERS = (
    "abcXYZ019 .,-'`\"#<>[]\t\n\r\x00\x01\x1c\x7f\x85\xa0\xad\ufeff\ufffd"
    "éÉñüßÅøŒœİıǅŉ\u0301\u0302\u0323\u0345ΑΒΣσςάЖжйЇאבּشَ\u0652अ\u093fकไ\u0e31한글\u1100\u1161"
    "中国日本かなカ。、「」“”‘’…–—₤€½²ﬁ，１\u200b\u200d\u2028\u2003\u3000😀👍🏽𝒳\U00020000"
)
texts = st.text(st.sampled_from(CHARACTERS), max_size=40)

SPECIAL = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
BERT_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def small_vocabulary() -> list[str]:
    """Return entries with which words of CHARACTERS become one piece, several pieces or unknown."""
    letters = dict.fromkeys(
        "".join(basic_tokens(CHARACTERS, True) + basic_tokens(CHARACTERS, False))
    )
    rare = set("øŒœ글")
    kept = [letter for letter in letters if letter not in rare]
    inner = [letter for letter in kept if letter.isalpha() and letter != "X"]
    longer = ["ab", "##ab", "abc", "##bc", "##e\u0301", "中国", "x" * 201, "##c0"]
    return [*SPECIAL, *kept, *(f"##{letter}" for letter in inner), *longer]


def basic_tokens(text: str, uncased: bool) -> list[str]:
    """Clean, put blanks around CJK, lower-case, strip accents, split at punctuation."""
    spaced = "".join(_cleaned(char) for char in text)
    tokens = []
    for word in spaced.split():
        if uncased:
            word = "".join(char.lower() for char in word)
            decomposed = unicodedata.normalize("NFD", word)
            word = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
        tokens += "".join(f" {c} " if _is_punctuation(c) else c for c in word).split()
    return tokens


def wordpiece_tokens(text: str, vocabulary: Mapping[str, int], uncased: bool) -> list[str]:
    """Match the longest known piece first; a word with an unknown part is unknown."""
    tokens = []
    for word in basic_tokens(text, uncased):
        tokens += _pieces(word, vocabulary) if len(word) <= 200 else [SPECIAL[0]]
    return tokens


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                start = end
                break
        else:
            return [SPECIAL[0]]
    return pieces


def _cleaned(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return " "
    # The library also drops private-use characters (Co); surrogates (Cs) are not characters.
    if char == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
        return ""
    return f" {char} " if any(a <= ord(char) <= b for a, b in CJK_BLOCKS) else char


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if code < 128:
        return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return unicodedata.category(char).startswith("P")


def write_vocabulary(path: Path, entries: list[str]) -> Path:
    """Write a vocabulary file, one entry a line."""
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return path


def real_lines(step: int = 1) -> list[str]:
    """Return every ``step``-th line of real text of several kinds."""
    names = [
        "corpus/wiki_articles.txt",
        "glue/CoLA/train.tsv",
        "glue/QQP/train.tsv",
        "text_cls/ag_news/test.csv",
        "wikitext2/valid.txt",
    ]
    lines: list[str] = []
    for name in names:
        lines += (DATA / name).read_text(encoding="utf-8").split("\n")[::step]
    return lines
