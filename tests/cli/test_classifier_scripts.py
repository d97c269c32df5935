"""The shell scripts: valid flags, the recommended settings, everything open to the caller."""

import os
import subprocess

import pytest

pytest.importorskip("torch")

from classifier_runs import PYTORCH
from funnel.cli.flags import make_parser
from funnel_torch.cli.settings.classifier import ClassifierSettings

SCRIPTS = sorted((PYTORCH / "scripts").glob("finetune*.sh"))


def call(script, *arguments, expected=0, **environment):
    """Run a script with `echo` for Python; the program and the flags it would have had."""
    clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    result = subprocess.run(
        ["bash", str(PYTORCH / "scripts" / script), *arguments],
        env={**clean, "PYTHON": "echo", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == expected, result.stderr
    if expected:
        return result.stderr
    program, *flags = result.stdout.split()
    assert os.path.isfile(program)
    return os.path.basename(program), make_parser(ClassifierSettings, "").parse_args(flags)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_error(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("task", "folder", "settings"),
    [
        ("RTE", "RTE", (16, 10, 2e-5)),
        ("MRPC", "MRPC", (16, 10, 2e-5)),
        ("CoLA", "CoLA", (16, 10, 1e-5)),
        ("SST-2", "SST-2", (16, 10, 1e-5)),
        ("QNLI", "QNLI", (32, 3, 2e-5)),
        ("MNLI", "MNLI", (64, 3, 1e-5)),
        ("MNLI_mismatched", "MNLI", (64, 3, 1e-5)),
        ("QQP", "QQP", (64, 5, 2e-5)),
    ],
)
def test_glue_settings(task, folder, settings):
    program, args = call("finetune_glue.sh", TASK=task)
    assert program == "classifier.py"
    assert (args.train_bsz, args.epochs, args.lr) == settings
    assert (args.dataset, args.data_dir) == (task, f"data/glue/{folder}")
    assert args.max_length == 128


def test_callers_win():
    _, args = call("finetune_glue.sh", "--bf16", "--lr=3e-5", EPOCHS="2", MODEL_DIR="elsewhere")
    assert (args.bf16, args.lr, args.epochs, args.model_dir) == (True, 3e-5, 2, "elsewhere")
    _, args = call("finetune_textcls.sh", "--grad_accum=4", BATCH="8", INIT_CKPT="my")
    assert (args.train_bsz, args.grad_accum, args.init_ckpt) == (8, 4, "my")
    assert args.tokenizer_path == "my/vocab.uncased.txt"


def test_text_classification_settings():
    _, args = call("finetune_textcls.sh")
    assert (args.dataset, args.max_length, args.train_bsz, args.epochs) == ("imdb", 512, 32, 5)


def test_global_batch_is_shared_by_the_processes():
    program, args = call("finetune_multigpu.sh", PROCESSES="4")
    assert program == "multigpu_classifier.py"
    assert (args.train_bsz, args.distributed_world_size) == (16, 4)
    assert "no multiple" in call("finetune_multigpu.sh", expected=2, PROCESSES="3")
    assert "GPU" in call("finetune_multigpu.sh", expected=2, PROCESSES="0")


def test_any_task_with_settings_of_its_own():
    _, args = call("finetune.sh", TASK="csv", DATA_DIR="my", LR="2e-5", TOKENIZER="v.txt")
    assert (args.dataset, args.data_dir, args.lr) == ("csv", "my", 2e-5)
    assert args.tokenizer_path == "v.txt"
    assert (args.model_dir, args.output_dir, args.train_bsz) == ("exp/csv", "proc/csv", 16)


def test_unknown_task_is_refused():
    assert "TASK=kola" in call("finetune_glue.sh", expected=2, TASK="kola")
