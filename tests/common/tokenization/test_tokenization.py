"""WordPiece against its description, BERT's own tokenizer, and what offsets promise."""

import hashlib
import logging
import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.tokenization import get_tokenizer, wordpiece
from funnel.tokenization.train_vocab import VocabularyConfig, train_wordpiece
from funnel.tokenization.wordpiece import BasicTokenizer
from funnel.utils.errors import TokenizerError
from task_files import needs_real_data
from text_reference import (
    BERT_SPECIAL,
    CHARACTERS,
    CJK_BLOCKS,
    SPECIAL,
    basic_tokens,
    real_lines,
    small_vocabulary,
    texts,
    wordpiece_tokens,
    write_vocabulary,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tokenizer with a small vocabulary, for each case."""
    path = write_vocabulary(tmp_path_factory.mktemp("vocab") / "vocab.txt", small_vocabulary())
    return {uncased: get_tokenizer("word_piece", path, uncased) for uncased in (True, False)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A vocabulary learnt from real lines, so that words come out in all ways."""
    entries = train_wordpiece(real_lines(40), VocabularyConfig(vocab_size=3000))
    return write_vocabulary(tmp_path_factory.mktemp("vocab") / "real.txt", entries)


def read_vocabulary(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    return {piece: i for i, piece in enumerate(pieces)}


@pytest.mark.parametrize("uncased", [True, False])
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_generated_text_equals_the_reference(small, uncased, text):
    tokenizer = small[uncased]
    vocabulary = read_vocabulary(tokenizer)
    expected = wordpiece_tokens(text, vocabulary, uncased)
    assert tokenizer.tokenize(text) == expected
    assert tokenizer.encode(text) == [vocabulary[token] for token in expected]


@pytest.mark.parametrize("uncased", [True, False])
@needs_real_data
def test_real_lines_equal_the_reference(trained, uncased):
    tokenizer = get_tokenizer("word_piece", trained, uncased)
    vocabulary = read_vocabulary(tokenizer)
    lines = real_lines(97)
    assert len(lines) > 1000
    for line, ids in zip(lines, tokenizer.encode_batch(lines), strict=True):
        assert ids == [vocabulary[t] for t in wordpiece_tokens(line, vocabulary, uncased)], line


@pytest.mark.parametrize("uncased", [True, False])
@needs_real_data
def test_real_lines_equal_berts_own_tokenizer(tmp_path, trained, uncased):
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    entries = trained.read_text(encoding="utf-8").split()
    as_bert = dict(zip(["<unk>", "<cls>", "<sep>", "<pad>", "<mask>"], BERT_SPECIAL, strict=True))
    path = write_vocabulary(tmp_path / "bert.txt", [as_bert.get(e, e) for e in entries])
    # Split in two steps as it is done there; the class around them no longer loads a bare file.
    basic = legacy.BasicTokenizer(do_lower_case=uncased)
    vocabulary = {entry: i for i, entry in enumerate(path.read_text(encoding="utf-8").split())}
    pieces = legacy.WordpieceTokenizer(vocabulary, "[UNK]", max_input_chars_per_word=200)
    tokenizer = get_tokenizer("word_piece", path, uncased)
    for line in real_lines(101):
        expected = [p for word in basic.tokenize(line) for p in pieces.tokenize(word)]
        assert tokenizer.tokenize(line) == expected, line


def test_characters_differ_from_the_description_only_where_documented():
    """The library's Unicode tables are its own; docs/differences.md lists what follows."""
    basic = BasicTokenizer(uncased=True)
    old = unicodedata.ucd_3_2_0
    characters = [c for c in map(chr, range(0x30000)) if old.category(c) not in ("Cn", "Cs")]
    assert len(characters) > 90_000
    different = [c for c in characters if basic.split(f"a{c}b") != basic_tokens(f"a{c}b", True)]
    # Canadian syllabics chi sign, Hanunoo pamudpod, two Mongolian letters that became marks.
    assert set(different) <= {"\u166d", "\u1734", "\u1885", "\u1886"}


def test_library_leaves_out_the_first_ideographs_of_one_block():
    first, last = CJK_BLOCKS[5]
    basic = BasicTokenizer(uncased=True)
    assert basic.split(f"a{chr(first)}") == [f"a{chr(first)}"]
    assert basic.split(f"a{chr(first + 256)}{chr(last)}") == ["a", chr(first + 256), chr(last)]


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.one_of(texts, st.text(max_size=30)), max_size=5))
def test_batch_single_and_offsets_agree(small, lines):
    for tokenizer in small.values():
        rows = tokenizer.encode_batch(lines)
        assert rows == [tokenizer.encode(line) for line in lines]
        assert rows == [tokenizer.encode_with_offsets(line)[0] for line in lines]


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_offsets_point_at_the_text_of_their_token(small, text):
    for uncased, tokenizer in small.items():
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert tokenizer.offsets(text) == offsets
        tokens = tokenizer.convert_ids_to_tokens(ids)
        starts = [start for start, _ in offsets]
        assert starts == sorted(starts)  # equal where one character became several tokens
        for token, (start, end) in zip(tokens, offsets, strict=True):
            assert 0 <= start < end <= len(text)
            cut = "".join(basic_tokens(text[start:end], uncased))
            assert token == "<unk>" or token.removeprefix("##") in cut
        # No accent after a token is left out, and nothing that yields a token by itself.
        covered = {i for start, end in offsets for i in range(start, end)}
        for i in set(range(len(text))) - covered:
            assert not basic_tokens(text[i], uncased)
            is_accent = uncased and unicodedata.category(text[i]) == "Mn"
            assert not (is_accent and i - 1 in covered)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\u00e9 x", ["caf\u00e9", "x"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),  # the accent is dropped and still part of the word
        ("cafe\u0301\u0323", ["cafe\u0301\u0323"]),
        ("x\u4e2d\u0301x", ["x", "\u4e2d\u0301", "x"]),
        ("x\x00x\ufffd x\u200bx", ["x\x00x", "x\u200bx"]),
        ("\u0301x", ["x"]),
        ("  x.\u0301 ", ["x", ".\u0301"]),
        ("\ud800x \udc00", ["x"]),
        ("", []),
        (" \t\u3000\u2028", []),
    ],
)
def test_offsets_of_words(tmp_path, text, expected):
    words = ["cafe", "x", "##x", "xx", ".", "\u4e2d"]
    path = write_vocabulary(tmp_path / "v.txt", SPECIAL + words)
    tokenizer = get_tokenizer("word_piece", path)
    assert [text[start:end] for start, end in tokenizer.offsets(text)] == expected
    assert "<unk>" not in tokenizer.tokenize(text)


