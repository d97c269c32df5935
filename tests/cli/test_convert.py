"""convert.py, ckpt_to_pt.py and modify_ckpt.py as a user runs them, from another directory."""

from pathlib import Path

import pytest

import program_server
from checkpoint_cases import TINY, VARIANTS, assert_same, flip, random_checkpoint, with_slots
from funnel.checkpoints import KINDS, load_checkpoint, save_checkpoint
from funnel.formats.tensor_bundle import TFCheckpoint

ROOT = Path(__file__).resolve().parents[2]
FULL = ("mlm", "discriminator", "generator")


def _run(program, *flags, cwd):
    return program_server.run([ROOT / program, *flags], cwd=cwd)


def _run_well(program, *flags, cwd):
    done = _run(program, *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _fails(program, *flags, cwd):
    done = _run(program, *flags, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.slow
def test_round_trip_through_the_programs(tmp_path):
    pytest.importorskip("torch")
    first = random_checkpoint(TINY, FULL)
    save_checkpoint(first, tmp_path / "tf", "tf")
    output = _run_well("pytorch/convert.py", "--src=tf", "--dst=pt", "--to=pt", cwd=tmp_path)
    assert "tf/model.ckpt (tf) -> pt (pt): " in output
    assert "kept in *extra.safetensors" in output and "generator/decoder" in output
    _run_well("pytorch/convert.py", "--src=pt", "--dst=hf", "--to=hf", cwd=tmp_path)
    _run_well("pytorch/convert.py", "--src=hf", "--dst=x/model.ckpt", "--to=tf", cwd=tmp_path)
    assert_same(dict(TFCheckpoint(tmp_path / "x/model.ckpt")), first.tensors)


@pytest.mark.slow
def test_every_layout_can_be_chosen(tmp_path):
    output = _run_well("pytorch/convert.py", "--help", cwd=tmp_path)
    assert f"--to {{{','.join(KINDS)}}}" in output


def test_optimizer_state_on_request(tmp_path):
    first = with_slots(random_checkpoint(TINY))
    save_checkpoint(first, tmp_path / "tf", "tf")
    flags = ("--src=tf", "--to=tf", "--with_optimizer")
    _run_well("pytorch/convert.py", *flags, "--dst=copy", cwd=tmp_path)
    assert_same(dict(TFCheckpoint(tmp_path / "copy")), {**first.tensors, **first.optimizer})


def test_user_errors_of_convert(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "tf", "tf")
    to_hf = ("--dst=hf", "--to=hf")
    assert "none: no checkpoint there" in _fails(
        "pytorch/convert.py", "--src=none", *to_hf, cwd=tmp_path
    )
    TINY.replace(d_inner=99).save_net_config(tmp_path / "wrong.json")
    wrong = ("--src=tf", "--config=wrong.json", *to_hf)
    assert "should be [12, 99]" in _fails("pytorch/convert.py", *wrong, cwd=tmp_path)
    flip(tmp_path / "tf/model.ckpt.data-00000-of-00001", 1000)
    assert "corrupt" in _fails("pytorch/convert.py", "--src=tf", *to_hf, cwd=tmp_path)
    assert not (tmp_path / "hf").exists()


def test_ckpt_to_pt_with_the_original_flags(tmp_path):
    torch = pytest.importorskip("torch")
    first = random_checkpoint(TINY, ("discriminator",))
    save_checkpoint(first, tmp_path / "tf", "tf")
    output = _run_well(
        "pytorch/ckpt_to_pt.py",
        "--input_ckpt_path=tf/model.ckpt",
        "--input_config_path=tf/net_config.json",
        "--output_pt_path=out/model.pt",
        "--output_config_path=out/config/net_config.pytorch.json",
        cwd=tmp_path,
    )
    assert "kept in model.extra.safetensors" in output
    assert (tmp_path / "out/config/net_config.pytorch.json").exists()
    state = torch.load(tmp_path / "out/model.pt", weights_only=True)
    assert len(state) == 3 + 4 * 20
    # The original's converter lost decoder and heads; ours does not.
    assert_same(load_checkpoint(tmp_path / "out/model.pt").tensors, first.tensors)


def test_ckpt_to_pt_needs_its_paths(tmp_path):
    pytest.importorskip("torch")
    output = _fails("pytorch/ckpt_to_pt.py", "--output_pt_path=m.pt", cwd=tmp_path)
    assert output == "error: --input_ckpt_path is missing\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "everything"),
    [
        ((), False),
        (("--finetune_only=True",), False),
        (("--finetune_only",), False),
        (("--finetune_only=False",), True),
        (("--nofinetune_only",), True),
    ],
)
def test_modify_ckpt(tmp_path, flags, everything):
    full = with_slots(random_checkpoint(TINY, FULL))
    save_checkpoint(full, tmp_path / "full", "tf")
    _run_well(
        "tensorflow/modify_ckpt.py",
        "--src_ckpt=full/model.ckpt",
        "--tgt_ckpt=core/model.ckpt",
        *flags,
        cwd=tmp_path,
    )
    wanted = {**full.tensors, **full.optimizer}
    if not everything:
        wanted = {n: v for n, v in full.tensors.items() if not n.startswith("generator/")}
    assert_same(dict(TFCheckpoint(tmp_path / "core")), wanted)


@pytest.mark.slow
def test_modify_ckpt_in_place_and_its_errors(tmp_path):
    full = with_slots(random_checkpoint(VARIANTS["encoder_only"]))
    save_checkpoint(full, tmp_path / "m", "tf")
    same = ("--src_ckpt=m/latest", "--tgt_ckpt=m/model.ckpt")
    _run_well("tensorflow/modify_ckpt.py", *same, cwd=tmp_path)
    assert_same(dict(TFCheckpoint(tmp_path / "m")), full.tensors)
    output = _fails("tensorflow/modify_ckpt.py", "--src_ckpt=no", "--tgt_ckpt=x", cwd=tmp_path)
    assert output.startswith("error: no: no checkpoint there: ")
    output = _fails("tensorflow/modify_ckpt.py", "--src_ckpt=m", cwd=tmp_path)
    assert output == "error: --tgt_ckpt is needed\n"
