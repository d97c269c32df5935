"""A run that diverged writes JSON, says so in its last line and exits with 2, in both backends."""

import json

import pytest

from classifier_runs import arguments, invoke, load_program, write_files

pytestmark = pytest.mark.slow


def _refuse(text):
    raise AssertionError(f"{text} is no JSON")


def _read_all(run):
    """Every JSON file of a run and every line of its metrics must be JSON."""
    for path in run.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=_refuse)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=_refuse)


def _last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_pytorch(tmp_path, capsys):
    pytest.importorskip("torch")
    write_files(tmp_path)
    flags = {"lr": 1e38, "clip": 0, "warmup_prop": 0, "write_prediction": True}
    argv, run = arguments(tmp_path, **flags), tmp_path / "run"
    assert invoke(load_program("classifier"), argv) == 2
    line = _last_line(capsys)
    assert line.startswith(f"error: {run} diverged: ") and "not finite; try a lower --lr" in line
    _read_all(run)
    assert json.loads((run / "final_scores.json").read_text())["dev"]["loss"] is None
    # It is finished: the same command does not start again, and an evaluation repeats the verdict.
    assert invoke(load_program("classifier"), argv) == 2
    assert "finished" in _last_line(capsys)
    assert invoke(load_program("classifier"), [*argv, "--resume"]) == 2
    assert "diverged" in _last_line(capsys)


@pytest.mark.parametrize("skip_nan_grad", [False, True])
def test_tensorflow(tmp_path, capsys, skip_nan_grad):
    from support_tf import import_tensorflow

    import_tensorflow()
    from tf_program_runs import classifier_flags, load_tf_program

    write_files(tmp_path)
    changes = {"learning_rate": 1e38, "clip": 0.0, "do_eval": True, "skip_nan_grad": skip_nan_grad}
    argv, run = classifier_flags(tmp_path, train_steps=6, **changes), tmp_path / "run"
    assert invoke(load_tf_program("classifier"), argv) == 2
    line = _last_line(capsys)
    assert line.startswith("error: ")
    assert ("diverged: " if skip_nan_grad else "the loss is NaN after step") in line
    _read_all(run)