def test_cased_accent_that_is_a_piece_keeps_its_own_place(tmp_path):
    path = write_vocabulary(tmp_path / "v.txt", [*SPECIAL, "e", "##\u0301"])
    tokenizer = get_tokenizer("word_piece", path, uncased=False)
    assert tokenizer.offsets("e\u0301") == [(0, 1), (1, 2)]


def test_special_tokens_in_a_text_are_text(small):
    tokens = small[True].tokenize("<cls> [CLS] a")
    assert tokens[0] == "<" and tokens[-1] == "a" and "<cls>" not in tokens


@pytest.mark.parametrize(("length", "known"), [(199, True), (200, True), (201, False)])
def test_words_beyond_200_characters_are_unknown(small, length, known):
    tokens = small[True].tokenize("a" * length)
    assert (tokens != ["<unk>"]) == known
    # Also where the word itself is an entry of the vocabulary.
    assert "x" * 201 in read_vocabulary(small[True])
    assert small[True].tokenize("x" * 201) == ["<unk>"]


def test_both_spellings_of_the_special_tokens(tmp_path, caplog):
    path = write_vocabulary(tmp_path / "v.txt", [*SPECIAL, "a"])
    special = get_tokenizer("word_piece", path).special
    assert (special.unk_id, special.bos_id, special.cls_id, special.eop_id) == (0, 1, 3, 8)
    assert not caplog.records

    path = write_vocabulary(tmp_path / "b.txt", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    with caplog.at_level(logging.WARNING):
        tokenizer = get_tokenizer("word_piece", path)
    special = tokenizer.special
    assert (special.pad_id, special.unk_id, special.cls_id, special.mask_id) == (0, 1, 2, 4)
    assert special.bos_id is None and special.eod_id is None
    assert [tokenizer.is_func_id(i) for i in range(6)] == [True, False, True, True, True, False]
    assert tokenizer.encode("a b") == [5, 1]
    assert "b.txt" in caplog.text and "<s> </s> <eod> <eop>" in caplog.text


@pytest.mark.parametrize("absent", ["<unk>", "<cls>", "<sep>", "<pad>", "<mask>"])
def test_a_required_token_that_is_absent_is_an_error(tmp_path, absent):
    entries = [entry for entry in SPECIAL if entry != absent]
    path = write_vocabulary(tmp_path / "v.txt", entries)
    with pytest.raises(TokenizerError, match=f"v.txt: the vocabulary lacks {absent};"):
        get_tokenizer("word_piece", path)


def test_ids_count_distinct_lines(tmp_path, caplog):
    path = write_vocabulary(tmp_path / "v.txt", [*SPECIAL, "a", "b", "a", "c"])
    tokenizer = get_tokenizer("word_piece", path)
    assert tokenizer.encode("a b c") == [9, 10, 11]
    assert tokenizer.vocab_size == 12
    assert "1 repeated lines" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "v.txt: the vocabulary file is empty"),
        (b"<unk>\n\na\n", "v.txt, line 2: blank line"),
        (b"\n<unk>\n", "v.txt, line 1: blank line"),
        (b"<unk>\n\xff\xfe\n", "v.txt: not a UTF-8 text file"),
    ],
)
def test_a_damaged_vocabulary_is_an_error(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        get_tokenizer("word_piece", tmp_path / "v.txt")


def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    content = "\ufeff" + "\r\n".join([*SPECIAL, "a"]) + "\r\n\r\n\n"
    (tmp_path / "v.txt").write_text(content, encoding="utf-8", newline="")
    tokenizer = get_tokenizer("word_piece", tmp_path / "v.txt")
    assert tokenizer.encode("a") == [9] and tokenizer.vocab_size == 10


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match="none.txt: the vocabulary cannot be read"):
        get_tokenizer("word_piece", tmp_path / "none.txt")
    with pytest.raises(TokenizerError, match="the vocabulary cannot be read"):
        get_tokenizer("word_piece", tmp_path)
    with pytest.raises(TokenizerError, match="no vocabulary given"):
        get_tokenizer("word_piece", "")
    with pytest.raises(TokenizerError, match="'bpe' is unknown; it is word_piece or sent_piece"):
        get_tokenizer("bpe", tmp_path / "v.txt")


