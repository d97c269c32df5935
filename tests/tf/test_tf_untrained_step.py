"""Choice of the best checkpoint: step 0 wins no tie, and a model without a loss never wins."""

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


def test_a_checkpoint_with_a_loss_that_is_no_number_is_not_the_best(tmp_path):
    steps = [SavedStep(step, tmp_path / f"model.ckpt-{step}") for step in (1, 2)]
    scores = {
        steps[0].prefix: {"dev": {"accuracy": 0.6, "loss": 0.6}},
        steps[1].prefix: {"dev": {"accuracy": 0.68, "loss": float("nan")}},
    }
    assert evaluate_all(steps, scores.__getitem__, NullLog()).saved.step == 1
    assert evaluate_all(steps[::-1], scores.__getitem__, NullLog()).saved.step == 1
