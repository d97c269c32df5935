"""Structural damage as a user of a program meets it: exit status 2, one line, both backends."""

import importlib.util
import json

import numpy as np
import pytest

import program_server
from checkpoint_cases import TINY, random_checkpoint
from funnel.checkpoints import save_checkpoint
from repo_layout import ROOT

pytestmark = pytest.mark.slow


def _nan(folder, checkpoint):
    checkpoint.tensors["model/encoder/layer_0/rel_attn/r_w_bias"][0, 0] = np.nan
    save_checkpoint(checkpoint, folder, "hf")
    return "NaN or infinite values in model/encoder/layer_0/rel_attn/r_w_bias"


def _lost(folder, checkpoint):
    save_checkpoint(checkpoint, folder, "hf")
    (folder / "funnel_extra.safetensors").unlink()
    return "funnel_extra.safetensors: missing"


def _blocks(folder, checkpoint):
    save_checkpoint(checkpoint, folder, "tf")
    path = folder / "net_config.json"
    values = json.loads(path.read_text()) | {"block_size": "_".join(["1"] * 28)}
    path.write_text(json.dumps(values))
    return "28 blocks that pool by 2"


@pytest.mark.parametrize("damage", [_nan, _lost, _blocks])
@pytest.mark.parametrize("backend", ["pytorch", "tensorflow"])
def test_one_line_and_status_2(tmp_path, backend, damage):
    needed = {"pytorch": "torch", "tensorflow": "tensorflow"}[backend]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    told = damage(tmp_path / "m", random_checkpoint(TINY, ("mlm",)))
    np.savez(tmp_path / "ids.npz", input_ids=np.ones((2, 9), np.int64))
    flags = ("--model=m", "--ids=ids.npz", "--output=out.npz")
    done = program_server.run([ROOT / backend / "extract_features.py", *flags], cwd=tmp_path)
    assert done.returncode == 2, (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and told in errors[0]
    assert "Traceback" not in done.stderr and not (tmp_path / "out.npz").exists()


def test_a_path_too_long_for_the_file_system(tmp_path):
    program = ROOT / "pytorch" / "extract_features.py"
    save_checkpoint(random_checkpoint(TINY), tmp_path / "m", "hf")
    command = [program, "--model=m", "--ids=ids.npz", "--output=" + "x" * 300]
    np.savez(tmp_path / "ids.npz", input_ids=np.ones((1, 9), np.int64))
    done = program_server.run(command, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
