"""Statistics of pretraining, against scikit-learn."""

import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from sklearn import metrics

from funnel_torch.models.electra import MLMPretraining, PretrainingSums
from funnel_torch.training.pretraining_metrics import (
    area_under_curve,
    score_histogram,
    summarize,
)
from pretraining_cases import PLAIN, electra, masked_batch, noise_for


def test_statistics_equal_sklearn():
    model, batch = electra(), masked_batch((17, 13, 5, 17, 16, 17))
    output = model(batch, noise_for(batch))
    histogram = score_histogram(output.disc_logits, output.is_replaced, batch.attention_mask)
    found = summarize(PretrainingSums(*output.sums.vector()), histogram)
    real = batch.attention_mask
    truth, scores = output.is_replaced[real].numpy(), -output.disc_logits[real].numpy()
    predicted = scores > 0
    assert predicted.any() and truth.any()
    assert found["disc_precision"] == pytest.approx(metrics.precision_score(truth, predicted))
    assert found["disc_recall"] == pytest.approx(metrics.recall_score(truth, predicted))
    assert found["disc_accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["replaced_rate"] == pytest.approx(truth.mean())
    assert found["disc_loss"] == pytest.approx(output.disc_loss.item())
    assert found["mlm_loss"] == pytest.approx(output.mlm_loss.item())
    assert histogram.sum(1).tolist() == [(~truth).sum(), truth.sum()]
    assert next(iter(found)) == "mlm_loss"


def test_area_under_curve_equals_sklearn():
    generator = torch.Generator().manual_seed(0)
    shape = (30, 100)
    is_replaced = torch.rand(shape, generator=generator) < 0.1
    logits = 3 * torch.randn(shape, generator=generator) + torch.where(is_replaced, -2, 4)
    attention_mask = torch.rand(shape, generator=generator) >= 0.2
    histogram = sum(
        score_histogram(logits[part], is_replaced[part], attention_mask[part])
        for part in (slice(0, 10), slice(10, None))
    )
    wanted = metrics.roc_auc_score(is_replaced[attention_mask], -logits[attention_mask])
    assert 0.8 < wanted < 0.95
    assert area_under_curve(histogram) == pytest.approx(wanted, abs=2e-4)


def test_accuracy_counts_targets_alone():
    batch, model = masked_batch(), MLMPretraining(PLAIN).eval()
    with torch.no_grad():
        # The bias decides: every prediction is the first record's first target.
        model.lm_head.bias[batch.target[0, 0]] = 1e4
    sums = model(batch).sums
    filled_targets = batch.target[batch.target_mask]
    assert sums.mlm_correct == (filled_targets == batch.target[0, 0]).sum() > 0
    assert sums.targets == len(filled_targets)
    found = summarize(sums)
    assert sorted(found) == ["mlm_accuracy", "mlm_loss"]
    assert found["mlm_accuracy"] == pytest.approx(float(sums.mlm_correct / sums.targets))
    with torch.no_grad():
        model.lm_head.bias[0] = 1e5
    assert not batch.target[~batch.target_mask].any(), "an empty slot's target is 0"
    assert model(batch).sums.mlm_correct == 0


def test_area_under_curve_of_known_histograms():
    apart = torch.zeros(2, 10)
    apart[0, 2], apart[1, 7] = 5, 3
    assert area_under_curve(apart) == 1 and area_under_curve(apart.flip(0)) == 0
    assert area_under_curve(torch.ones(2, 10)) == 0.5
    assert math.isnan(area_under_curve(torch.stack([torch.ones(10), torch.zeros(10)])))
