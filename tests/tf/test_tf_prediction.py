"""Predictions of several checkpoints in one session equal those in sessions of their own."""

import pytest

from support_tf import import_tensorflow

import_tensorflow()

import numpy as np

from funnel.utils.errors import CheckpointError
from funnel_tf.compat import tf
from funnel_tf.training.estimator import (
    Graph,
    RunSettings,
    build_estimator,
    make_model_fn,
    predict_all,
)
from funnel_tf.training.prediction import Predictor

RUN = RunSettings(
    model_dir="", train_steps=1, train_batch_size=2, predict_batch_size=2, num_core_per_host=1
)


def _graph(features, options, mode):
    weight = tf.get_variable("weight", [], initializer=tf.zeros_initializer())
    tf.train.get_or_create_global_step()
    return Graph(None, {"product": weight * tf.cast(features["x"], tf.float32)})


def _input(params):
    data = tf.data.Dataset.from_tensor_slices({"x": np.arange(5)})
    return data.batch(params["batch_size"])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, saved = tmp_path_factory.mktemp("checkpoints"), []
    for number in (3.0, 7.0):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.get_variable("weight", initializer=number)
            tf.train.get_or_create_global_step()
            if number == 7.0:
                tf.get_variable("unused", initializer=1.0)
            session.run(tf.global_variables_initializer())
            saved.append(tf.train.Saver().save(session, str(folder / f"model-{number:.0f}")))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("other", initializer=1.0)
        session.run(tf.global_variables_initializer())
        saved.append(tf.train.Saver().save(session, str(folder / "foreign")))
    return saved


def test_one_session_for_all(checkpoints):
    first, second, foreign = checkpoints
    built = []

    def graph(*arguments):
        built.append(1)
        return _graph(*arguments)

    predictor = Predictor(build_estimator(RUN, make_model_fn(graph, RUN)), _input, 3)
    for checkpoint in (first, second, first):
        found = predictor.predict(checkpoint)["product"]
        estimator = build_estimator(RUN, make_model_fn(_graph, RUN))
        alone = predict_all(estimator, _input, checkpoint)["product"]
        assert (found == alone).all() and len(found) == 5
    assert found.tolist() == [0, 3, 6, 9, 12]
    assert len(built) == 1
    # A checkpoint that does not fit leaves the session usable.
    with pytest.raises(CheckpointError, match="missing: global_step"):
        predictor.predict(foreign)
    assert predictor.predict(second)["product"].tolist() == [0, 7, 14, 21, 28]
    predictor.close()
    assert predictor.predict(first)["product"].tolist() == [0, 3, 6, 9, 12]
    assert len(built) == 2
    predictor.close()
