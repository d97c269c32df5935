"""TensorFlow's pipelines on records that lie: one line with file and record, never a hang."""

import contextlib
import random

import numpy as np
import pytest

from funnel.features.record_schema import classifier_schema, pretraining_schema, squad_schema
from funnel.formats.tfrecord import encode_example, write_records
from funnel.pretraining.masking import Masker, MaskingConfig
from funnel.pretraining.record_index import RecordCollection, RecordFile
from funnel.utils.errors import DataError
from masking_reference import SPECIAL, VOCAB_SIZE, random_records
from support_tf import import_tensorflow
from thoroughness import usual_or_thorough

tf = import_tensorflow().compat.v1

from funnel_tf.data.input_pipeline import (
    InputConfig,
    finetune_input_fn,
    pretrain_input_fn,
    report_corrupt_records,
)

pytestmark = pytest.mark.slow

LENGTH = 16
DEADLINE_MS = 60_000
TRAINING = InputConfig(is_training=True, examples_per_step=2)
EVALUATION = InputConfig(is_training=False)


def run(input_fn, count, size=2, **params):
    """Return ``count`` batches, or all; a pipeline that yields none in time is an error."""
    with tf.Graph().as_default(), tf.Session() as session:
        batches = input_fn({"batch_size": size, **params})
        tensors = tf.data.make_one_shot_iterator(batches).get_next()
        options = tf.RunOptions(timeout_in_ms=DEADLINE_MS)
        found = []
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while count is None or len(found) < count:
                found.append(session.run(tensors, options=options))
        return found


def pretraining_records(count):
    rows = zip(*random_records(np.random.default_rng(0), count, LENGTH), strict=True)
    return [{"input": i, "seg_id": s, "boundary": b, "label": np.array([1])} for i, s, b in rows]


def pretrain(path, count, config=TRAINING, steps=2, claimed=None, **params):
    collection = RecordCollection((RecordFile(path, claimed or count),), LENGTH)
    masker = Masker(MaskingConfig(LENGTH, 4, "whole_word"), SPECIAL, VOCAB_SIZE)
    schema = pretraining_schema(LENGTH, VOCAB_SIZE)
    with report_corrupt_records([str(path)], schema, collection.counts.tolist()):
        return run(pretrain_input_fn(collection, masker, config), steps, **params)


def write(path, examples):
    write_records(path, [e if isinstance(e, bytes) else encode_example(e) for e in examples])
    return path


@pytest.mark.parametrize("config", [TRAINING, EVALUATION], ids=["training", "evaluation"])
@pytest.mark.parametrize("held", [0, 3])
def test_fewer_records_than_described(tmp_path, config, held):
    path = write(tmp_path / "data", pretraining_records(held))
    with pytest.raises(DataError, match="data: .*(states|holds).* 8 ") as caught:
        pretrain(path, held, config, steps=None if config is EVALUATION else 9, claimed=8)
    assert "\n" not in str(caught.value)
    schema = classifier_schema(LENGTH)
    with (
        pytest.raises(DataError, match="data(: |, record 0)"),
        report_corrupt_records([str(path)], schema, [8]),
    ):
        run(finetune_input_fn([(str(path), 8)], schema, config), 9)


def test_a_host_without_a_record_is_refused(tmp_path):
    from types import SimpleNamespace

    path = write(tmp_path / "data", pretraining_records(2))
    context = SimpleNamespace(current_input_fn_deployment=lambda: (None, 2, 3, 1))
    with pytest.raises(DataError, match="no examples to train on for host 2 of 3"):
        pretrain(path, 2, context=context)


CHANGES = {
    "2^32 too large": ("input", lambda v: v + (v > 20) * (1 << 32)),
    "smallest int64": ("input", lambda v: np.where(np.arange(LENGTH) == 5, -(1 << 63), v)),
    "outside the vocabulary": ("input", lambda v: np.where(np.arange(LENGTH) == 5, VOCAB_SIZE, v)),
    "segment 7": ("seg_id", lambda v: np.where(v == 1, 7, v)),
    "segment -1": ("seg_id", lambda v: np.where(v == 1, -1, v)),
    "segment 2^32": ("seg_id", lambda v: np.where(v == 1, 1 << 32, v)),
    "word after the end": ("boundary", lambda v: np.append(v, LENGTH + 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_numbers_out_of_range_name_file_and_record(tmp_path, change):
    name, spoil = CHANGES[change]
    records = pretraining_records(4)
    records[2][name] = spoil(records[2][name].astype(np.int64))
    path = write(tmp_path / "data", records)
    with pytest.raises(DataError, match=rf"data, record 2: feature {name!r} holds .*expected 0 to"):
        pretrain(path, 4, EVALUATION, None)


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [
        (classifier_schema(LENGTH, vocab_size=50, num_labels=3), "label_ids", 3),
        (classifier_schema(LENGTH, vocab_size=50, num_labels=3), "input_ids", 50),
        (classifier_schema(LENGTH, regression=True), "label_ids", np.nan),
        (classifier_schema(LENGTH), "input_mask", np.nan),
        (squad_schema(LENGTH, training=True), "start_positions", LENGTH),
        (squad_schema(LENGTH, training=True), "p_mask", np.inf),
    ],
)
def test_fine_tuning_records_out_of_range(tmp_path, schema, name, value):
    good = {n: np.zeros(max(1, int(np.prod(s.shape))), s.dtype) for n, s in schema.fields.items()}
    bad = good | {name: np.full_like(good[name], value)}
    path = str(write(tmp_path / "data", [good, bad]))
    with (
        pytest.raises(DataError, match=rf"data, record 1: feature {name!r} holds"),
        report_corrupt_records([path], schema, [2]),
    ):
        run(finetune_input_fn([(path, 2)], schema, EVALUATION), None)


@pytest.mark.parametrize("garbage", [b"\xff", b"\xfe\x80 no Example \xff" * 20, b""])
def test_garbage_in_a_valid_frame(tmp_path, garbage):
    path = write(tmp_path / "data", [*pretraining_records(2), garbage])
    with pytest.raises(DataError, match="data, record 2 .*no Example") as caught:
        pretrain(path, 3, EVALUATION, None)
    assert "\n" not in str(caught.value)


def test_mutated_records_are_refused_or_mean_the_same(tmp_path):
    """Change the bytes of records inside of valid frames: an error of ours, or valid numbers."""
    rng = random.Random(2)
    records = [encode_example(record) for record in pretraining_records(4)]
    outcomes = []
    for number in range(usual_or_thorough(12, 40)):
        spoilt = bytearray(records[2])
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        path = write(tmp_path / f"data-{number}", [*records[:2], bytes(spoilt), records[3]])
        try:
            batches = pretrain(path, 4, EVALUATION, None)
        except DataError as error:
            assert f"data-{number}, record 2" in str(error) and "\n" not in str(error)
            outcomes.append("refused")
        else:
            ids = np.concatenate([batch["origin_input"] for batch in batches])
            segments = np.concatenate([batch["token_type_ids"] for batch in batches])
            assert ids.shape == (4, LENGTH) and 0 <= ids.min() <= ids.max() < VOCAB_SIZE
            assert 0 <= segments.min() <= segments.max() <= 2
            outcomes.append("read")
    assert set(outcomes) == {"refused", "read"}
