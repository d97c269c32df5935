"""TensorFlow's shell scripts: valid flags, recommended settings, all settings open to callers."""

import os
import subprocess

import pytest

pytest.importorskip("absl")

import repo_layout
from tf_program_runs import parse_flags

FOLDER = repo_layout.PROGRAM_DIRECTORIES["tensorflow"] / "scripts"
SETTINGS = {
    "pretrain.sh": {"use_tpu": False, "loss_type": "mlm", "seq_len": 512, "num_predict": 85},
    "tpu_pretrain.sh": {"use_tpu": True, "train_batch_size": 256, "train_steps": 1_000_000},
    "tpu_squad.sh": {"train_batch_size": 48, "learning_rate": 3e-5, "lr_layer_decay_rate": 0.75},
    "race.sh": {"use_tpu": False, "train_batch_size": 16, "train_steps": 24000},
    "tpu_race.sh": {"use_tpu": True, "warmup_steps": 2400, "tpu": "local", "max_qa_length": 128},
}


def _calls(script, *arguments, **environment):
    """Run a script with `echo` for Python; yield the programs and flags it would have called."""
    clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    result = subprocess.run(
        ["bash", str(FOLDER / script), *arguments],
        env={**clean, "PYTHON": "echo", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in result.stdout.splitlines():
        program, *flags = line.split()
        assert os.path.isfile(program)
        name = os.path.basename(program).removesuffix(".py")
        yield name, parse_flags(name, *flags)


@pytest.mark.parametrize("script", [*SETTINGS, "prepro_squad.sh"])
def test_scripts_stop_at_the_first_error(script):
    lines = (FOLDER / script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert os.access(FOLDER / script, os.X_OK)


@pytest.mark.parametrize("script", SETTINGS)
def test_settings_and_callers_win(script):
    ((program, flags),) = _calls(script)
    assert program in script
    assert {name: getattr(flags, name) for name in SETTINGS[script]} == SETTINGS[script]
    ((_, flags),) = _calls(script, "--train_batch_size=2", LR="1e-3", MODEL_DIR="elsewhere")
    assert (flags.train_batch_size, flags.learning_rate) == (2, 1e-3)
    assert flags.model_dir == "elsewhere"


@pytest.mark.parametrize("script", SETTINGS)
def test_cores_count_in_every_script(script):
    ((_, flags),) = _calls(script, CORES="3")
    assert flags.num_core_per_host == 3


def test_own_tables_are_not_submitted():
    for task in ("json", "parquet", "csv"):
        ((_, flags),) = _calls("finetune.sh", TASK=task, STEPS="20")
        assert not flags.do_submit and flags.train_steps == 20


def test_squad_files_follow_the_version():
    ((_, flags),) = _calls("tpu_squad.sh", VERSION="v1", SQUAD_DIR="there")
    assert flags.train_file == "there/train-v1.1.json" and flags.eval_version == "v1"


def test_preprocessing_writes_every_shard_then_the_other_file():
    calls = [flags for _, flags in _calls("prepro_squad.sh", "--doc_stride=64", NUM_PROC="3")]
    *shards, last = calls
    assert sorted(flags.proc_id for flags in shards) == [0, 1, 2]
    assert {flags.num_proc for flags in shards} == {3}
    assert last.prepro_split == "eval" and last.predict_file.endswith("dev-v2.0.json")
    assert {flags.doc_stride for flags in calls} == {64}


def test_a_shard_that_fails_ends_the_script():
    clean = {"PATH": os.environ["PATH"], "PYTHON": "false"}
    script = ["bash", str(FOLDER / "prepro_squad.sh")]
    assert subprocess.run(script, env=clean, check=False).returncode != 0