def test_start_and_functional_ids(small):
    tokenizer = small[True]
    vocabulary = read_vocabulary(tokenizer)
    for piece, i in vocabulary.items():
        assert tokenizer.is_start_id(i) == (not piece.startswith("##"))
        assert tokenizer.is_func_id(i) == (piece in SPECIAL and piece != "<unk>")


def test_decode_is_readable(tmp_path):
    words = ["we", "know", "that", "isn", "t", "it", "good", "a", "##b", "##c", *",'()?"]
    tokenizer = get_tokenizer(
        "word_piece", write_vocabulary(tmp_path / "v.txt", [*SPECIAL, *words])
    )
    text = "<cls> abc we know that, isn't it (good)? <sep>"
    ids = [3, *tokenizer.encode("abc we know that, isn't it (good)?"), 4]
    assert tokenizer.decode(ids) == text
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"no token has the id {wrong}"):
            tokenizer.decode([wrong])


def test_fingerprint_tells_kind_case_and_content(tmp_path, small):
    one = write_vocabulary(tmp_path / "one.txt", [*SPECIAL, "a"])
    two = write_vocabulary(tmp_path / "two.txt", [*SPECIAL, "b"])
    prints = [
        get_tokenizer("word_piece", path, uncased).fingerprint
        for path in (one, two)
        for uncased in (True, False)
    ]
    assert len(set(prints)) == 4
    assert get_tokenizer("word_piece", one).fingerprint == prints[0]
    assert all(len(p) == hashlib.sha256().digest_size * 2 for p in prints)


def test_a_pickled_tokenizer_gives_the_same_and_carries_no_cache(small):
    tokenizer = small[True]
    empty = len(pickle.dumps(tokenizer))
    ids = tokenizer.encode_batch([CHARACTERS, "abc ab ca bca " * 20])
    data = pickle.dumps(tokenizer)
    assert len(data) == empty
    copy = pickle.loads(data)
    assert copy.encode_batch([CHARACTERS, "abc ab ca bca " * 20]) == ids
    assert copy.special == tokenizer.special and copy.fingerprint == tokenizer.fingerprint


def test_the_cache_of_chunks_is_bounded_and_changes_nothing(monkeypatch, small):
    monkeypatch.setattr(wordpiece, "CACHE_ENTRIES", 3)
    tokenizer = pickle.loads(pickle.dumps(small[True]))
    lines = ["ab abc bca cab a.b " * 3, "abc" * 20 + " é ñ abc" * 2]
    expected = [tokenizer.encode_with_offsets(line)[0] for line in lines]
    assert [tokenizer.encode(line) for line in lines] == expected
    assert 0 < len(tokenizer._cache) <= 3
    assert all(len(chunk) <= wordpiece.CACHED_CHUNK_LENGTH for chunk in tokenizer._cache)
