"""Metrics files, TensorBoard events, console and curves."""

import json
import logging
import subprocess
import sys

import pytest

import repo_layout
from funnel.utils import logging as reporting
from funnel.utils.errors import FunnelError

COMMON = repo_layout.ROOT / "common"


def _scalars(directory):
    """Return {(tag, step): value} as TensorBoard reads them, resumes applied."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {(tag, e.step): e.value for tag in tags for e in events.Scalars(tag)}


def test_lines_and_events(tmp_path):
    log = reporting.MetricsLog(tmp_path / "run")
    log.log(1, "train", loss=0.5, lr=1e-3)
    log.log(2, "train", loss=float("nan"))
    log.log(2, "dev", accuracy=0.75)
    log.close()
    log.close()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    stripped = [{k: v for k, v in row.items() if k != "time"} for row in rows]
    assert stripped == [
        {"step": 1, "split": "train", "loss": 0.5, "lr": 1e-3},
        {"step": 2, "split": "train", "loss": None},
        {"step": 2, "split": "dev", "accuracy": 0.75},
    ]


def test_events_are_read_by_tensorboard(tmp_path):
    log = reporting.MetricsLog(tmp_path)
    log.log(1, "train", loss=0.5)
    log.log(2, "dev", accuracy=0.75)
    log.close()
    assert _scalars(tmp_path) == {("train/loss", 1): 0.5, ("dev/accuracy", 2): 0.75}


def test_resume_drops_later_steps_and_a_torn_line(tmp_path):
    log = reporting.MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, "train", loss=float(step))
    log.close()
    with open(tmp_path / "metrics.jsonl", "ab") as stream:
        stream.write(b'{"step": 4, "spl\xc3')  # in the middle of a character
    log = reporting.MetricsLog(tmp_path, resume_step=2)
    log.log(3, "train", loss=30.0)
    log.close()
    rows = reporting.read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_resume_purges_tensorboard_too(tmp_path):
    first = reporting.MetricsLog(tmp_path)
    for step in (1, 2, 3):
        first.log(step, "train", loss=float(step))
    first.close()
    second = reporting.MetricsLog(tmp_path, resume_step=1)
    second.log(2, "train", loss=20.0)
    second.close()
    assert _scalars(tmp_path) == {("train/loss", 1): 1.0, ("train/loss", 2): 20.0}


def test_corrupt_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\nnonsense\n{"step": 2, "split": "train"}\n')
    with pytest.raises(FunnelError, match=r"metrics.jsonl, line 2"):
        reporting.read_metrics(path)


def test_null_log_has_the_same_interface(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = reporting.NullLog()
    log.log(1, "train", loss=1.0)
    log.close()
    public = {name for name in vars(reporting.MetricsLog) if not name.startswith("_")}
    assert public == {name for name in vars(reporting.NullLog) if not name.startswith("_")}
    assert not list(tmp_path.iterdir())


def test_writing_a_log_imports_no_framework(tmp_path):
    code = (
        "import sys; from funnel.utils.logging import MetricsLog\n"
        "log = MetricsLog(sys.argv[1]); log.log(1, 'train', loss=1.0); log.close()\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {"PYTHONPATH": str(COMMON)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("verbose", "rank"), [(False, 0), (True, 0), (False, 3)])
def test_console_levels(capsys, verbose, rank):
    names = ("funnel", "funnel_torch", "funnel_tf", "__main__")
    before = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        root.handlers.clear()
        reporting.configure_logging(verbose=verbose, rank=rank)
        log = logging.getLogger("funnel.test")
        log.debug("a debug line")
        log.info("an info line")
        log.warning("a warning")
        logging.getLogger("matplotlib").info("somebody else's line")
    finally:
        root.handlers[:], root.level = handlers, level
        for name, value in before.items():
            logging.getLogger(name).setLevel(value)
    printed = capsys.readouterr().err
    assert ("a debug line" in printed) == verbose
    assert ("an info line" in printed) == (rank == 0)
    assert "a warning" in printed and "somebody else" not in printed
    assert ("rank 3:" in printed) == (rank == 3)


def test_progress_is_silent_without_a_terminal(capsys):
    assert list(reporting.progress(range(3), "count")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_repeated_evaluation_replaces_its_lines(tmp_path):
    first = reporting.MetricsLog(tmp_path)
    for step in (1, 2):
        first.log(step, "train", loss=1.0)
    first.log(1, "dev", accuracy=0.1)
    first.log(1, "dev2", accuracy=0.2)
    first.close()
    second = reporting.MetricsLog(tmp_path, replaces=True)
    second.log(1, "dev", accuracy=0.3)
    second.log(2, "dev", accuracy=0.4)
    second.log(2, "dev", accuracy=0.5)  # within one run, every line is kept
    second.close()
    rows = reporting.read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["split"]) for row in rows] == [
        *((1, "train"), (2, "train"), (1, "dev2")),
        *((1, "dev"), (2, "dev"), (2, "dev")),
    ]
    assert rows[3]["accuracy"] == 0.3
