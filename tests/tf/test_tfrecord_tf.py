"""TFRecord files exchanged with TensorFlow, in both directions."""

import random

import numpy as np
import pytest

from funnel.formats.tfrecord import (
    decode_example,
    encode_example,
    read_examples,
    read_records,
    write_records,
)
from funnel.pretraining.create_records import CorpusConfig, create_records
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError
from support_tf import import_tensorflow

tf = import_tensorflow()

WORDS = ("a", "b", "c", "d", "##e", "f", ".")
SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")


def _write_with_tensorflow(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _read_with_tensorflow(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def _feature(values):
    if isinstance(values, list):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _random_features(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, 40))
    return {
        "small": rng.integers(0, 128, size),
        "ids": rng.integers(0, 40_000, size),
        "any": rng.integers(-(2**63), 2**63 - 1, size) >> rng.integers(0, 64, size),
        "float": rng.normal(size=size).astype(np.float32),
        "bytes": [rng.bytes(int(n)) for n in rng.integers(0, 9, size)],
        "ü": np.array([seed]),
    }


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    return [b"", *(rng.bytes(int(size)) for size in rng.integers(0, 5000, 50))]


def test_both_write_the_same_file(tmp_path, records):
    write_records(tmp_path / "ours", records)
    _write_with_tensorflow(tmp_path / "theirs", records)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_each_reads_what_the_other_wrote(tmp_path, records):
    write_records(tmp_path / "ours", records)
    assert _read_with_tensorflow(tmp_path / "ours") == records
    _write_with_tensorflow(tmp_path / "theirs", records)
    assert [record.data for record in read_records(tmp_path / "theirs")] == records


def test_both_refuse_the_same_corrupt_files(tmp_path):
    write_records(tmp_path / "a", [b"one", b"two", b"three"])
    valid = (tmp_path / "a").read_bytes()
    for position in range(0, len(valid), 3):
        (tmp_path / "a").write_bytes(valid[:position] + b"#" + valid[position + 1 :])
        with pytest.raises(tf.errors.DataLossError):
            _read_with_tensorflow(tmp_path / "a")
        with pytest.raises(DataError, match="corrupt"):
            list(read_records(tmp_path / "a"))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_example_has_the_same_bytes(seed):
    features = _random_features(seed)
    message = tf.train.Features(feature={name: _feature(v) for name, v in features.items()})
    theirs = tf.train.Example(features=message)
    ours = encode_example(features)
    assert ours == theirs.SerializeToString(deterministic=True)
    assert tf.train.Example.FromString(ours) == theirs
    decoded = decode_example(theirs.SerializeToString())
    assert decoded.keys() == features.keys()
    for name, values in features.items():
        np.testing.assert_array_equal(decoded[name], np.array(values, decoded[name].dtype))


def test_pretraining_records_as_a_tensorflow_pipeline_reads_them(tmp_path):
    rng = random.Random(0)
    lines = [" ".join(rng.choices("abcdf", k=rng.randint(1, 9))) + "e ." for _ in range(200)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL + WORDS))
    config = CorpusConfig(str(tmp_path / "text.txt"), str(tmp_path), seq_len=16)
    shard = create_records(config, 0, get_tokenizer("word_piece", tmp_path / "vocab.txt"))
    spec = {
        "input": tf.io.FixedLenFeature([16], tf.int64),
        "seg_id": tf.io.FixedLenFeature([16], tf.int64),
        "label": tf.io.FixedLenFeature([1], tf.int64),
        "boundary": tf.io.VarLenFeature(tf.int64),
    }
    dataset = tf.data.TFRecordDataset(str(shard.path))
    theirs = [tf.io.parse_single_example(record, spec) for record in dataset]
    ours = [features for _, features in read_examples(shard.path, spec)]
    assert len(theirs) == len(ours) == shard.num_example > 50
    for parsed, features in zip(theirs, ours, strict=True):
        parsed["boundary"] = tf.sparse.to_dense(parsed["boundary"])
        for name in spec:
            np.testing.assert_array_equal(parsed[name].numpy(), features[name])
