"""Steps whose gradients are not finite, with every optimizer, and results that are read late."""

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from funnel.utils.errors import RunError
from funnel.utils.interruption import Interrupted
from funnel_torch.data.batching import BatchConfig
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import FunnelAdamW, step_if_finite
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.stopping import StepRequests, StepResult, StepResults
from trainer_cases import ListLog, Points, directory_output, make

OPTIMIZERS = {
    "fused AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),
    "foreach AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=True),
    "FunnelAdamW": lambda groups: FunnelAdamW(groups, lr=0.01, weight_decay=0.1),
    "fused FunnelAdamW": lambda groups: FunnelAdamW(groups, 0.01, weight_decay=0.1, fused=True),
    "uncorrected": lambda groups: FunnelAdamW(groups, 0.01, correct_bias=False, fused=True),
}


def take_steps(build, norms):
    """Weights and optimizer after steps with gradients of a fixed seed and these norms."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    optimizer = build([{"params": list(layer.parameters())} for layer in layers])
    for norm in norms:
        for parameter in layers.parameters():
            good = math.isfinite(norm)
            parameter.grad = (
                torch.randn_like(parameter) if good else torch.full_like(parameter, norm)
            )
        step_if_finite(optimizer, torch.tensor(norm))
    return layers.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_norm_that_is_not_finite_changes_nothing(name, place, bad):
    """Weights, moments and step counts are those of the steps before, and those after go on."""
    build = OPTIMIZERS[name]
    norms = [1.0] * place
    before, after = take_steps(build, norms), take_steps(build, [*norms, bad])
    if place:  # before the first step there are no moments
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    found = take_steps(build, [*norms, bad, bad, 1.0, 1.0])
    expected = take_steps(build, [*norms, 1.0, 1.0])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found[0]["0.weight"], before[0]["0.weight"])


@pytest.mark.parametrize("correct", [True, False])
def test_the_fused_form_of_funnel_adamw_is_the_plain_one(correct):
    """Also with the state of the other form, and with step counts that are numbers in both."""

    def build(fused, state=None):
        def make_optimizer(groups):
            settings = {"lr": 0.01, "weight_decay": 0.1, "correct_bias": correct}
            optimizer = FunnelAdamW(groups, **settings, fused=fused)
            if state is not None:
                optimizer.load_state_dict(copy.deepcopy(state))
            return optimizer

        return make_optimizer

    steps = [1.0] * 40
    plain, fused = take_steps(build(False), steps), take_steps(build(True), steps)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    copied = copy.deepcopy(FunnelAdamW([torch.nn.Parameter(torch.ones(1))], fused=True))
    copied.param_groups[0]["params"][0].grad = torch.ones(1)
    step_if_finite(copied, torch.tensor(1.0))
    assert copied.state_dict()["param_groups"][0]["step"] == 1
    for state in (plain[1], fused[1]):
        assert [type(group["step"]) for group in state["param_groups"]] == [int, int]
        ways = [take_steps(build(way, state), steps[:3]) for way in (True, False)]
        torch.testing.assert_close(*ways, rtol=1e-5, atol=1e-6)
        assert ways[0][1]["param_groups"][0]["step"] == 43


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.99999), (0.0, 0.9)])
@pytest.mark.parametrize("step", [0, 1, 10, 10**4, 10**6])
def test_bias_correction_has_all_digits(betas, step):
    """One step from moments that are 0: its length is the correction, but for epsilon."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = FunnelAdamW([parameter], lr=1.0, betas=betas, eps=1e-12, fused=True)
    optimizer.param_groups[0]["step"] = step
    parameter.grad = torch.ones(4)
    optimizer.step()
    t = step + 1
    factor = math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    expected = factor * (1 - betas[0]) / math.sqrt(1 - betas[1])
    assert -parameter[0].item() == pytest.approx(expected, rel=1e-6)


