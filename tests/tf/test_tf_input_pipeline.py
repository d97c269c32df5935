"""tf.data pipelines: every record once per epoch, in a new order, resumable at any step."""

from types import SimpleNamespace

import numpy as np
import pytest

from funnel.features.record_schema import FieldSpec, RecordSchema, pretraining_schema
from funnel.formats.tfrecord import encode_example, write_records
from funnel.pretraining.masking import Masker, MaskingConfig
from funnel.pretraining.record_index import RecordCollection, RecordFile
from funnel.utils.errors import DataError
from masking_reference import SPECIAL, VOCAB_SIZE, random_records
from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel_tf.data.input_pipeline import (
    InputConfig,
    finetune_input_fn,
    num_batches,
    pretrain_input_fn,
    report_corrupt_records,
)

pytestmark = pytest.mark.slow

NUMBER = RecordSchema({
    "number": FieldSpec(()),
    "weights": FieldSpec((3,), is_float=True),
    "is_real_example": FieldSpec(()),
})  # fmt: skip
LENGTH = 24


def _files(folder, counts):
    """Write files of numbered records; return path and number of records of each."""
    files, number = [], 0
    for index, count in enumerate(counts):
        same = {"weights": np.ones(3), "is_real_example": np.ones(1, int)}
        records = [
            encode_example({"number": np.array([i]), **same}) for i in range(number, number + count)
        ]
        path = folder / f"data-{index}"
        write_records(path, records)
        files.append((str(path), count))
        number += count
    return files


def _collection(folder, counts):
    rng, files = np.random.default_rng(0), []
    for index, count in enumerate(counts):
        inputs, segments, boundaries = random_records(rng, count, LENGTH)
        rows = zip(inputs, segments, boundaries, strict=True)
        records = [
            encode_example({"input": i, "seg_id": s, "boundary": b, "label": np.array([1])})
            for i, s, b in rows
        ]
        path = folder / f"pre-{index}"
        write_records(path, records)
        files.append(RecordFile(path, count))
    return RecordCollection(tuple(files), LENGTH)


def _batches(input_fn, count=None, **params):
    """Return ``count`` batches of a pipeline, or all of them."""
    params = {"batch_size": 4, **params}
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = tf.data.make_one_shot_iterator(input_fn(params)).get_next()
        assert all(t.shape.is_fully_defined() for t in tensors.values())
        found = []
        while count is None or len(found) < count:
            try:
                found.append(session.run(tensors))
            except tf.errors.OutOfRangeError:
                break
    return found


def _numbers(batches, key="number"):
    return np.concatenate([batch[key] for batch in batches])


def _host(index, count):
    context = SimpleNamespace(current_input_fn_deployment=lambda: (None, index, count, 1))
    return {"context": context}


def _training(**changes):
    return InputConfig(is_training=True, examples_per_step=4, **changes)


def test_every_epoch_has_every_record_once_in_a_new_order(tmp_path):
    files = _files(tmp_path, (7, 5, 12))
    numbers = _numbers(_batches(finetune_input_fn(files, NUMBER, _training()), 18))
    epochs = numbers.reshape(3, 24)
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = _numbers(_batches(finetune_input_fn(files, NUMBER, _training()), 18))
    np.testing.assert_array_equal(numbers, again)
    other = _numbers(_batches(finetune_input_fn(files, NUMBER, _training(seed=1)), 6))
    assert (other != epochs[0]).any()


@pytest.mark.parametrize("start", [1, 5, 6, 17])
def test_a_stream_continues_where_it_stopped(tmp_path, start):
    files = _files(tmp_path, (7, 5, 11))
    config = {"shuffle_buffer": 5}
    expected = _numbers(_batches(finetune_input_fn(files, NUMBER, _training(**config)), 20))
    rest = finetune_input_fn(files, NUMBER, _training(start_step=start, **config))
    np.testing.assert_array_equal(_numbers(_batches(rest, 20 - start)), expected[4 * start :])


