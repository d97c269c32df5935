"""The tokenizer next to the weights: what is recorded decides, what contradicts it is refused."""

import json

import pytest

from funnel.checkpoints.vocabulary import write_tokenizer
from funnel.config.inputs import SegmentIds, TokenizerRequest, TokenizerSettings
from funnel.tokenization import get_tokenizer
from funnel.tokenization.choice import check_same_ids, load_tokenizer, open_tokenizer
from funnel.tokenization.saved import find_vocabulary, read_saved_tokenizer
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary
from funnel.utils.errors import ConfigError, TokenizerError

SPECIAL = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
WORDS = ["red", "Red", "RED", "warm", "[unused1]", "caf\u00e9", "cafe", "##s", "."]


def write_vocabulary(path, entries=(*SPECIAL, *WORDS)):
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return path


@pytest.fixture
def vocabulary(tmp_path):
    return write_vocabulary(tmp_path / "vocab.txt")


def save(tokenizer, folder, for_transformers=True):
    folder.mkdir()
    write_tokenizer({"tokenizer": tokenizer}, folder, for_transformers=for_transformers)
    return folder


@pytest.mark.parametrize("for_transformers", [True, False])
@pytest.mark.parametrize("uncased", [True, False])
def test_case_is_read_from_beside_the_weights(tmp_path, vocabulary, uncased, for_transformers):
    tokenizer = get_tokenizer("word_piece", vocabulary, uncased)
    folder = save(tokenizer, tmp_path / "m", for_transformers)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["do_lower_case"] is uncased
    for request in (TokenizerRequest(), TokenizerRequest(str(vocabulary), uncased=uncased)):
        found = open_tokenizer(request, [folder])
        assert found.fingerprint == tokenizer.fingerprint
        assert found.encode("Red caf\u00e9s") == tokenizer.encode("Red caf\u00e9s")
    with pytest.raises(ConfigError, match="asks for do_lower_case .* says do_lower_case") as error:
        open_tokenizer(TokenizerRequest(uncased=not uncased), [folder])
    for value in (uncased, not uncased):
        assert f"do_lower_case {str(value).lower()}" in str(error.value)


def test_a_vocabulary_named_by_its_path_brings_its_own_settings(tmp_path, vocabulary):
    folder = save(get_tokenizer("word_piece", vocabulary, uncased=False), tmp_path / "m")
    for path in (folder, folder / "vocab.txt", folder / "tokenizer.json"):
        assert not load_tokenizer(path).uncased
        assert not open_tokenizer(TokenizerRequest(str(path))).uncased
        with pytest.raises(ConfigError, match="--uncased=True asks"):
            open_tokenizer(TokenizerRequest(str(path), uncased=True))


def test_kind_accents_and_segments_are_recorded(tmp_path):
    build_vocabulary(["red warm caf\u00e9 blue"] * 9, tmp_path / "x.model",
                     VocabularyConfig("sent_piece", 40, keep_accents=True))  # fmt: skip
    tokenizer = get_tokenizer("sent_piece", tmp_path / "x.model", True, keep_accents=True)
    tokenizer.use_segments(SegmentIds(cls=0, pad=3))
    folder = save(tokenizer, tmp_path / "m")
    assert find_vocabulary(folder) == folder / "spiece.model"
    found = open_tokenizer(TokenizerRequest(), [folder])
    assert (found.kind, found.keep_accents) == ("sent_piece", True)
    assert found.segments == SegmentIds(cls=0, pad=3)
    refused = {
        "--tokenizer_type=word_piece: .* a sent_piece tokenizer": {"kind": "word_piece"},
        "--keep_accents=False, but .* keep_accents true": {"keep_accents": False},
        "--seg_id_cls=2, but .* says 0": {"given_segments": ("cls",)},
    }
    for message, values in refused.items():
        with pytest.raises(ConfigError, match=message):
            open_tokenizer(TokenizerRequest(**values), [folder])


def test_settings_ask_only_for_what_is_given():
    settings = TokenizerSettings()
    assert settings.request() == TokenizerRequest()
    assert settings.request({"uncased"}).uncased is True
    assert settings.request({"tokenizer_type", "seg_id_a"}).given_segments == ("a",)
    assert TokenizerSettings(uncased=False).request().uncased is False
    assert settings.request(segments=SegmentIds(cls=5)).given_segments == ("cls",)


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path, vocabulary):
    folder = save(get_tokenizer("word_piece", vocabulary), tmp_path / "m")
    other = write_vocabulary(tmp_path / "other.txt", (*SPECIAL, *reversed(WORDS)))
    with pytest.raises(ConfigError, match=r"its id 9 is '\.', but 'red' in .*vocab.txt"):
        open_tokenizer(TokenizerRequest(str(other)), [folder])
    # The same entries with other line ends, and a word of the user's in an unused place.
    for name, entries in {
        "windows.txt": [f"{entry}\r" for entry in (*SPECIAL, *WORDS)],
        "own.txt": [*SPECIAL, *(w.replace("[unused1]", "mine") for w in WORDS)],
    }.items():
        path = write_vocabulary(tmp_path / name, entries)
        assert open_tokenizer(TokenizerRequest(str(path)), [folder]).encode("red") == [9]


