"""SentencePiece with small models trained here, against a slow implementation of its rules."""

import io
import pickle
import string
import unicodedata

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.tokenization import get_tokenizer
from funnel.tokenization.normalization import normalize, normalize_aligned
from funnel.tokenization.special_tokens import FUNNEL_TOKENS
from funnel.utils.errors import TokenizerError
from task_files import needs_real_data
from text_reference import SPECIAL, real_lines, texts

SENTENCES = [
    "on may 5, 1999, about 12,000, 13,000, and 3, people came to see the funnel",
    'the year was 1999, the month was 5, and the funnel\'s "name" was not known',
    "we saw 3, 5, or 12, of them; the others (about 1,000) stayed at home, in 1999",
    "Funnels are Useful, and Transformers too: a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "0 1 2 3 4 5 6 7 8 9 ! ? - . ' \" ( ) : ; e\u0301 caf\u00e9 \u03c3\u03c2\u03b1 \u4e2d\u56fd",
]
numbers = st.lists(
    st.sampled_from(["1999,", "5,", "12,000,", "3", ",", "the", "funnel", " ", "x5,", "\u0663,"]),
    max_size=8,
).map("".join)


def train(path, sentences=SENTENCES, **options):
    """Write a model of a few sentences; options as the trainer calls them."""
    settings_ = {
        "vocab_size": 150,
        "hard_vocab_limit": False,
        "pad_id": -1,
        "control_symbols": SPECIAL[3:],
        "minloglevel": 2,
        "num_threads": 1,
        "split_by_number": False,
        "split_by_unicode_script": False,
    } | options
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20), model_writer=model, **settings_
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train(tmp_path_factory.mktemp("spm") / "spiece.model")


@pytest.fixture(scope="module")
def tokenizer(model):
    return get_tokenizer("sent_piece", model)


def reference_normalize(text, uncased, keep_accents):
    text = " ".join(text.split())
    for quote in ("“", "”", "``", "''"):
        text = text.replace(quote, '"')
    text = text.replace("‘", "'").replace("’", "'")
    if not keep_accents:
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not unicodedata.combining(c))
    return text.lower() if uncased else text


def reference_pieces(processor, text, uncased=True, keep_accents=False):
    """Apply the digit-comma rule to strings, without offsets."""
    result = []
    for piece in processor.encode(reference_normalize(text, uncased, keep_accents), out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            again = processor.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁" and again[0][0] == "▁":
                again[0] = again[0][1:]
                again = [part for part in again if part]
            result += [*again, ","]
        else:
            result.append(piece)
    return result


def check_equal(tokenizer, processor, text, **options):
    expected = reference_pieces(processor, text, **options)
    ids = [processor.piece_to_id(piece) for piece in expected]
    assert tokenizer.tokenize(text) == expected
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode_with_offsets(text)[0] == ids


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(texts, numbers))
def test_generated_text_equals_the_reference(tokenizer, text):
    check_equal(tokenizer, tokenizer._processor, text)


@pytest.mark.parametrize(("uncased", "keep_accents"), [(False, False), (True, True), (False, True)])
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(texts, numbers))
def test_case_and_accents_can_be_kept(model, uncased, keep_accents, text):
    tokenizer = get_tokenizer("sent_piece", model, uncased, keep_accents)
    check_equal(tokenizer, tokenizer._processor, text, uncased=uncased, keep_accents=keep_accents)


@needs_real_data
def test_real_lines_equal_the_reference(tokenizer):
    lines = real_lines(499)
    for line, ids in zip(lines, tokenizer.encode_batch(lines), strict=True):
        processor = tokenizer._processor
        assert ids == [processor.piece_to_id(p) for p in reference_pieces(processor, line)]