def test_files_are_read_in_parallel(tmp_path):
    files = _files(tmp_path, (64, 64, 64, 64))
    batches = _batches(finetune_input_fn(files, NUMBER, _training(shuffle_buffer=1)), 8)
    assert len(set(_numbers(batches) // 64)) == 4


def test_an_evaluation_has_every_record_once_and_full_batches(tmp_path):
    files = _files(tmp_path, (7, 3))
    batches = _batches(finetune_input_fn(files, NUMBER, InputConfig(is_training=False)))
    assert len(batches) == num_batches(10, 4) == 3
    real = _numbers(batches, "is_real_example") == 1
    np.testing.assert_array_equal(_numbers(batches)[real], np.arange(10))
    np.testing.assert_array_equal(real, np.arange(12) < 10)
    assert batches[0]["number"].dtype == np.int32 and batches[0]["weights"].dtype == np.float32


@pytest.mark.parametrize(("counts", "hosts"), [((6, 6, 6, 6), 2), ((24,), 3)])
def test_hosts_divide_the_records(tmp_path, counts, hosts):
    files = _files(tmp_path, counts)
    epoch = 24 // hosts // 4
    training = [
        _batches(finetune_input_fn(files, NUMBER, _training()), epoch, **_host(host, hosts))
        for host in range(hosts)
    ]
    assert sorted(np.concatenate([_numbers(part) for part in training])) == list(range(24))
    files = _files(tmp_path, (9, 4))
    evaluation = [
        _batches(finetune_input_fn(files, NUMBER, InputConfig(False)), **_host(host, hosts))
        for host in range(hosts)
    ]
    assert len({len(part) for part in evaluation}) == 1
    batches = [batch for part in evaluation for batch in part]
    real = _numbers(batches, "is_real_example") == 1
    assert sorted(_numbers(batches)[real]) == list(range(13))


def test_every_host_may_read_all_records_in_its_own_order(tmp_path):
    files = _files(tmp_path, (12, 12))
    input_fn = finetune_input_fn(files, NUMBER, _training(shard_files=False))
    one, two = (_numbers(_batches(input_fn, 6, **_host(host, 2))) for host in range(2))
    assert sorted(one) == sorted(two) == list(range(24)) and (one != two).any()


def test_masks_change_every_epoch_in_training_and_never_in_evaluation(tmp_path):
    collection = _collection(tmp_path, (8, 4))
    masker = Masker(MaskingConfig(LENGTH, 5, "word_span"), SPECIAL, VOCAB_SIZE)
    training = _batches(pretrain_input_fn(collection, masker, _training()), 6)
    epochs = []
    for part in (training[:3], training[3:]):
        rows = zip(_numbers(part, "origin_input"), _numbers(part, "is_target"), strict=True)
        epochs.append({tuple(ids): tuple(chosen) for ids, chosen in rows})
    assert epochs[0].keys() == epochs[1].keys() and len(epochs[0]) == 12
    assert sum(epochs[0][key] != epochs[1][key] for key in epochs[0]) > 6
    later = _batches(pretrain_input_fn(collection, masker, _training(start_step=4)), 1)[0]
    np.testing.assert_array_equal(later["masked_input"], training[4]["masked_input"])

    config = InputConfig(is_training=False)
    one, two = (_batches(pretrain_input_fn(collection, masker, config), batch_size=5) for _ in "12")
    assert len(one) == 3
    for name in one[0]:
        np.testing.assert_array_equal(one[2][name], two[2][name])
    fakes = one[2]["target_mask"].sum(1) == 0
    np.testing.assert_array_equal(fakes, [False, False, True, True, True])
    assert (one[2]["attention_mask"][2:] == 0).all()
    assert sum(batch["is_target"].sum() for batch in one) == 12 * 5


def _flip_bit(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("kind", ["bit", "cut", "length", "vocabulary", "missing"])
def test_errors_name_the_corrupt_file(tmp_path, kind):
    collection = _collection(tmp_path, (8, 8))
    path = collection.files[1].path
    length, size = LENGTH, VOCAB_SIZE
    if kind == "bit":
        _flip_bit(path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif kind == "missing":
        write_records(path, [encode_example({"input": np.arange(LENGTH)})])
    length += 8 * (kind == "length")
    size -= 20 * (kind == "vocabulary")
    masker = Masker(MaskingConfig(length, 5), SPECIAL, size)
    files = [str(file.path) for file in collection.files]
    words = {"bit": "pre-1, record 4", "cut": "pre-1, record 7", "length": "pre-0, record 0",
             "vocabulary": "vocabulary of 40", "missing": "pre-1, record 0.*boundary"}  # fmt: skip
    with (
        pytest.raises(DataError, match=words[kind]),
        report_corrupt_records(files, pretraining_schema(length)),
    ):
        _batches(pretrain_input_fn(collection, masker, InputConfig(is_training=False)))
