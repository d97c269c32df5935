"""Find the records of a run; incomplete or ambiguous sets are refused with their names."""

import json

import numpy as np
import pytest

from corpus_cases import random_documents, tiny_tokenizer, write_text
from funnel.pretraining.create_records import CorpusConfig, RecordSet, create_all_records
from funnel.pretraining.dataset import DatasetConfig, MaskedDataset
from funnel.pretraining.record_index import find_records
from funnel.utils.errors import ConfigError, DataError
from record_cases import LENGTH, masker, write_set


def test_names_are_read_as_they_are_written():
    records = RecordSet("dev", 3, 128, False, 12)
    assert RecordSet.parse_meta_name(records.meta_name(11)) == (records, 11)
    assert RecordSet.parse_meta_name(records.data_name(11)) is None
    assert RecordSet.parse_meta_name(".tmp-" + records.meta_name(11)) is None


def test_files_come_by_folder_pass_and_task(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    paths = write_set(a, (3, 2)) + write_set(a, (4,), pass_id=1) + write_set(b, (1,), pass_id=1)
    write_set(a, (9,), pass_id=2)
    write_set(a, (9,), split="dev")
    found = find_records(f"{a}, {b}", "train", LENGTH, True, num_passes=2)
    assert [file.path for file in found.files] == paths
    assert (found.counts.tolist(), found.num_examples, found.seq_len) == ([3, 2, 4, 1], 10, LENGTH)
    assert found.counts.dtype == np.int64
    # Of ten passes, those are read that there are; of another folder too few is an error.
    assert find_records(str(a), "train", LENGTH, True, num_passes=10).num_examples == 18
    with pytest.raises(DataError, match="b: no records of train pass-0 seq-12 uncased"):
        find_records(f"{a},{b}", "train", LENGTH, True)


def test_what_create_records_writes_is_found_and_read(tmp_path):
    for name in "ab":
        write_text(tmp_path / f"text/{name}.txt", random_documents(ord(name), 8, 6, 9))
    config = CorpusConfig(f"{tmp_path}/text/*.txt", f"{tmp_path}/out", LENGTH, num_task=2)
    shards = list(create_all_records(config, range(2), tokenizer := tiny_tokenizer(tmp_path)))
    found = find_records(f"{tmp_path}/out", "train", LENGTH, True)
    assert list(found.files) == [(shard.path, shard.num_example) for shard in shards]
    dataset = MaskedDataset(found, masker(sample_strategy="word_span"), DatasetConfig())
    masked = dataset.read(np.arange(found.num_examples))
    assert masked.origin_input.shape == (found.num_examples, LENGTH)
    assert masked.origin_input.max() < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"seq_len": 64}, "seq-64 uncased; it holds dev pass-0 seq-12 cased, train pass-0 seq-12"),
        ({"uncased": False}, "no records of train pass-0 seq-12 cased"),
        ({"split": "test"}, "no records of test"),
        ({"record_dir": "empty"}, "it holds no records"),
        ({"record_dir": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(tmp_path, names, message):
    (tmp_path / "empty").mkdir()
    write_set(tmp_path / "data", (2,))
    write_set(tmp_path / "data", (2,), split="dev", uncased=False)
    asked = {"record_dir": "data", "split": "train", "seq_len": LENGTH, "uncased": True} | names
    with pytest.raises(DataError, match=message):
        find_records(**asked | {"record_dir": str(tmp_path / asked["record_dir"])})


def _remove_meta(folder):
    (folder / RecordSet("train", 0, LENGTH, True, 3).meta_name(1)).unlink()


def _remove_data(folder):
    (folder / RecordSet("train", 0, LENGTH, True, 3).data_name(2)).unlink()


def _describe(text):
    meta = RecordSet("train", 0, LENGTH, True, 3).meta_name(0)
    return lambda folder: (folder / meta).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove_meta, r"1 of its 3 tasks \(1\) wrote no meta.*json-00001-of-00003"),
        (_remove_data, "json-00002-of-00003: it names data.*-00002-of-00003, which is not there"),
        (lambda folder: write_set(folder, (2, 2)), "both for num_task=2 and num_task=3"),
        (_describe("{"), "json-00000-of-00003: it should hold a list of names"),
        (_describe('{"filenames": [], "num_example": 0}'), "it should hold a list of names"),
        (_describe('{"filenames": ["a"], "num_example": "2"}'), "it should hold a list of names"),
    ],
)
def test_incomplete_and_mixed_sets_are_refused(tmp_path, spoil, message):
    write_set(tmp_path, (2, 2, 2))
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        find_records(str(tmp_path), "train", LENGTH, True)


def test_a_description_may_name_several_files(tmp_path):
    paths = write_set(tmp_path, (2, 3))
    (tmp_path / RecordSet("train", 0, LENGTH, True, 2).meta_name(1)).unlink()
    (tmp_path / RecordSet("train", 0, LENGTH, True, 2).meta_name(0)).unlink()
    meta = tmp_path / RecordSet("train", 0, LENGTH, True, 1).meta_name(0)
    names = [path.name for path in paths]
    meta.write_text(json.dumps({"filenames": names, "num_example": 5}))
    assert find_records(str(tmp_path), "train", LENGTH, True).counts.tolist() == [2, 3]
    meta.write_text(json.dumps({"filenames": names, "num_example": 6}))
    with pytest.raises(DataError, match="states 6 records, but its files hold 5"):
        find_records(str(tmp_path), "train", LENGTH, True)


def test_empty_questions_are_refused(tmp_path):
    write_set(tmp_path, (0,))
    with pytest.raises(DataError, match="split train are empty"):
        find_records(str(tmp_path), "train", LENGTH, True)
    with pytest.raises(ConfigError, match="num_passes=0"):
        find_records(str(tmp_path), "train", LENGTH, True, num_passes=0)
    with pytest.raises(ConfigError, match="record_dir"):
        find_records(" ,", "train", LENGTH, True)