def test_the_models_here_have_pieces_with_digit_and_comma(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    ends = [p for p in pieces if len(p) > 1 and p[-1] == "," and p[-2].isdigit()]
    assert any(p.startswith("▁") for p in ends) and any(not p.startswith("▁") for p in ends)
    assert not {*ends} & {*tokenizer.tokenize("12,000, 5, 1999,")}


def test_unknown_comma_is_split_off_too(tmp_path):
    """Unknown characters are joined into one token, which can end in a digit and a comma."""
    path = train(tmp_path / "m", ["a funnel without marks", "a 1 2 3"], vocab_size=40)
    tokenizer = get_tokenizer("sent_piece", path)
    for text in ("a \u0663\u0663, a", "7,8,", "\u0663,", "5,000,", "1,"):
        check_equal(tokenizer, tokenizer._processor, text)
    text = "a \u0663\u0663, a"
    tokens = [token.strip("▁") for token in tokenizer.tokenize(text)]
    assert [token for token in tokens if token] == ["a", "\u0663\u0663", ",", "a"]
    assert tokenizer.encode(text).count(tokenizer.special.unk_id) == 2
    cuts = [text[start:end] for start, end in tokenizer.offsets(text)]
    assert [cut for cut in cuts if cut] == ["a", "\u0663\u0663", ",", "a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a \t\n b\u3000 ", "a b"),
        ("“a” ``b'' ‘c’", '"a" "b" \'c\''),
        ("'''", "\"'"),
        ("’’ ’'", "'' ''"),
        ("Caf\u00e9 e\u0301 \u00c5", "cafe e a"),
        ("½ ﬁ ㎏", "1⁄2 fi kg"),
        ("ΣΑΣ", "σας"),
        ("İ", "i"),
    ],
)
def test_normalization(text, expected):
    assert normalize(text, uncased=True) == expected


def test_accents_go_from_cased_text_too_unless_they_are_kept():
    assert normalize("Caf\u00e9 ½", uncased=False) == "Cafe 1⁄2"
    assert normalize("Caf\u00e9 ½", uncased=False, keep_accents=True) == "Caf\u00e9 ½"
    assert normalize("İ", uncased=True, keep_accents=True) == "i\u0307"


