"""Record files that are used without the data they were made from, the original's among them."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from funnel.config.squad import WindowConfig
from funnel.features.squad_cache import SquadSource, find_train_windows, load_or_build_windows
from funnel.features.squad_tfrecords import find_train_records, squad_train_records
from funnel.features.tfrecords import (
    RaceConfig,
    RecordOptions,
    classifier_records,
    race_records,
)
from funnel.tasks import get_task
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError
from funnel.utils.split_report import NO_REPORT

classifier_runs = pytest.importorskip("classifier_runs")
answering_runs = pytest.importorskip("answering_runs")

SHAPE = WindowConfig(max_seq_length=28, max_query_length=4, doc_stride=8)


@pytest.fixture
def folder(tmp_path):
    answering_runs.write_squad(tmp_path)
    return tmp_path


def _tokenizer(folder):
    return get_tokenizer("word_piece", str(folder / "vocab.txt"))


def _shards(folder, count=3):
    """Write all shards, and return the source after its file has gone."""
    source, tokenizer = SquadSource(str(folder / "train.json"), windows=SHAPE), _tokenizer(folder)
    files = [
        squad_train_records(folder / "records", source, tokenizer, 5, (number, count))
        for number in range(count)
    ]
    (folder / "train.json").unlink()
    return files, source, tokenizer


def _find(folder, source, tokenizer):
    return find_train_records(folder / "records", source, tokenizer)


def _damage(folder, name, **changes):
    path = folder / "records" / f"{name}.meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_all_shards_are_found_without_the_file(folder):
    files, source, tokenizer = _shards(folder)
    assert _find(folder, source, tokenizer) == files
    assert _find(folder, SquadSource("", windows=SHAPE), tokenizer) == files


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, names: shutil.rmtree(folder / "records"), "train.json: does not exist"),
        (lambda folder, names: (folder / "records" / names[1]).unlink(), "shard 1 of 3 is missing"),
        (lambda folder, names: (folder / "records" / names[2]).unlink(), "shard 2 of 3 is missing"),
        (lambda folder, names: _damage(folder, names[0], doc_stride=9), "different doc_stride"),
        (lambda folder, names: _damage(folder, names[0], seed=9), "not all shards of one division"),
        (lambda folder, names: _damage(folder, names[0], shard=7), "shard should be"),
        (lambda folder, names: _damage(folder, names[0], num_bytes=7), "another size"),
    ],
)
def test_incomplete_or_other_records(folder, spoil, message):
    files, source, tokenizer = _shards(folder)
    spoil(folder, [file.path.name for file in files])
    with pytest.raises(DataError, match=message):
        _find(folder, source, tokenizer)
    if message.endswith("exist"):
        with pytest.raises(DataError, match=r"--train_file=: is needed; .*vocab.txt.0.slen-28"):
            _find(folder, SquadSource("", windows=SHAPE), tokenizer)


def test_records_of_the_original(folder, caplog):
    """They have no description, or one of two numbers in a file without `.tfrecord` in its name."""
    files, source, tokenizer = _shards(folder)
    for file in files:
        file.meta_path.unlink()
    unreported = [replace(file, report=NO_REPORT) for file in files]
    assert _find(folder, source, tokenizer) == unreported
    assert caplog.text.count("written by another program") == 3
    files[1].path.unlink()
    with pytest.raises(DataError, match="shard 1 of 3"):
        _find(folder, source, tokenizer)
    other = SquadSource("", windows=WindowConfig(29, 4, 8))
    shutil.copy(files[0].path, folder / "records" / other.shard_name(tokenizer.path, 0))
    with pytest.raises(DataError, match=r"slen-29.*record 0: feature 'input_ids' holds 28"):
        _find(folder, other, tokenizer)


def _classifier(folder, split, **options):
    place = (folder / "records", get_task("cola"), split, folder / "CoLA", _tokenizer(folder), 16)
    return classifier_records(*place, RecordOptions(**options))


def test_classification_without_data(tmp_path):
    classifier_runs.write_files(tmp_path)
    written = _classifier(tmp_path, "dev", multiple=8)
    shutil.rmtree(tmp_path / "CoLA")
    assert _classifier(tmp_path, "dev", multiple=8) == written
    with pytest.raises(DataError, match=r"different multiple.*is missing"):
        _classifier(tmp_path, "dev", multiple=5)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "CoLA"))):
        _classifier(tmp_path, "train")
    # The original's description.
    written.meta_path.unlink()
    meta = written.path.with_suffix(".meta.json")
    meta.write_text(json.dumps({"num_real_examples": 12, "num_examples": 16}))
    assert _classifier(tmp_path, "dev", multiple=5) == replace(written, report=NO_REPORT)
    for count in (0, 17):
        meta.write_text(json.dumps({"num_real_examples": count}))
        with pytest.raises(DataError, match=f"holds 16 records, of which {count}"):
            _classifier(tmp_path, "dev")


def test_race_without_data(tmp_path):
    answering_runs.write_race(tmp_path)
    place = (tmp_path / "records", tmp_path / "RACE", "train", _tokenizer(tmp_path))
    config = RaceConfig(max_seq_length=32, max_qa_length=8)
    written = race_records(*place, config)
    shutil.rmtree(tmp_path / "RACE")
    assert race_records(*place, config) == written
    with pytest.raises(DataError, match="different max_qa_length"):
        race_records(*place, RaceConfig(max_seq_length=32, max_qa_length=9))


def test_cached_windows_without_the_file(folder):
    source, tokenizer = SquadSource(str(folder / "train.json"), windows=SHAPE), _tokenizer(folder)
    written = load_or_build_windows(source, tokenizer, folder / "cache", "train").windows
    (folder / "train.json").unlink()
    found = find_train_windows(source, tokenizer, folder / "cache")
    assert (found.sequences.tokens == written.sequences.tokens).all()
    assert (found.start_positions == written.start_positions).all()
    for other in (SquadSource("", "v1", SHAPE), SquadSource("", windows=WindowConfig(28, 4, 9))):
        with pytest.raises(DataError, match="--train_file=: is needed; .* no windows that fit"):
            find_train_windows(other, tokenizer, folder / "cache")
    with pytest.raises(DataError, match="train.json: does not exist; there is no cache"):
        find_train_windows(source, tokenizer, "")
