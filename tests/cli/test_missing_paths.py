"""A checkpoint that does not exist is what every program reports first, with where to get it."""

import importlib.util
import os

import pytest

import program_server
from checkpoint_cases import TINY, random_checkpoint
from funnel.checkpoints import save_checkpoint
from repo_layout import ROOT

pytestmark = pytest.mark.slow

# The flags are otherwise incomplete: no data, no vocabulary.
PROGRAMS = {
    "pytorch/classifier.py": ("--init_ckpt",),
    "pytorch/multigpu_classifier.py": ("--init_ckpt",),
    "pytorch/race.py": ("--do_train", "--init_ckpt"),
    "pytorch/squad.py": ("--do_train", "--init_ckpt"),
    "pytorch/pretrain.py": ("--init_ckpt",),
    "pytorch/extract_features.py": ("--text=x", "--output=y", "--model"),
    "pytorch/export_onnx.py": ("--output=x", "--model"),
    "pytorch/convert.py": ("--dst=x", "--to=hf", "--src"),
    "pytorch/ckpt_to_pt.py": ("--output_pt_path=x.pt", "--input_ckpt_path"),
    "tensorflow/classifier.py": ("--do_train", "--init_checkpoint"),
    "tensorflow/race.py": ("--do_train", "--init_checkpoint"),
    "tensorflow/squad.py": ("--do_train", "--init_checkpoint"),
    "tensorflow/pretrain.py": ("--init_checkpoint",),
    "tensorflow/extract_features.py": ("--text=x", "--output=y", "--model"),
    "tensorflow/modify_ckpt.py": ("--tgt_ckpt=x", "--src_ckpt"),
}

# The others of TensorFlow look for the checkpoint first.
NEEDED = {"tensorflow/extract_features.py": "tensorflow"}

OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _fail(program, flags, cwd):
    needed = "torch" if program.startswith("pytorch/") else NEEDED.get(program, "absl")
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = program_server.run([ROOT / program, *flags], cwd=cwd, env=OFFLINE)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr
    return last


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_hub_id_offers_its_download(tmp_path, program):
    *flags, flag = PROGRAMS[program]
    told = _fail(program, [*flags, f"{flag}=funnel-transformer/small"], tmp_path)
    assert "funnel-transformer/small: does not exist" in told
    assert "`hf download funnel-transformer/small --local-dir small`" in told


@pytest.mark.parametrize("program", ["pytorch/classifier.py", "tensorflow/classifier.py"])
def test_a_missing_config_is_named_before_data_and_vocabulary(tmp_path, program):
    flags = ["--do_train"] if program.startswith("tensorflow/") else []
    told = _fail(program, [*flags, "--model_config=out/none.json"], tmp_path)
    assert "model config out/none.json does not exist" in told


@pytest.mark.parametrize("program", ["pytorch/classifier.py", "tensorflow/classifier.py"])
def test_a_wrong_name_in_a_directory_of_weights(tmp_path, program):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "tf/model.ckpt-7", "tf")
    *flags, flag = PROGRAMS[program]
    told = _fail(program, [*flags, f"{flag}=tf/model.ckpt"], tmp_path)
    assert "tf/model.ckpt: no checkpoint there" in told and "the path does not exist" in told
    assert told.endswith("in that directory: model.ckpt-7")
