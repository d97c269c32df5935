"""Step 0, which TensorFlow saves before training, wins no tie."""

import pytest

from support_tf import import_tensorflow

import_tensorflow()

from funnel.utils.logging import NullLog
from funnel_tf.training.evaluation import evaluate_all
from funnel_tf.training.run_directory import SavedStep


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.5, 0.5, 0.5], 4), ([0.5, 0.1, 0.5], 8), ([0.6, 0.5, 0.5], 0), ([0.5, 0.6, 0.6], 4)],
)
def test_step_0_is_best_only_if_it_is_better(tmp_path, values, best):
    steps = [SavedStep(step, tmp_path / f"model.ckpt-{step}") for step in (0, 4, 8)]
    scores = dict(zip((saved.prefix for saved in steps), values, strict=True))
    found = evaluate_all(steps, lambda prefix: {"dev": {"accuracy": scores[prefix]}}, NullLog())
    assert found.saved.step == best
