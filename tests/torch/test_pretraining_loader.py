"""Pretraining batches: one stream for any number of processes, workers and restarts."""

import itertools
import logging

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel.pretraining.dataset import StreamConfig
from funnel.pretraining.record_index import find_records
from funnel.utils.errors import ConfigError, DataError
from funnel_torch.data.pretraining_loader import (
    PretrainBatchConfig,
    PretrainBatches,
    evaluation_batches,
)
from record_cases import LENGTH, TARGETS, damage, masker, numbers, write_set

COUNTS = (9, 14)
TOTAL = sum(COUNTS)


@pytest.fixture
def collection(tmp_path):
    write_set(tmp_path, COUNTS)
    return find_records(str(tmp_path), "train", LENGTH, True)


def _config(batch_size, grad_accum=1, num_workers=0, **stream):
    stream = StreamConfig(**{"shuffle_buffer": 8, "interleave": 2} | stream)
    return PretrainBatchConfig(batch_size, grad_accum, num_workers, stream=stream)


def _steps(collection, config, count, first=0, rank=0, world_size=1):
    batches = PretrainBatches(collection, masker(), config, rank, world_size)
    return list(itertools.islice(batches.stream(first), count))


def _merged(parts):
    """The micro-batches of some processes as one, rows in the order of the stream."""
    tensors = [
        torch.stack(tensors, 1).flatten(0, 1)
        for tensors in zip(*(part.batch for part in parts), strict=True)
    ]
    seeds = torch.tensor([part.noise_seeds for part in parts]).T.flatten()
    return [*tensors, seeds]


def _equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture
def expected(collection):
    """Seven steps of two micro-steps of eight: nearly five epochs."""
    return _steps(collection, _config(8, 2), 7)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 0), (4, 1)])
@pytest.mark.parametrize("first", [0, 4])
def test_a_step_is_the_same_however_it_is_shared(
    collection, expected, world_size, num_workers, first
):
    config = _config(8 // world_size, 2, num_workers)
    ranks = [
        _steps(collection, config, 7 - first, first, rank, world_size) for rank in range(world_size)
    ]
    for step, *shared in zip(expected[first:], *ranks, strict=True):
        for whole, *parts in zip(step, *shared, strict=True):
            assert _equal(_merged(parts), _merged([whole]))
            assert sum(part.targets for part in parts) == whole.targets == 8 * TARGETS
            assert sum(part.tokens for part in parts) == whole.tokens == 8 * LENGTH
            assert [part.records for part in parts] == [8 // world_size] * world_size


def test_epochs_follow_each_other_inside_a_step(collection, expected):
    seen = [n for step in expected for part in step for n in numbers(part.batch.origin_input)]
    for epoch in range(4):
        assert sorted(seen[epoch * TOTAL : (epoch + 1) * TOTAL]) == list(range(TOTAL))
    batches = PretrainBatches(collection, masker(), _config(8, 2), 0, 3)
    assert batches.examples_per_step == 48
    assert batches.steps_per_epoch == pytest.approx(TOTAL / 48)


def test_workers_leave_the_random_state_alone(collection):
    torch.manual_seed(1)
    _steps(collection, _config(4, num_workers=1), 2)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert after == torch.rand(1)


def test_waiting_is_measured(collection):
    batches = PretrainBatches(collection, masker(), _config(4))
    list(itertools.islice(batches.stream(), 3))
    assert (batches.wait.steps, batches.wait.take()) == (3, batches.wait.seconds)
    assert batches.wait.seconds > 0 and batches.wait.take() == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_ends_the_run_in_one_line_or_is_replaced(collection, num_workers, caplog):
    path = collection.files[1].path
    damage(path, 3, 30)
    with pytest.raises(DataError, match=rf"\A{path}, record 3 \(byte \d+\): corrupt.*\Z"):
        _steps(collection, _config(TOTAL, num_workers=num_workers), 1)
    config = _config(TOTAL, num_workers=num_workers, skip_corrupt=True)
    batches = PretrainBatches(collection, masker(), config)
    with caplog.at_level(logging.WARNING):
        steps = list(itertools.islice(batches.stream(), 3))
    assert {len(step[0].batch.target) for step in steps} == {TOTAL}
    assert batches.damaged == 1
    assert [record.getMessage().count("record 3") for record in caplog.records] == [1]


# ------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 1), (3, 0)])
def test_evaluation_sees_every_record_once(collection, world_size, num_workers):
    (whole,) = evaluation_batches(collection, masker(), _config(TOTAL))
    assert numbers(whole.batch.origin_input) == list(range(TOTAL))
    config = _config(5, 3, num_workers, seed=world_size)
    ranks = [
        list(evaluation_batches(collection, masker(), config, rank, world_size))
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1  # all take part in every exchange
    counted = [part for rank in ranks for part in rank if part.records]
    assert sum(part.targets for part in counted) == whole.targets
    for part in counted:
        rows = numbers(part.batch.origin_input)
        assert part.records == len(rows) <= 5
        assert _equal(part.batch, [tensor[rows] for tensor in whole.batch])
        assert part.noise_seeds == [whole.noise_seeds[row] for row in rows]
    seen = [n for part in counted for n in numbers(part.batch.origin_input)]
    assert sorted(seen) == list(range(TOTAL))


def test_a_process_without_records_still_takes_part(collection):
    # 23 records in steps of 11: one is left for the last step.
    lasts = [list(evaluation_batches(collection, masker(), _config(1), r, 11))[-1] for r in (0, 1)]
    assert [part.records for part in lasts] == [1, 0]
    assert (lasts[1].targets, lasts[1].tokens, len(lasts[1].batch.target)) == (0, 0, 1)


def test_evaluation_names_damage(collection):
    damage(collection.files[0].path, 8, 30)
    with pytest.raises(DataError, match="record 8 "):
        list(evaluation_batches(collection, masker(), _config(4)))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"grad_accum": 0}, {"num_workers": -1}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PretrainBatchConfig(**{"batch_size": 1} | wrong)
