"""One process needs no process group; two processes sum, gather, and fail together."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import program_server
from funnel.utils.errors import RunError
from funnel_torch.training.distributed import (
    DistributedConfig,
    DistributedContext,
    choose_device,
    start,
)

pytestmark = pytest.mark.slow

WORKER = Path(__file__).resolve().parents[1] / "support" / "distributed_worker.py"


def test_alone_everything_is_the_identity():
    with start(DistributedConfig(device_id=-1)) as world:
        assert not torch.distributed.is_initialized()
        assert (world.rank, world.size, world.is_rank_zero) == (0, 1, True)
        model = torch.nn.Linear(1, 1)
        assert world.wrap(model) is model
        assert world.sum(torch.tensor(2.0)).item() == 2.0
        assert world.gather("a") == ["a"]
        assert world.broadcast(3) == 3
        assert world.rank_zero_first(lambda: 4) == 4
        done = []
        world.on_rank_zero(lambda: done.append(1))
        world.barrier()
        assert done == [1]


def test_two_processes(tmp_path):
    outputs = [tmp_path / f"{rank}.json" for rank in range(2)]
    workers = [
        program_server.start([WORKER, rank, tmp_path / "meeting", output], tmp_path / f"{rank}.log")
        for rank, output in enumerate(outputs)
    ]
    try:
        assert [worker.wait(120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second = (json.loads(output.read_text()) for output in outputs)
    for rank, found in enumerate((first, second)):
        assert found["sum"] == 3.0
        assert found["kept"] == rank + 1.0
        assert found["gathered"] == [[0], [0, 1]]
        assert found["broadcast"] == {"seed": 0}
        assert found["gradient"] == 1.5  # the mean of 1 and 2
    assert (first["order"], second["order"]) == ([0, "first"], [1])
    assert (first["failure"], second["failure"]) == ("DataError", "FirstProcessFailed")


def test_impossible_places_are_refused():
    with pytest.raises(RunError, match="rank 2 of 2"), start(DistributedConfig(2, 2, -1)):
        pass
    config = DistributedConfig(0, 2, -1, init_method="no-such://scheme")
    with pytest.raises(RunError, match="no-such"), start(config):
        pass


def test_device(monkeypatch, caplog):
    assert choose_device(-1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("INFO"):
        assert choose_device(0) == torch.device("cpu")
    assert "no GPU" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(1) == torch.device("cuda", 1)
    with pytest.raises(RunError, match="GPUs 0 to 1"):
        choose_device(2)


def test_first_process_is_rank_0():
    assert not DistributedContext(1, 2, torch.device("cpu")).is_rank_zero
