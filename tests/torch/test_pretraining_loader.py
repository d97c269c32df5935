"""Pretraining batches: the same for any number of processes, workers and restarts."""

import itertools
import logging

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel.pretraining.dataset import DatasetConfig
from funnel.pretraining.record_index import find_records
from funnel.utils.errors import ConfigError, DataError
from funnel_torch.data.pretraining_loader import (
    PretrainBatchConfig,
    PretrainBatches,
    evaluation_batches,
)
from record_cases import LENGTH, TARGETS, corrupt, masker, numbers, write_set

COUNTS = (9, 14)
TOTAL = sum(COUNTS)


@pytest.fixture
def collection(tmp_path):
    write_set(tmp_path, COUNTS)
    return find_records(str(tmp_path), "train", LENGTH, True)


def _config(batch_size, grad_accum=1, num_workers=0, **order):
    dataset = DatasetConfig(**{"shuffle_buffer": 8, "interleave": 2} | order)
    return PretrainBatchConfig(batch_size, grad_accum, num_workers, dataset=dataset)


def _steps(collection, config, count, first=0, rank=0, world_size=1):
    batches = PretrainBatches(collection, masker(), config, rank, world_size)
    return list(itertools.islice(batches.stream(first), count))


def _merged(parts):
    """The micro-batches of several processes merged, rows in the order of the dataset."""
    return [
        torch.stack(tensors, 1).flatten(0, 1)
        for tensors in zip(*(_tensors(part) for part in parts), strict=True)
    ]


def _tensors(batch):
    return [value for value in batch if isinstance(value, torch.Tensor)]


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
        for full, *parts in zip(step, *shared, strict=True):
            assert _equal(_merged(parts), _merged([full]))
            assert full.target_mask.sum() == 8 * TARGETS
            assert full.attention_mask.sum() == 8 * LENGTH
            assert [len(part.target) for part in parts] == [8 // world_size] * world_size
            assert not any(part.is_dummy for part in parts)


def test_epochs_follow_each_other_inside_a_step(collection, expected):
    seen = [n for step in expected for part in step for n in numbers(part.origin_input)]
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
def test_corrupt_records_end_the_run_in_one_line_or_are_replaced(collection, num_workers, caplog):
    path = collection.files[1].path
    corrupt(path, 3, 30)
    with pytest.raises(DataError, match=rf"\A{path}, record 3 \(byte \d+\): corrupt.*\Z"):
        _steps(collection, _config(TOTAL, num_workers=num_workers), 1)
    config = _config(TOTAL, num_workers=num_workers, skip_corrupt=True)
    batches = PretrainBatches(collection, masker(), config)
    with caplog.at_level(logging.WARNING):
        steps = list(itertools.islice(batches.stream(), 3))
    assert {len(step[0].target) for step in steps} == {TOTAL}
    assert batches.num_corrupt == 1
    assert [record.getMessage().count("record 3") for record in caplog.records] == [1]


# ------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 1), (3, 0)])
def test_evaluation_sees_every_record_once(collection, world_size, num_workers):
    (full,) = evaluation_batches(collection, masker(), _config(TOTAL))
    assert numbers(full.origin_input) == list(range(TOTAL))
    config = _config(5, 3, num_workers, seed=world_size)
    ranks = [
        list(evaluation_batches(collection, masker(), config, rank, world_size))
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1  # all take part in every exchange
    counted = [part for rank in ranks for part in rank if not part.is_dummy]
    assert sum(part.target_mask.sum() for part in counted) == full.target_mask.sum()
    for part in counted:
        rows = numbers(part.origin_input)
        assert len(rows) <= 5
        assert _equal(_tensors(part), [tensor[rows] for tensor in _tensors(full)])
    seen = [n for part in counted for n in numbers(part.origin_input)]
    assert sorted(seen) == list(range(TOTAL))


def test_a_process_without_records_gets_a_dummy(collection):
    # 23 records in steps of 11: one is left for the last step.
    lasts = [list(evaluation_batches(collection, masker(), _config(1), r, 11))[-1] for r in (0, 1)]
    assert [part.is_dummy for part in lasts] == [False, True]
    assert len(lasts[1].target) == 1


def test_evaluation_names_corrupt_records(collection):
    corrupt(collection.files[0].path, 8, 30)
    with pytest.raises(DataError, match="record 8 "):
        list(evaluation_batches(collection, masker(), _config(4)))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"grad_accum": 0}, {"num_workers": -1}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PretrainBatchConfig(**{"batch_size": 1} | wrong)
