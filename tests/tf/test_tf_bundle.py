"""Checkpoints exchanged with TensorFlow itself, in both directions."""

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint, with_slots
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError
from support_tf import import_tensorflow

pytestmark = pytest.mark.slow

tf = import_tensorflow()
v1 = tf.compat.v1

FULL = ("mlm", "discriminator", "generator")
SMALL = TINY.replace(block_size="1_1x2", decoder_size="1")
DTYPES = ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool")


def _save_with_tensorflow(prefix, tensors, **options):
    """A checkpoint written by a training with v1's Saver."""
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.train.Saver(
            [v1.get_variable(name, initializer=values) for name, values in tensors.items()],
            **options,
        )
        session.run(v1.global_variables_initializer())
        saver.save(session, str(prefix), write_meta_graph=False)


def _restore_with_tensorflow(prefix, tensors):
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {
            name: v1.get_variable(name, shape=values.shape, dtype=values.dtype)
            for name, values in tensors.items()
        }
        v1.train.Saver(variables).restore(session, str(prefix))
        return session.run(variables)


def _mixed():
    random = np.random.default_rng(0)
    tensors = {f"a/{dtype}": random.integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES}
    return tensors | {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.asarray(7, np.int64),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    }


def test_we_read_every_type_that_tensorflow_writes(tmp_path):
    tensors = _mixed()
    _save_with_tensorflow(tmp_path / "model.ckpt", tensors)
    assert_same(dict(TFCheckpoint(tmp_path)), tensors)


def test_tensorflow_reads_every_type_that_we_write(tmp_path):
    tensors = _mixed()
    write_tf_checkpoint(tmp_path / "model.ckpt", tensors)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt")
    reader = tf.train.load_checkpoint(str(tmp_path))
    assert_same({name: np.asarray(reader.get_tensor(name)) for name in tensors}, tensors)


def test_both_write_the_same_data_file_and_the_same_entries(tmp_path):
    tensors = _mixed()
    _save_with_tensorflow(tmp_path / "theirs", tensors)
    write_tf_checkpoint(tmp_path / "ours", tensors)
    data = ".data-00000-of-00001"
    theirs, ours = (tmp_path / f"{name}{data}" for name in ("theirs", "ours"))
    assert theirs.read_bytes() == ours.read_bytes()
    assert TFCheckpoint(tmp_path / "theirs").entries == TFCheckpoint(tmp_path / "ours").entries


def test_a_full_pretraining_checkpoint_of_tensorflow(tmp_path):
    checkpoint = with_slots(random_checkpoint(SMALL, FULL))
    _save_with_tensorflow(
        tmp_path / "model.ckpt-1000", {**checkpoint.tensors, **checkpoint.optimizer}
    )
    SMALL.save_net_config(tmp_path / "net_config.json")
    found = load_checkpoint(tmp_path / "latest", with_optimizer=True)
    assert_same(found.tensors, checkpoint.tensors)
    assert_same(found.optimizer, checkpoint.optimizer)


def test_saver_restores_what_we_write_after_a_trip_through_the_other_layout(tmp_path):
    checkpoint = with_slots(random_checkpoint(SMALL, FULL))
    save_checkpoint(checkpoint, tmp_path / "hf", "hf")
    again = load_checkpoint(tmp_path / "hf", with_optimizer=True)
    save_checkpoint(again, tmp_path / "tf/model.ckpt", "tf")
    wanted = {**checkpoint.tensors, **checkpoint.optimizer}
    found = _restore_with_tensorflow(tmp_path / "tf/model.ckpt", wanted)
    assert_same({name: np.asarray(values) for name, values in found.items()}, wanted)


def test_bfloat16_variables(tmp_path):
    values = np.array([1.5, -2.0, 3e38, np.inf], tf.bfloat16.as_numpy_dtype)
    _save_with_tensorflow(tmp_path / "model.ckpt", {"w": values})
    found = TFCheckpoint(tmp_path / "model.ckpt")["w"]
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_sharded_checkpoints(tmp_path):
    """One data file per device, as a distributed Saver writes them."""
    with tf.Graph().as_default():
        variables = []
        for index in range(3):
            with tf.device(f"/job:worker/task:{index}/cpu:0"):
                variables.append(v1.get_variable(f"w{index}", initializer=np.float32([index])))
        saver = v1.train.Saver(variables, sharded=True)
        definition = saver.as_saver_def()
        graph = v1.get_default_graph().as_graph_def()
    for node in graph.node:  # run on one machine what was built for three
        node.device = ""
    with tf.Graph().as_default(), v1.Session() as session:
        tf.import_graph_def(graph, name="")
        session.run([f"w{index}/Assign" for index in range(3)])
        session.run(
            definition.save_tensor_name,
            {definition.filename_tensor_name: str(tmp_path / "model.ckpt")},
        )
    assert len(list(tmp_path.glob("*.data-*-of-00003"))) == 3
    found = TFCheckpoint(tmp_path / "model.ckpt")
    assert {name: list(found[name]) for name in found} == {"w0": [0], "w1": [1], "w2": [2]}


def test_partitioned_variables_are_refused_by_name(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "w",
            shape=(4, 2),
            partitioner=v1.fixed_size_partitioner(2),
        )
        v1.get_variable("x", initializer=np.float32([1]))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
    found = TFCheckpoint(tmp_path)
    assert list(found) == ["w", "x"] and list(found["x"]) == [1]
    with pytest.raises(CheckpointError, match="w is a partitioned variable; save the checkpoint"):
        found["w"]


def test_object_based_checkpoints_are_refused(tmp_path):
    tf.train.Checkpoint(w=tf.Variable([1.0])).save(str(tmp_path / "model.ckpt"))
    with pytest.raises(CheckpointError, match="TensorFlow 2 object-based checkpoint"):
        load_checkpoint(tmp_path)


def test_an_index_of_many_blocks(tmp_path):
    """20,000 names take more than one block on either side."""
    tensors = {f"scope_{index:05d}/kernel": np.float32([index]) for index in range(20_000)}
    write_tf_checkpoint(tmp_path / "ours", tensors)
    reader = tf.train.load_checkpoint(str(tmp_path / "ours"))
    assert len(reader.get_variable_to_shape_map()) == len(tensors)
    for name in list(tensors)[::997]:
        assert reader.get_tensor(name) == tensors[name]
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
    assert_same(dict(TFCheckpoint(tmp_path / "theirs")), tensors)
