"""harness/products.py replays the matrix products of a model, and nothing else."""

import sys

import pytest

import repo_layout

torch = pytest.importorskip("torch")
sys.path.append(str(repo_layout.ROOT / "benchmarks"))

from torch.utils.flop_counter import FlopCounterMode

from harness import products


def _flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_record_products_a_training_step_forward_and_backward():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.GELU(), torch.nn.Linear(48, 8))
    x, table = torch.randn(5, 24), torch.zeros(2, 5, 5)

    def run():
        model(x).softmax(-1).sum().backward()
        table.baddbmm_(x.view(5, 2, 12).transpose(0, 1), x.view(5, 2, 12).permute(1, 2, 0))

    replay = products.record_products(run)
    state = [table, *model.parameters(), *(weight.grad for weight in model.parameters())]
    before = [tensor.clone() for tensor in state]
    counted = _flops(replay)
    assert all(map(torch.equal, state, before))
    assert counted == _flops(run) > 0
    assert not torch.equal(table, before[0])


def test_composite_products_in_inference_mode():
    model, x = torch.nn.Linear(6, 4, dtype=torch.bfloat16), torch.ones(3, 6, dtype=torch.bfloat16)

    @torch.inference_mode()
    def run():
        return model(x)

    assert _flops(products.record_products(run)) == 2 * 3 * 6 * 4
    with pytest.raises(ValueError, match="no matrix product"):
        products.record_products(lambda: x + 1)


def test_operands_take_turns_in_the_memory():
    memory = products._Memory(64)
    first, second, third = (memory.stand_in(torch.empty(4, 6)) for _ in range(3))
    starts = [part.storage_offset() for part in (first, second, third)]
    assert starts == [0, 32, 0]
    transposed = memory.stand_in(torch.empty(3, 5).t())
    assert (transposed.shape, transposed.stride()) == ((5, 3), (1, 5))
    assert memory.stand_in("mean") == "mean"
