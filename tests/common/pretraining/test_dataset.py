"""The dataset: a permutation per epoch, random access, exact reads, corrupt records named."""

import gc
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from funnel.formats.indexed_tfrecord import IndexedRecords, OpenFiles
from funnel.formats.tfrecord import encode_example, write_records
from funnel.pretraining.dataset import DatasetConfig, MaskedDataset, RecordOrder
from funnel.pretraining.masking import record_generator
from funnel.pretraining.record_index import find_records
from funnel.utils.errors import ConfigError, DataError
from record_cases import LENGTH, corrupt, example, masker, numbers, write_set

COUNTS = (40, 7, 0, 25, 31)
SMALL = {"shuffle_buffer": 16, "interleave": 4}


def _collection(folder):
    return find_records(str(folder), "train", LENGTH, True)


def _dataset(folder, masking=None, **config):
    return MaskedDataset(_collection(folder), masker(**masking or {}), DatasetConfig(**config))


# ------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize(
    "config",
    [{}, SMALL, {"shuffle_buffer": 10, "interleave": 4}, {"shuffle_buffer": 1, "interleave": 1}],
)
@pytest.mark.parametrize("counts", [COUNTS, (1,), (3,), (64,), (65,)])
def test_every_epoch_is_a_permutation(counts, config):
    total = sum(counts)
    order = RecordOrder(np.array(counts), DatasetConfig(**config))
    locations = order.locate(np.arange(3 * total))
    assert len(order) == total
    assert np.array_equal(locations.epoch, np.repeat(range(3), total))
    for epoch in locations.number.reshape(3, total):
        assert np.array_equal(np.sort(epoch), np.arange(total))
    firsts = np.cumsum(counts) - counts
    assert np.array_equal(firsts[locations.file] + locations.offset, locations.number)
    assert (locations.offset < np.array(counts)[locations.file]).all()
    if total > 10:  # by chance equal once in 10! times at most
        orders = {tuple(epoch) for epoch in locations.number.reshape(3, total)}
        assert len(orders) == 3 and tuple(range(total)) not in orders


def test_the_order_can_be_entered_anywhere():
    config = DatasetConfig(seed=5, **SMALL)
    full = RecordOrder(np.array(COUNTS), config).locate(np.arange(400))
    for asked in (np.arange(95, 130), np.array([399, 0, 103, 102]), np.arange(3, 400, 7)):
        alone = pickle.loads(pickle.dumps(RecordOrder(np.array(COUNTS), config))).locate(asked)
        for found, expected in zip(alone, full, strict=True):
            assert np.array_equal(found, expected[asked])
    other = RecordOrder(np.array(COUNTS), DatasetConfig(seed=6, **SMALL)).locate(np.arange(103))
    assert not np.array_equal(other.number, full.number[:103])


def test_files_meet_other_files_every_epoch():
    order = RecordOrder(np.full(9, 4), DatasetConfig(shuffle_buffer=1, interleave=1))
    neighbours = set()
    for file in order.locate(np.arange(3 * 36)).file.reshape(3, 36):
        pairs = zip(file[:-1].tolist(), file[1:].tolist(), strict=True)
        neighbours.add(frozenset(pair for pair in pairs if pair[0] != pair[1]))
    assert len(neighbours) == 3


def test_without_shuffling_files_are_read_in_order():
    order = RecordOrder(np.array(COUNTS), DatasetConfig(shuffle=False))
    assert np.array_equal(order.locate(np.arange(206)).number, np.tile(np.arange(103), 2))