def run(path, name, delay, **settings):
    """A run in which two steps of each epoch are not finite: logs, checkpoint, weights, saves."""
    log = ListLog()
    trainer = make(Points(28, poison=[3, 9]), BatchConfig(4), total_steps=23, **settings)
    trainer.optimizer = OPTIMIZERS[name]([{"params": list(trainer.model.parameters())}])
    trainer.output = directory_output(path, trainer.model, log)
    trainer._results = StepResults(delay)
    saved, save = [], trainer.save
    trainer.save = lambda: (saved.append((trainer.progress.step, trainer.progress.skipped)), save())
    trainer.train(lambda: {"dev": {"accuracy": trainer.progress.skipped / 10}})
    state = RunDirectory(path, {"a": 1}, resume=True).load_state()
    rows = [
        (step, split, {k: v for k, v in row.items() if k != "examples_per_second"})
        for step, split, row in log.rows
    ]
    bookkeeping = (rows, saved, state["progress"], state["scaler"])
    return repr(bookkeeping), (state["optimizer"], trainer.model.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("settings", "skipped"),
    [
        ({"log_steps": 5, "eval_steps": 6, "save_steps": 4}, 5),
        ({"log_steps": 0, "precision": "fp16"}, 7),  # two more while the loss scale is found
    ],
)
def test_late_reading_changes_nothing(tmp_path, name, settings, skipped):
    at_once, late, later = (
        run(tmp_path / str(delay), name, delay, **settings) for delay in (0, 1, 3)
    )
    assert late[0] == at_once[0] == later[0]
    assert f"'skipped': {skipped}, 'skipped_in_a_row'" in at_once[0]
    for other in (late, later):
        torch.testing.assert_close(other[1], at_once[1], rtol=0, atol=0)


@pytest.mark.parametrize("delay", [0, 1])
def test_divergence_is_reported_with_its_step(delay):
    """One step late, when the next one has been enqueued."""
    trainer = make(Points(4, poison=range(4)), total_steps=1000, log_steps=0)
    trainer._results = StepResults(delay)
    with pytest.raises(RunError, match="^step 50: gradients of 50 steps in a row"):
        trainer.train()
    assert trainer.progress.step == 50 + delay


def test_the_newest_results_are_read_last():
    results = StepResults(delay=1)
    results.add(1, torch.tensor([1.5, 2.5, 0.0, 0.0]))
    assert results.read(everything=False) == []
    results.add(2, torch.tensor([math.inf, 0.5, 0.0, 0.0]))
    (first,) = results.read(everything=False)
    assert first == StepResult(1, 1.5, 2.5, stop=False, save=False)
    (second,) = results.read(everything=True)
    assert second.step == 2 and second.norm == math.inf
    assert results.read(everything=True) == []


class OnGpu:
    """The numbers of a step on a GPU, as far as reading them needs it."""

    device = torch.device("cuda", 1)

    def __init__(self, calls, step):
        self.calls, self.step = calls, step

    def to(self, place, non_blocking):
        self.calls.append(f"copy {self.step}" if non_blocking and place == "cpu" else "wait")
        return torch.tensor([self.step, 0.0, 0.0, 0.0])


def test_reading_waits_for_the_copy_of_its_own_step(monkeypatch):
    calls = []

    class Event:
        made = 0

        def __init__(self):
            Event.made += 1
            self.number = Event.made

        def record(self, stream):
            calls.append(f"record {self.number} on {stream}")

        def synchronize(self):
            calls.append(f"wait for {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"{device}'s stream")
    results = StepResults(delay=1)
    for step in (1, 2):
        results.add(step, OnGpu(calls, step))
        assert calls[-2:] == [f"copy {step}", f"record {step} on cuda:1's stream"]
    assert [result.norm for result in results.read(everything=False)] == [1.0]
    assert calls[4:] == ["wait for 1"]
    assert [result.norm for result in results.read(everything=True)] == [2.0]
    assert calls[5:] == ["wait for 2"]


@pytest.mark.parametrize("request_to", ["stop", "save"])
def test_a_request_brings_all_results(request_to):
    results = StepResults(delay=1)
    wants = [float(request_to == name) for name in ("stop", "save")]
    results.add(1, torch.tensor([1.0, 1.0, *wants]))
    results.add(2, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    first, second = results.read(everything=False)
    assert getattr(first, request_to) and not getattr(second, request_to)


class OneOfTwo(DistributedContext):
    """Rank 0 of two processes; the other one, asked to stop in step 3, computes nothing."""

    calls = 0

    def sum(self, value):
        type(self).calls += 1
        asks = 1.0 if self.calls == 3 else 0.0
        return value + torch.tensor([0.0, asks, 0.0])

    def gather(self, value):
        return [value, value]

    def on_rank_zero(self, function, *args, **kwargs):
        function(*args, **kwargs)


def test_another_process_that_stops_is_heard_one_step_later(tmp_path, monkeypatch):
    """All processes read the sums of step 3 after they have enqueued step 4."""
    monkeypatch.setattr(OneOfTwo, "calls", 0)
    trainer = make(Points(20, poison=[2]), log_steps=0)
    trainer.world = OneOfTwo(0, 2, torch.device("cpu"))
    trainer._requests = StepRequests(trainer.world, 0)
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    with pytest.raises(Interrupted, match="after step 4/12"):
        trainer.train()
    progress = trainer.output.directory.load_state()["progress"]
    assert progress["step"] == 4
    assert progress["loss_steps"] + progress["skipped"] == 4
