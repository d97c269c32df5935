"""Saved tokenizers: transformers on our directories, and we on directories of transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from funnel import get_tokenizer
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.inputs import SegmentIds, TokenizerRequest
from funnel.config.model import ModelConfig
from funnel.features.classification import encode_examples
from funnel.tasks import Example
from funnel.tokenization.choice import open_tokenizer
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from funnel_torch import FunnelForSequenceClassification

pytestmark = pytest.mark.slow

ANGLE = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
SQUARE = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
WORDS = [
    "red",
    "green",
    "blue",
    "warm",
    "cold",
    "Warm",
    "Red",
    "fun",
    "##nel",
    "café",
    "cafe",
    "na",
    "§",
    "cls",
]
WORDS += [*".,!'<>[]"]
LETTERS = [x for c in "abcdefghijklmnopqrstuvwxyzABCX0123456789" for x in (c, f"##{c}")]
LINES = [
    "red warm blue cold, the funnels are Red and WARM in the caf\u00e9!",
    "green cold red: it isn't \u201cquoted\u201d; a naive \u0133 test of 12 words and 3 blanks .",
]
SINGLES = [
    "red warm blue",
    "Red WARM Caf\u00e9 cafe\u0301 funnels na\u00efve",
    "a\u00a0b\u3000c\u2028d  \t e \u4e2d\u6587",
    "<cls> [CLS] <mask> [MASK] red<sep>blue </s>",
    "x" * 150 + " red " + "q" * 230,
    "It's a, b. \U0001f600 \u03a3\u039f\u03a3 x1,2",
]
PAIRS = [
    ("red warm blue cold", "cold green"),
    ("Fun WARM", "a b c , . ! red Red"),
    ("a", "b c d e"),
]
KINDS = {
    "uncased": ("word_piece", ANGLE, True),
    "cased": ("word_piece", ANGLE, False),
    "uncased_bert": ("word_piece", SQUARE, True),
    "cased_bert": ("word_piece", SQUARE, False),
    "sentencepiece": ("sent_piece", (), True),
    "sentencepiece_cased": ("sent_piece", (), False),
}


def make_tokenizer(kind, folder):
    """Return our tokenizer of a kind, with its file in a folder."""
    kind, special, uncased = KINDS[kind]
    if kind == "word_piece":
        (folder / "v.txt").write_text("\n".join([*special, *WORDS, *LETTERS]) + "\n")
        return get_tokenizer(kind, folder / "v.txt", uncased)
    config = VocabularyConfig(kind, 90, uncased)
    build_vocabulary([text.replace(",", " ") for text in LINES] * 5, folder / "x.model", config)
    return get_tokenizer(kind, folder / "x.model", uncased)


def make_config(size):
    return ModelConfig(
        size, d_model=24, d_embed=24, n_head=2, d_head=12, d_inner=32, block_size="1_1"
    )


def make_model(size):
    torch.manual_seed(0)
    model = FunnelForSequenceClassification(make_config(size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return model


def encode(tokenizer, text, pair=None):
    """Return our input of one example, as keyword arguments of a model."""
    features = encode_examples([Example(text, pair, None)], tokenizer, 512, tokenizer.segments)
    ids, segments = features.row(0)
    as_tensor = lambda values: torch.tensor(values.astype(np.int64))[None]  # noqa: E731
    return {"input_ids": as_tensor(ids), "token_type_ids": as_tensor(segments)}


def assert_same(ours, theirs, our_model, their_model):
    """Compare ids, segment ids and logits of all texts, unpadded."""
    for text, pair in [*((text, None) for text in SINGLES), *PAIRS]:
        mine, other = encode(ours, text, pair), theirs(text, pair, return_tensors="pt")
        assert mine["input_ids"].tolist() == other["input_ids"].tolist(), (text, pair)
        assert mine["token_type_ids"].tolist() == other["token_type_ids"].tolist(), (text, pair)
        if mine["input_ids"].shape[1] < 4:
            continue
        with torch.inference_mode():
            found, wanted = our_model(**mine).logits, their_model(**other).logits
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def load_theirs(path):
    auto = transformers.AutoModelForSequenceClassification
    return transformers.AutoTokenizer.from_pretrained(path), auto.from_pretrained(path).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_on_our_directory(tmp_path, kind):
    ours = make_tokenizer(kind, tmp_path)
    model = make_model(ours.vocab_size)
    model.save_pretrained(tmp_path / "m", tokenizer=ours)
    theirs, their_model = load_theirs(tmp_path / "m")
    assert len(theirs) == ours.vocab_size
    assert_same(ours, theirs, model, their_model)
    again = open_tokenizer(TokenizerRequest(), [tmp_path / "m"])
    assert again.fingerprint == ours.fingerprint
    # The model remembers the tokenizer of the directory it is from.
    loaded = FunnelForSequenceClassification.from_pretrained(tmp_path / "m")
    loaded.save_pretrained(tmp_path / "again")
    again = open_tokenizer(TokenizerRequest(), [tmp_path / "again"])
    assert again.fingerprint == ours.fingerprint
    # A directory that they write back, without our vocabulary file.
    theirs.save_pretrained(tmp_path / "back")
    their_model.save_pretrained(tmp_path / "back")
    back = open_tokenizer(TokenizerRequest(), [tmp_path / "back"])
    assert_same(back, load_theirs(tmp_path / "back")[0], model, their_model)
    assert back.uncased == ours.uncased


@pytest.mark.parametrize("kind", ["uncased", "cased", "uncased_bert", "cased_bert"])
@pytest.mark.parametrize("added", [False, True], ids=["plain", "added"])
@pytest.mark.parametrize("layout", ["v5", "legacy"])
def test_we_on_a_directory_of_transformers(tmp_path, kind, added, layout):
    _, special, uncased = KINDS[kind]
    theirs = make_theirs([*special, *WORDS, *LETTERS], uncased, special is SQUARE)
    if added:
        theirs.add_tokens(["Blue Sky", "warm"])
        theirs.add_tokens(
            [transformers.AddedToken("zz", normalized=False, single_word=True, lstrip=True)]
        )
        theirs.add_special_tokens({"extra_special_tokens": ["<ent>"]})
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    model = make_model(len(theirs))
    model.save_pretrained(tmp_path / "weights")
    their_model = load_model(tmp_path / "weights")
    their_model.save_pretrained(folder)
    if layout == "legacy":
        make_legacy(folder, [*special, *WORDS, *LETTERS])
    texts = ["blue sky Blue Sky x<ent>y  zz azz Warm warm"]
    ours = open_tokenizer(TokenizerRequest(), [folder])
    reference = transformers.AutoTokenizer.from_pretrained(
        folder, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    assert (ours.uncased, ours.vocab_size) == (uncased, len(theirs))
    assert Path(ours.path).is_file()
    assert ours.encode(texts[0]) == reference.encode(texts[0], add_special_tokens=False)
    our_model = FunnelForSequenceClassification.from_pretrained(folder)
    assert_same(ours, reference, our_model, their_model)
    # What we make of it is again theirs, in every layout and back.
    for layout_name in ("tf", "pt", "hf"):
        save_checkpoint(load_checkpoint(folder), tmp_path / layout_name, layout_name)
        copy = open_tokenizer(TokenizerRequest(), [tmp_path / layout_name])
        assert copy.fingerprint == ours.fingerprint, layout_name
    copied, copied_model = load_theirs(tmp_path / "hf")
    assert_same(ours, copied, our_model, copied_model)
    assert copied.encode(texts[0]) == reference.encode(texts[0])


def load_model(path):
    return transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()


def make_theirs(tokens, uncased, is_bert):
    """Return a tokenizer of transformers for Funnel models."""
    names = {}
    if is_bert:
        names = {f"{n}_token": f"[{n.upper()}]" for n in ("unk", "cls", "sep", "pad", "mask")}
        names |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return transformers.FunnelTokenizer(vocabulary, do_lower_case=uncased, **names)


def make_legacy(folder, tokens):
    """Turn a directory into the files that transformers 4 wrote for its slow tokenizers."""
    described = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    added = [token for token in described["added_tokens"] if token["id"] >= len(tokens)]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    keys = ("id", "content")
    decoder = {t["id"]: {k: v for k, v in t.items() if k not in keys} for t in added}
    config["added_tokens_decoder"] = {
        i: {"content": t["content"], **decoder[i]} for t in added for i in [t["id"]]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_the_class_of_generic_files_reads_them_as_they_are(tmp_path):
    """A tokenizer.json of another class: its own steps, word limit and segment ids."""
    ours = make_tokenizer("uncased", tmp_path)
    segments = SegmentIds(cls=0)
    ours.use_segments(segments)
    model = make_model(ours.vocab_size)
    model.save_pretrained(tmp_path / "m", tokenizer=ours)
    config = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    assert config["funnel_tokenizer"]["segments"]["cls"] == 0
    del config["funnel_tokenizer"]
    (tmp_path / "m/tokenizer_config.json").write_text(json.dumps(config))
    found = open_tokenizer(TokenizerRequest(), [tmp_path / "m"])
    assert found.segments == segments
    assert found.file.options.max_word_length == 200
    assert_same(found, *reversed_pair(tmp_path / "m", model))


def reversed_pair(path, model):
    theirs, their_model = load_theirs(path)
    return theirs, model, their_model


@pytest.mark.parametrize("steps", ["unigram", "bpe"])
def test_a_tokenizer_that_only_its_json_describes(tmp_path, steps):
    import tokenizers

    library = tokenizers.Tokenizer(
        getattr(tokenizers.models, {"unigram": "Unigram", "bpe": "BPE"}[steps])()
    )
    trainers = tokenizers.trainers
    kind = {"unigram": trainers.UnigramTrainer, "bpe": trainers.BpeTrainer}[steps]
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.normalizer = tokenizers.normalizers.Lowercase()
    trainer = kind(vocab_size=80, special_tokens=ANGLE, show_progress=False)
    if steps == "unigram":
        trainer = kind(vocab_size=80, special_tokens=ANGLE, show_progress=False, unk_token="<unk>")
    library.train_from_iterator(LINES * 5, trainer)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<cls>:2 $A:0 <sep>:0",
        pair="<cls>:2 $A:0 <sep>:0 $B:1 <sep>:1",
        special_tokens=[("<cls>", 3), ("<sep>", 4)],
    )
    names = {f"{name}_token": f"<{name}>" for name in ("unk", "cls", "sep", "pad", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, model_input_names=inputs, **names
    )
    folder = tmp_path / "m"
    model = make_model(len(theirs))
    model.save_pretrained(folder)
    theirs.save_pretrained(folder)
    found = open_tokenizer(TokenizerRequest(), [folder])
    their_model = load_model(folder)
    assert found.kind == "sent_piece" and found.uncased
    assert_same(found, theirs, model, their_model)
    save_checkpoint(load_checkpoint(folder), tmp_path / "tf", "tf")
    save_checkpoint(load_checkpoint(tmp_path / "tf"), tmp_path / "hf", "hf")
    assert_same(found, *reversed_pair(tmp_path / "hf", model))


def test_what_transformers_cannot_compute_is_refused_with_the_reason(tmp_path, caplog):
    lines = [f"in {i},{i} or {i}, words {i}, more" for i in range(10)] * 30
    build_vocabulary(lines, tmp_path / "x.model", VocabularyConfig("sent_piece", 60))
    ours = get_tokenizer("sent_piece", tmp_path / "x.model")
    pieces = ours.convert_ids_to_tokens(range(ours.vocab_size))
    assert any(len(p) > 1 and p[-2:-1].isdigit() and p.endswith(",") for p in pieces)
    model = make_model(ours.vocab_size)
    model.save_pretrained(tmp_path / "m", tokenizer=ours)
    assert "ends in a digit and a comma" in caplog.text
    with pytest.raises((ValueError, OSError)):
        transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    again = open_tokenizer(TokenizerRequest(), [tmp_path / "m"])
    assert again.fingerprint == ours.fingerprint


def test_symbols_that_a_sentencepiece_model_finds_in_texts(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.replace(",", " ").lower() for text in LINES] * 5),
        model_prefix=str(tmp_path / "x"),
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=-1,
        control_symbols=["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"],
        user_defined_symbols=["<eop>", ".", "(", "re", "<e"],
        minloglevel=2,
    )
    ours = get_tokenizer("sent_piece", tmp_path / "x.model")
    assert ours.special.eop_id in ours.encode("red <eop> (warm)")
    model = make_model(ours.vocab_size)
    model.save_pretrained(tmp_path / "m", tokenizer=ours)
    theirs, their_model = load_theirs(tmp_path / "m")
    assert_same(ours, theirs, model, their_model)
    for text in ("red <eop> (warm). x.y <e a<eop>b <cls>(red)", "are.re <eop><eop>"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_a_changed_case_in_one_of_two_files_is_refused(tmp_path):
    from funnel.utils.errors import TokenizerError

    ours = make_tokenizer("cased", tmp_path)
    make_model(ours.vocab_size).save_pretrained(tmp_path / "m", tokenizer=ours)
    path = tmp_path / "m/tokenizer_config.json"
    config = json.loads(path.read_text())
    assert config["do_lower_case"] is False
    path.write_text(json.dumps(config | {"do_lower_case": True}))
    with pytest.raises(TokenizerError, match="do_lower_case is true, but .* keeps the case"):
        open_tokenizer(TokenizerRequest(), [tmp_path / "m"])


def test_options_survive_pickling(tmp_path):
    import pickle

    ours = make_tokenizer("cased", tmp_path)
    options = replace(ours.file.options, split_special=True)
    copy = pickle.loads(pickle.dumps(type(ours)(replace(ours.file, options=options))))
    assert copy.encode("red <cls>") == ours.encode("red <cls>")
