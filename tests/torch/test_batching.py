"""Batches: every example once, any split of the work, and padding that changes nothing."""

from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.config.inputs import SegmentIds
from funnel.config.model import ModelConfig
from funnel.features.classification import Features
from funnel.features.tagging.windows import TaggingFeatures
from funnel.utils.errors import ConfigError, DataError
from funnel_torch.data.batching import BatchConfig, SequenceSource, TrainBatches, evaluation_plan
from funnel_torch.models.heads import FunnelForSequenceClassification, FunnelForTokenClassification
from funnel_torch.tasks.tagging import build_source

torch.set_num_threads(1)
CONFIG = ModelConfig(
    vocab_size=50, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1_1_1"
)


def some_features(lengths, seed=0):
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(5, 50, offsets[-1]).astype(np.int32)
    segments = random.integers(0, 2, offsets[-1]).astype(np.int8)
    segments[offsets[:-1]] = 2
    return Features(ids, segments, offsets, random.integers(0, 3, len(lengths)))


def make_source(count, seed=0, **options):
    lengths = np.random.default_rng(seed).integers(3, 30, count)
    return SequenceSource(some_features(lengths), CONFIG, 32, pad_id=0, **options)


def make_tagged_source(count):
    """Return sentences of 1 to 12 tagged words."""
    random = np.random.default_rng(0)
    words = random.integers(1, 13, count)
    offsets, slots = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in (words + 2, words))
    features = TaggingFeatures(
        *(random.integers(5, 50, offsets[-1]).astype(np.int32), offsets, slots),
        *(np.arange(slots[-1]), np.concatenate([1 + np.arange(n) for n in words])),
        *(random.integers(0, 3, slots[-1]), slots, SegmentIds()),
    )
    return build_source(features, CONFIG, 16, pad_id=0)


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_an_epoch_holds_every_example_once(count, by_length):
    batches = TrainBatches(make_source(count), BatchConfig(4, grad_accum=2, by_length=by_length))
    plan = batches.plan(0)
    assert len(plan) == batches.steps_per_epoch == -(-count // 8)
    assert sorted(np.concatenate(plan)) == list(range(count))
    assert sorted(len(step) for step in plan)[1:] == [8] * (len(plan) - 1)


def test_order_is_a_function_of_seed_and_epoch():
    source = make_source(60)

    def order(seed, epoch):
        return np.concatenate(TrainBatches(source, BatchConfig(4, seed=seed)).plan(epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_batches_are_of_similar_length():
    source = make_source(400)
    length_range = {}
    for by_length in (True, False):
        plan = TrainBatches(source, BatchConfig(8, by_length=by_length)).plan(0)
        length_range[by_length] = np.mean([np.ptp(source.lengths[step]) for step in plan])
    assert length_range[True] < length_range[False] / 5


@pytest.mark.parametrize(("size", "accum", "world"), [(4, 1, 2), (2, 2, 2), (2, 4, 1), (1, 1, 8)])
def test_the_plan_depends_on_the_effective_batch_alone(size, accum, world):
    source = make_source(43)
    expected = TrainBatches(source, BatchConfig(8)).plan(3)
    ranks = [TrainBatches(source, BatchConfig(size, accum), r, world) for r in range(world)]
    for batches in ranks:
        assert [s.tolist() for s in batches.plan(3)] == [s.tolist() for s in expected]
    for step in expected:
        parts = [batches.micro_batches(step) for batches in ranks]
        assert len({len(part) for part in parts}) == 1  # as many gradient exchanges everywhere
        assert all(len(part) <= accum for part in parts)
        weights = sum(weight for part in parts for _, weight in part)
        assert weights == pytest.approx(1.0)
        # Labels of the examples that count, from all processes, are those of the step.
        counted = [inputs["labels"] for part in parts for inputs, weight in part if weight > 0]
        labels = source.features.labels[step]
        assert sorted(torch.cat(counted).tolist()) == sorted(labels.tolist())


@pytest.mark.parametrize(("size", "accum", "world"), [(4, 2, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)])
def test_a_mean_over_words_does_not_depend_on_how_a_step_is_divided(size, accum, world):
    source, whole = make_tagged_source(8), None
    for split in ((8, 1, 1), (size, accum, world)):
        config = BatchConfig(split[0], split[1])
        ranks = [TrainBatches(source, config, rank, split[2]) for rank in range(split[2])]
        torch.manual_seed(0)
        model, losses = FunnelForTokenClassification(CONFIG, 3).eval(), []
        for inputs, weight in (one for batches in ranks for one in next(batches.stream())):
            losses.append(model(**inputs).loss * weight)
            losses[-1].backward()
        found = (sum(losses), model.classifier.weight.grad)
        whole = whole or found
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_process_without_examples_computes_one_that_does_not_count():
    source = make_source(5)
    batches = TrainBatches(source, BatchConfig(2), rank=2, world_size=4)
    ((inputs, weight),) = batches.micro_batches(np.array([3, 1]))
    assert weight == 0.0
    assert inputs["input_ids"].shape[0] == 1


def test_stream_starts_anywhere():
    batches = TrainBatches(make_source(20), BatchConfig(4))
    every = [step[0][0]["input_ids"] for step in islice(batches.stream(), 14)]
    for first in (1, 5, 7, 10):
        later = [s[0][0]["input_ids"] for s in islice(batches.stream(first), 14 - first)]
        assert all(torch.equal(a, b) for a, b in zip(every[first:], later, strict=True))


def test_worker_processes_give_the_same_batches_and_leave_the_generator_alone():
    source = make_source(12)
    inline = TrainBatches(source, BatchConfig(4))
    workers = TrainBatches(source, BatchConfig(4, num_workers=1))
    before = torch.get_rng_state()
    for a, b in zip(islice(inline.stream(), 4), islice(workers.stream(), 4), strict=True):
        ((inputs, weight),), ((other_inputs, other_weight),) = a, b
        assert weight == other_weight
        assert inputs.keys() == other_inputs.keys()
        assert all(torch.equal(inputs[key], other_inputs[key]) for key in inputs)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncate_seq": False},
        {"separate_cls": False},
        {"pooling_type": "max", "pool_q_only": False},
        {"pooling_size": 3},
        {"block_size": "1_1_1_1", "rel_attn_type": "factorized"},
        {"block_size": "2"},
        {"rel_attn_type": "null"},
    ],
)
@pytest.mark.parametrize("max_length", [32, 29])
def test_short_padding_changes_no_result(changes, max_length):
    """Each example gives the same result padded as its batch needs and to max_length."""
    torch.manual_seed(0)
    config = CONFIG.replace(**changes)
    model = FunnelForSequenceClassification(config, num_labels=3).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    features = some_features(np.arange(2, max_length + 1))
    short = SequenceSource(features, config, max_length, pad_id=4)
    rounded = SequenceSource(features, config, max_length, pad_id=4, length_step=7)
    full = SequenceSource(features, config, max_length, pad_id=4, length_step=max_length)

    def logits(source, indices):
        arrays = source.collate(np.array(indices))
        arrays.pop("labels")
        with torch.no_grad():
            return model(**{k: torch.from_numpy(v) for k, v in arrays.items()}).logits

    everything = logits(full, range(len(features)))
    saved = 0
    for start in range(0, len(features), 3):
        indices = list(range(start, min(start + 3, len(features))))
        width = short.collate(np.array(indices))["input_ids"].shape[1]
        assert features.lengths[indices].max() <= width <= max_length
        saved += max_length - width
        for source in (short, rounded):
            found = logits(source, indices)
            torch.testing.assert_close(found, everything[indices], rtol=1e-5, atol=1e-6)
        width = rounded.collate(np.array(indices))["input_ids"].shape[1]
        assert width % 7 == 0 or width == max_length
    assert saved > 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_example_once(world):
    lengths = make_source(23).lengths
    parts = [evaluation_plan(lengths, 4, rank, world) for rank in range(world)]
    indices = [i for part in parts for batch in part for i in batch]
    assert sorted(indices) == list(range(23))
    assert lengths[parts[0][0]].max() == lengths.max()


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="batch_size"):
        BatchConfig(0)
    with pytest.raises(ConfigError, match="grad_accum"):
        BatchConfig(1, grad_accum=0)
    with pytest.raises(ConfigError, match="num_workers"):
        BatchConfig(1, num_workers=-1)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluation_plan(np.array([1]), 0)
    with pytest.raises(DataError, match="no examples"):
        TrainBatches(make_source(0), BatchConfig(1))


def test_no_examples_are_an_error():
    with pytest.raises(DataError, match="no examples to evaluate or predict"):
        evaluation_plan(np.zeros(0, np.int64), 4)