def test_without_a_record_the_flags_decide(tmp_path, vocabulary, caplog):
    (tmp_path / "released").mkdir()
    write_vocabulary(tmp_path / "released/vocab.uncased.txt")
    weights = [tmp_path / "released"]
    assert read_saved_tokenizer(weights[0]) is None
    assert open_tokenizer(TokenizerRequest(), weights).uncased
    assert "text is lower-cased, so that 2 of its tokens" in caplog.text
    assert not open_tokenizer(TokenizerRequest(uncased=False), weights).uncased
    with pytest.raises(ConfigError, match="--tokenizer_path is needed"):
        open_tokenizer(TokenizerRequest(), [tmp_path / "nowhere"])


def test_directories_of_older_versions_keep_their_ids(tmp_path, vocabulary):
    folder = tmp_path / "old"
    folder.mkdir()
    write_vocabulary(folder / "vocab.txt")
    (folder / "config.json").write_text('{"model_type": "funnel", "funnel": {}}')
    config = '{"tokenizer_class": "FunnelTokenizer", "do_lower_case": true}'
    (folder / "tokenizer_config.json").write_text(config)
    found = open_tokenizer(TokenizerRequest(), [folder])
    assert found.fingerprint == get_tokenizer("word_piece", vocabulary).fingerprint


@pytest.mark.parametrize(
    ("flags", "folder"), [({"cased": True}, "best"), ({"uncased": False}, ".")]
)
def test_runs_of_older_versions_recorded_case_in_their_flags(tmp_path, flags, folder):
    """PyTorch's best/ said do_lower_case true whatever the flag; TensorFlow's runs said nothing."""
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    write_vocabulary(place / "vocab.txt")
    (tmp_path / "run_config.json").write_text(json.dumps({"settings": flags}))
    if folder == "best":
        (place / "config.json").write_text('{"model_type": "funnel", "funnel": {}}')
        config = '{"tokenizer_class": "FunnelTokenizer", "do_lower_case": true}'
        (place / "tokenizer_config.json").write_text(config)
    for request in (TokenizerRequest(), TokenizerRequest(uncased=False)):
        assert not open_tokenizer(request, [place]).uncased
    with pytest.raises(ConfigError, match="run_config.json says do_lower_case false"):
        open_tokenizer(TokenizerRequest(uncased=True), [place])


def test_models_of_an_ensemble_need_one_tokenizer(vocabulary):
    first, second = (get_tokenizer("word_piece", vocabulary, u) for u in (True, False))
    check_same_ids(first, first)
    with pytest.raises(ConfigError, match="gives other ids than"):
        check_same_ids(second, first)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "[]", "should hold a JSON object"),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', "do_lower_case should be true"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "'x' is no token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "should be an object"),
        ("tokenizer_config.json", '{"cls_token": 3}', "cls_token should be a string"),
        ("tokenizer_config.json", '{"funnel_tokenizer": {"kind": "x"}}', "'x' is unknown"),
        ("tokenizer.json", "{", "not valid JSON"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 5}}}', "without gaps"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}', "no readable tokenizer.json"),
        ("tokenizer.json", '{"added_tokens": [{"id": 0}]}', "content is missing"),
    ],
)
def test_corrupt_files_are_one_clear_line(tmp_path, vocabulary, name, text, message):
    folder = tmp_path / "m"
    folder.mkdir()
    write_vocabulary(folder / "vocab.txt")
    (folder / name).write_text(text)
    with pytest.raises(TokenizerError, match=message) as error:
        open_tokenizer(TokenizerRequest(), [folder])
    assert name in str(error.value)


@pytest.mark.parametrize("blank", ["\u2028", "\u3000", "\u00a0", "\u0085", " ", "\t"])
def test_a_token_of_white_space_keeps_its_id(tmp_path, blank):
    path = write_vocabulary(tmp_path / "v.txt", (*SPECIAL, "red", blank, "warm", "\u00a0x"))
    tokenizer = get_tokenizer("word_piece", path)
    assert tokenizer.encode("red warm") == [9, 11]
    assert tokenizer.convert_ids_to_tokens([10, 12]) == [blank, "\u00a0x"]
    assert blank == "\x85" or tokenizer.encode(f"red{blank}warm") == [9, 11]
    folder = save(tokenizer, tmp_path / "m")
    again = open_tokenizer(TokenizerRequest(), [folder])
    assert again.convert_ids_to_tokens(range(13)) == tokenizer.convert_ids_to_tokens(range(13))


def test_the_last_token_may_be_white_space_but_no_empty_line(tmp_path):
    path = write_vocabulary(tmp_path / "v.txt", (*SPECIAL, "red", "\u2028", "", ""))
    assert get_tokenizer("word_piece", path).vocab_size == 11
    path = write_vocabulary(tmp_path / "v.txt", (*SPECIAL, "", "red"))
    with pytest.raises(TokenizerError, match="line 10: blank line"):
        get_tokenizer("word_piece", path)