def test_a_batch_mixes_distant_parts_even_of_one_file():
    order = RecordOrder(np.array([10**6]), DatasetConfig())
    for epoch in range(3):
        number = np.sort(order.locate(epoch * 10**6 + np.arange(256)).number)
        assert len(np.unique(number // (10**6 // 16))) >= 15
        assert np.diff(number).max() < 150_000


def test_planning_holds_a_window_only():
    order = RecordOrder(np.full(1000, 10**6), DatasetConfig())  # 10^9 records
    tracemalloc.start()
    locations = order.locate(987_654_321 + np.arange(256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(locations.number)) == 256
    assert peak < 2e6


def test_impossible_orders_are_refused():
    for wrong in ({"interleave": 0}, {"shuffle_buffer": 3, "interleave": 4}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            DatasetConfig(**wrong)
    with pytest.raises(DataError, match="no records"):
        RecordOrder(np.array([0, 0]), DatasetConfig())


# ---------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("strategy", ["single_token", "whole_word"])
def test_records_and_masks_are_those_of_their_places(tmp_path, strategy):
    write_set(tmp_path, COUNTS)
    dataset = _dataset(tmp_path, {"sample_strategy": strategy}, seed=3, **SMALL)
    positions = np.arange(90, 120)  # the end of one epoch and the begin of the next
    batch = dataset.read(positions)
    locations = RecordOrder(np.array(COUNTS), DatasetConfig(seed=3, **SMALL)).locate(positions)
    features = [example(number) for number in locations.number]
    expected = masker(sample_strategy=strategy).mask(
        *(np.stack([one[name] for one in features]) for name in ("input", "seg_id")),
        [one["boundary"] for one in features],
        [record_generator(3, e, n) for e, n in zip(locations.epoch, locations.number, strict=True)],
    )
    for found, wanted in zip(batch[:-1], expected[:-1], strict=True):
        assert np.array_equal(found, wanted)
    assert len(set(batch.noise_seeds)) == 30 and max(batch.noise_seeds) < 1 << 63
    # Read alone, later, by another process: the same.
    again = pickle.loads(pickle.dumps(dataset)).read(positions[17:18])
    assert np.array_equal(again.masked_input, batch.masked_input[17:18])
    assert again.noise_seeds == batch.noise_seeds[17]
    # The next epoch masks the same record otherwise.
    next_epoch = dataset.read(np.arange(103, 206))
    rows = np.argsort(numbers(next_epoch.origin_input))
    now = dataset.read(np.arange(103))
    assert not np.array_equal(
        next_epoch.is_target[rows], now.is_target[np.argsort(numbers(now.origin_input))]
    )


def test_few_files_are_open_at_a_time(tmp_path):
    paths = write_set(tmp_path, (2, 2, 2))
    files = OpenFiles(limit=2)
    first = files.get(paths[0], 2)
    assert files.get(paths[1], 2) and files.get(paths[0], 2) is first
    files.get(paths[2], 2)  # closes the second
    assert len(files) == 2 and files.get(paths[0], 2) is first
    assert len(pickle.loads(pickle.dumps(files))) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists open files")
def test_files_are_closed_with_what_reads_them(tmp_path):
    write_set(tmp_path, (2, 2, 2))
    before = len(os.listdir("/proc/self/fd"))
    dataset = _dataset(tmp_path)
    dataset.read(np.arange(6))
    assert len(os.listdir("/proc/self/fd")) == before + 3
    del dataset
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_of_another_number_of_records_is_refused(tmp_path):
    (path,) = write_set(tmp_path, (3,))
    with pytest.raises(DataError, match="holds 3 records, but 4 according"):
        IndexedRecords(path, 4)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"record 2 \(byte \d+\): corrupt: the file ends inside"):
        IndexedRecords(path, 3)


# ------------------------------------------------------------------------------- corrupt records

# Byte of the record that is changed, and the part whose checksum is then wrong.
CORRUPTIONS = [(0, "its length"), (7, "its length"), (9, "its length"), (30, "its data")]


@pytest.mark.parametrize(("at", "words"), CORRUPTIONS)
def test_a_corrupt_record_is_named(tmp_path, at, words):
    paths = write_set(tmp_path, (4, 5))
    corrupt(paths[1], 2, at)
    with pytest.raises(DataError, match=rf"{paths[1].name}, record 2 .*the checksum of {words}"):
        _dataset(tmp_path).read(np.arange(9))


@pytest.mark.parametrize(("at", "words"), CORRUPTIONS)
def test_on_request_the_next_good_one_takes_its_place(tmp_path, at, words):
    paths = write_set(tmp_path, (4, 5))
    dataset = _dataset(tmp_path, seed=2)
    good = dataset.read(np.arange(18))
    order = numbers(good.origin_input)
    corrupt(paths[1], 2, at)
    lenient = _dataset(tmp_path, seed=2, skip_corrupt=True)
    batch = lenient.read(np.arange(18))
    expected = [order[i + 1] if number == 6 else number for i, number in enumerate(order)]
    assert numbers(batch.origin_input) == expected
    assert np.array_equal(batch.is_target, good.is_target)  # of the place, not the text
    assert len(batch.corrupt) == 2 and f"{paths[1].name}, record 2" in batch.corrupt[0]
    alone = lenient.read(np.array([order.index(6)]))
    assert numbers(alone.origin_input) == [order[order.index(6) + 1]]


def test_too_many_corrupt_records_in_a_row_are_refused_even_then(tmp_path):
    (path,) = write_set(tmp_path, (2,))
    for index in (0, 1):
        corrupt(path, index, 30)
    with pytest.raises(DataError, match="1000 records in a row are corrupt"):
        _dataset(tmp_path, skip_corrupt=True).read(np.arange(1))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (encode_example(example(0, LENGTH + 1)), "'input' holds 13 numbers, not 12"),
        (encode_example({"input": np.arange(LENGTH)}), "it has no integers 'seg_id'"),
        (encode_example(example(0) | {"input": np.ones(LENGTH)}), "it has no integers 'input'"),
        (b"\xff", "no Example"),
        (encode_example(example(90_000)), "use the one the records were made with"),
    ],
)
def test_records_of_another_kind_are_named(tmp_path, record, message):
    (path,) = write_set(tmp_path, (3,))
    good = [encode_example(example(number)) for number in (0, 2)]
    write_records(path, [good[0], record, good[1]])
    with pytest.raises(DataError, match=f"{path.name}, record 1: .*{message}"):
        _dataset(tmp_path).read(np.arange(3))


def test_records_of_another_length_than_the_masks_are_refused(tmp_path):
    write_set(tmp_path, (3,))
    with pytest.raises(ConfigError, match="seq_len=16: the records have 12 tokens"):
        _dataset(tmp_path, {"seq_len": 16})
