"""A compressed vocabulary is refused in one line that says how to unpack it."""

import bz2
import gzip
import lzma

import pytest

from funnel import get_tokenizer
from funnel.utils.errors import TokenizerError

WORDS = "".join(f"{word}\n" for word in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "end"))


@pytest.mark.parametrize("kind", ["word_piece", "sent_piece"])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["vocab.txt", "vocab.txt.gz"])
def test_it_is_named(tmp_path, kind, compress, name):
    path = tmp_path / name
    path.write_bytes(compress(WORDS.encode()))
    with pytest.raises(TokenizerError) as caught:
        get_tokenizer(kind, path)
    assert str(caught.value).startswith(f"{path}: the vocabulary is compressed; unpack it first")
    assert "\n" not in str(caught.value)


def test_a_token_that_begins_like_bzip2_is_text(tmp_path):
    (tmp_path / "vocab.txt").write_text(f"BZh9\n{WORDS}")
    assert get_tokenizer("word_piece", tmp_path / "vocab.txt").encode("end") == [6]