@settings(max_examples=200, deadline=None)
@given(text=texts, uncased=st.booleans(), keep_accents=st.booleans())
def test_alignment_covers_the_text(text, uncased, keep_accents):
    aligned = normalize_aligned(text, uncased, keep_accents)
    assert aligned.text == normalize(text, uncased, keep_accents)
    assert aligned.text == reference_normalize(text, uncased, keep_accents)
    assert len(aligned.starts) == len(aligned.ends) == len(aligned.text)
    assert aligned.starts == sorted(aligned.starts) and aligned.ends == sorted(aligned.ends)
    for char, start, end in zip(aligned.text, aligned.starts, aligned.ends, strict=True):
        again = reference_normalize(text[start:end], uncased, keep_accents)
        # A sigma alone has another lower case than one at the end of a word.
        assert char == " " or char.replace("ς", "σ") in again.replace("ς", "σ")


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(texts, numbers))
def test_offsets_point_at_the_text_of_their_token(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    tokens = tokenizer.tokenize(text)
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
    for token, i, (start, end) in zip(tokens, ids, offsets, strict=True):
        assert 0 <= start <= end <= len(text)
        cut = text[start:end]
        assert cut == cut.strip()
        if i != tokenizer.special.unk_id and token != "▁":
            # The model folds some characters further, e.g. a fraction slash.
            folded = reference_normalize(unicodedata.normalize("NFKC", cut), True, False)
            assert token.strip("▁").replace("ς", "σ") in folded.replace("ς", "σ")


@pytest.mark.parametrize(
    "text",
    [
        "  On “May” 5,  1999,\tabout 12,000, people",
        "``Caf\u00e9'' e\u0301\u0323 ½\u0301 İx",
        "\U0001d4b3 1999, \U0001f600 5,",
        "\ud800the\udfff\u200b 5,",
    ],
)
def test_offsets_of_known_texts(tokenizer, text):
    offsets = tokenizer.offsets(text)
    covered = {i for start, end in offsets for i in range(start, end)}
    # Every visible character belongs to some token, accents included.
    invisible = " \t\u200b\ud800\udfff"
    assert covered == {i for i, char in enumerate(text) if char not in invisible}


def test_comma_and_number_have_offsets_of_their_own(tokenizer):
    text = "Was  12,000, \u0665"
    cuts = [text[start:end] for start, end in tokenizer.offsets(text)]
    assert cuts[0].startswith("W") and "".join(cuts) == text.replace(" ", "")
    assert [cut for cut in cuts if cut][-2:] == [",", "\u0665"]


def test_starts_of_words_and_functional_ids(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    for i, piece in enumerate(pieces):
        if piece in SPECIAL:
            assert not tokenizer.is_start_id(i)
            assert tokenizer.is_func_id(i) == (piece != "<unk>")
        else:
            is_mark = piece in set(string.punctuation) - {"'"}
            assert tokenizer.is_start_id(i) == (piece.startswith("▁") or is_mark)
            assert not tokenizer.is_func_id(i)
    assert {"'", ",", "."} <= set(pieces)


def test_the_model_decides_about_special_tokens_in_a_text(tmp_path, tokenizer):
    assert tokenizer.special.cls_id not in tokenizer.encode("a <cls> b")
    user_defined = {"control_symbols": SPECIAL[5:], "user_defined_symbols": ["<cls>", "<sep>"]}
    path = train(tmp_path / "m", **user_defined)
    other = get_tokenizer("sent_piece", path)
    assert other.special.cls_id in other.encode("a <cls> b")


def test_special_tokens_are_those_of_the_model(tmp_path, model, tokenizer, caplog):
    names = list(FUNNEL_TOKENS)
    assert [getattr(tokenizer.special, f"{name}_id") for name in names] == list(range(9))
    assert not caplog.records

    path = train(tmp_path / "m", control_symbols=["<cls>", "<sep>", "<pad>", "<mask>"])
    assert get_tokenizer("sent_piece", path).special.eod_id is None
    assert "<eod> <eop>" in caplog.text

    path = train(tmp_path / "u", unk_piece="unknown")
    assert get_tokenizer("sent_piece", path).special.unk_id == 0

    path = train(tmp_path / "n", control_symbols=["<cls>", "<sep>", "<mask>"])
    with pytest.raises(TokenizerError, match="lacks <pad>"):
        get_tokenizer("sent_piece", path)


def test_a_file_that_is_no_model_is_an_error(tmp_path, model):
    (tmp_path / "v.txt").write_text("\n".join(SPECIAL), encoding="utf-8")
    with pytest.raises(TokenizerError, match="v.txt: not a SentencePiece model"):
        get_tokenizer("sent_piece", tmp_path / "v.txt")
    (tmp_path / "cut.model").write_bytes(model.read_bytes()[:1000])
    with pytest.raises(TokenizerError, match="cut.model"):
        get_tokenizer("sent_piece", tmp_path / "cut.model")
    with pytest.raises(TokenizerError, match="not a UTF-8 text file.*sent_piece"):
        get_tokenizer("word_piece", model)


def test_decode_is_readable(tokenizer):
    special = tokenizer.special
    ids = tokenizer.encode("The funnel's 5, 1999")
    ids = [special.cls_id, *ids, special.unk_id, special.sep_id]
    assert tokenizer.decode(ids) == "<cls> the funnel's 5, 1999 <unk> <sep>"
    with pytest.raises(TokenizerError, match="no token has the id"):
        tokenizer.decode([tokenizer.vocab_size])


def test_a_pickled_tokenizer_gives_the_same(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "On May 5, 1999, caf\u00e9"
    assert copy.encode_with_offsets(text) == tokenizer.encode_with_offsets(text)
    assert copy.fingerprint == tokenizer.fingerprint


def test_fingerprint_tells_case_and_accents(model):
    prints = {
        get_tokenizer("sent_piece", model, uncased, keep).fingerprint
        for uncased in (True, False)
        for keep in (True, False)
    }
    assert len(prints) == 4
