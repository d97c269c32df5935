"""Structural damage to the files that a PyTorch run resumes from: one clear line each."""

import random
import zipfile

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, flip, random_checkpoint
from funnel.checkpoints import load_checkpoint
from funnel.checkpoints.names import released_names
from funnel.utils.errors import CheckpointError, FunnelError, RunError
from mutations import HARMLESS, mutate_arrays

torch = pytest.importorskip("torch")

from funnel_torch.training.fsdp import full_optimizer_state, load_full_optimizer_state
from funnel_torch.training.run_directory import RunDirectory, load_training_state


def _optimizer():
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer


def _state():
    return {
        "progress": {"step": 1},
        "optimizer": full_optimizer_state(_optimizer()),
        "scaler": {},
        "random": [{"torch": torch.get_rng_state()}],
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"progress": 3}, "progress is no dict"),
        ({"progress": {"step": 1, "moons": 2}}, "another version of this program, .*moons"),
        ({"optimizer": []}, "optimizer is no dict"),
        ({"data": 20}, "data is no dict"),
        ({"random": {}}, "random is no list"),
        ({"random": [torch.ones(2, 2).to_sparse()]}, r"state.random.0 is a sparse tensor"),
        ({"new": {"a": torch.ones(2).to("meta")}}, "state.new.a has no values"),
    ],
)
def test_a_training_state_of_another_structure(tmp_path, change, told):
    path = tmp_path / "training_state.pt"
    torch.save(_state(), path)
    assert load_training_state(path)["progress"] == {"step": 1}
    torch.save(_state() | change, path)
    with pytest.raises(CheckpointError, match=f"training_state.pt: .*{told}"):
        load_training_state(path)


@pytest.mark.parametrize("part", ["progress", "optimizer", "scaler", "random"])
def test_a_training_state_without_a_part(tmp_path, part):
    path, state = tmp_path / "training_state.pt", _state()
    del state[part]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"training_state.pt: .*{part} is missing"):
        load_training_state(path)


def test_a_flipped_bit_in_the_moments_is_found(tmp_path):
    path = tmp_path / "training_state.pt"
    torch.save(_state(), path)
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("/data/0"))
    raw, start = path.read_bytes(), entry.header_offset
    names = raw[start + 26 : start + 30]  # lengths of the name and of the padding before the data
    start += 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
    flip(path, start + 2)
    with pytest.raises(CheckpointError, match="checksum of .* does not match"):
        load_training_state(path)


def test_moments_of_another_shape_are_refused():
    optimizer, state = _optimizer(), full_optimizer_state(_optimizer())
    load_full_optimizer_state(optimizer, state)
    for change, told in (
        ({0: {"exp_avg": torch.ones(3, 2)}}, r"exp_avg of parameter 0 is \[3, 2\], not \[2, 3\]"),
        ({9: {}}, "entry 9"),
        ({0: 3}, "entry 0"),
    ):
        with pytest.raises(CheckpointError, match=told):
            load_full_optimizer_state(optimizer, {**state, "state": change})
    for broken in ({}, {**state, "param_groups": []}, {**state, "state": None}):
        with pytest.raises(CheckpointError, match="optimizer's state does not fit"):
            load_full_optimizer_state(optimizer, broken)


@pytest.mark.parametrize("text", ['{"step": "3"}', '{"step": -1}', '{"step": 1.5}', "[1]", "{"])
def test_progress_of_another_type(tmp_path, text):
    run = RunDirectory(tmp_path / "run", {})
    run.create(TINY, {})
    run.save_last(lambda folder: None, _state(), {"step": 3})
    assert RunDirectory(tmp_path / "run", {}, resume=True).resume_step == 3
    (tmp_path / "run/last/progress.json").write_text(text)
    with pytest.raises(RunError, match=r"progress\.json"):
        assert RunDirectory(tmp_path / "run", {}, resume=True).resume_step


@pytest.mark.slow
def test_mutations_of_a_released_file(tmp_path):
    """Seeded damage to named tensors in every container: a clear error, or the same weights."""
    checkpoint = random_checkpoint(TINY.replace(decoder_size="0"), ("summary", "classification"))
    names = released_names(checkpoint.config, "classification")
    tensors = {names[name]: values for name, values in checkpoint.tensors.items()}
    checkpoint.config.save_pytorch_net_config(tmp_path / "net_config.pytorch.json")
    containers = [
        lambda state: state,
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{n}": v for n, v in state.items()}, "epoch": 1},
        lambda state: [state, {"lr": 0.1}],
    ]
    for seed in range(100):
        rng = random.Random(seed)
        kind, changed = mutate_arrays(tensors, rng)
        state = {name: torch.tensor(np.asarray(values)) for name, values in changed.items()}
        torch.save(rng.choice(containers)(state), tmp_path / "model.pt")
        try:
            found = load_checkpoint(tmp_path)
        except FunnelError as error:
            message = str(error)
            assert "\n" not in message and str(tmp_path) in message and len(message) < 3000
            assert kind not in HARMLESS
        else:
            assert kind in HARMLESS
            assert_same(found.tensors, checkpoint.tensors)
