"""Initial weights of a graph: heads of another kind, and weights that are no numbers."""

import logging

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError
from funnel_tf.models.initial_model import check_complete, init_from_checkpoint

NAMES = ("model/lm_proj/dense/kernel", "model/lm_loss/bias", "model/input/layer_norm/beta")


def _initialize(prefix):
    """Return the values that a graph with the variables NAMES starts with, all 7 if fresh."""
    with tf.Graph().as_default(), tf.Session() as session:
        fresh = tf.constant_initializer(7.0)
        variables = [tf.get_variable(name, [2], initializer=fresh) for name in NAMES]
        report = init_from_checkpoint(str(prefix), variables)
        session.run(tf.global_variables_initializer())
        return report, {v.op.name: v for v in variables}, session.run(variables)


def test_a_head_of_another_kind_starts_fresh_as_a_whole(tmp_path, caplog):
    """transformers' masked-LM head has a bias and no projection."""
    tensors = {name: np.ones(2, np.float32) for name in NAMES[1:]}
    write_tf_checkpoint(tmp_path / "m", tensors | {"model/lm_loss/bias/adam_m": np.float32([1, 1])})
    with caplog.at_level(logging.WARNING):
        report, _, values = _initialize(tmp_path / "m")
    np.testing.assert_array_equal(values, [[7, 7], [7, 7], [1, 1]])
    assert report.restored == [NAMES[2]] and sorted(report.fresh) == sorted(NAMES[:2])
    assert "masked-LM head is of another kind" in caplog.text


def test_a_complete_head_is_restored(tmp_path):
    write_tf_checkpoint(tmp_path / "m", {name: np.ones(2, np.float32) for name in NAMES})
    np.testing.assert_array_equal(_initialize(tmp_path / "m")[2], np.ones((3, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_named(tmp_path, bad):
    tensors = {name: np.ones(2, np.float32) for name in NAMES}
    tensors[NAMES[0]][1] = bad
    write_tf_checkpoint(tmp_path / "m", tensors)
    told = f"NaN or infinite values in {NAMES[0]}: "
    with pytest.raises(CheckpointError, match=told):
        _initialize(tmp_path / "m")
    # Evaluation and prediction refuse them as well.
    with tf.Graph().as_default(), pytest.raises(CheckpointError, match=told):
        variables = [tf.get_variable(name, [2]) for name in NAMES]
        check_complete(TFCheckpoint(tmp_path / "m"), variables)
