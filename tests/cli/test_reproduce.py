"""benchmarks/reproduce.py: its plan, what it keeps, and one run on real text."""

import dataclasses
import json
import sys

import pytest

import repo_layout
from task_files import DATA, needs_real_data

pytest.importorskip("torch")
sys.path.append(str(repo_layout.ROOT / "benchmarks"))

import reproduce
from funnel.utils.errors import DataError, FunnelError
from reproduction.figure import plot_sizes, summarize
from reproduction.plan import PLANS, SCALES, count_layers, fingerprint

SMOKE = SCALES["smoke"]


def _row(run, score):
    return {
        "run": run.key, "task": run.task.name, "blocks": run.blocks, "initial": run.initial,
        "change": "", "seed": run.seed, "metric": "accuracy", "score": score, "seconds": 2.0,
        "gflops": 0.1 * count_layers(run.blocks), "settings": fingerprint(run, SMOKE), "steps": 2,
    }  # fmt: skip


def _call(monkeypatch, folder, *arguments):
    flags = ["--scale=smoke", f"--work_dir={folder / 'work'}", f"--output_dir={folder}"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments, *flags])
    reproduce.main()


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_the_figure_has_five_sizes_of_each_and_three_seeds(scale):
    runs = PLANS["sizes"](SCALES[scale])
    assert len({run.key for run in runs}) == len(runs)
    assert {"imdb", "ag_news"} <= {run.task.name for run in runs}
    for task in {run.task.name for run in runs}:
        cases = {(r.blocks, r.initial, r.seed) for r in runs if r.task.name == task}
        blocks = {case[0] for case in cases}
        assert sum("_" in name for name in blocks) == 5 == sum("_" not in name for name in blocks)
        assert len(cases) == 10 * 2 * 3
    assert next(run.task.length for run in runs if run.task.name == "imdb") == 512


def test_transformer_and_funnel_start_from_the_same_weights():
    runs = [run for run in PLANS["objectives"](SCALES["cpu"]) if run.start is not None]
    starts = {(run.task.name, run.initial, run.seed): set() for run in runs}
    for run in runs:
        starts[run.task.name, run.initial, run.seed].add(run.start)
        assert count_layers(run.blocks) == run.start.layers
    assert {len(found) for found in starts.values()} == {1}


def test_other_settings_are_other_results():
    run = PLANS["sizes"](SMOKE)[1]
    changed = dataclasses.replace(SMOKE, pretraining=SMOKE.pretraining | {"lr": 1.0})
    assert fingerprint(run, SMOKE) != fingerprint(run, changed)


def test_what_is_done_is_not_made_again(tmp_path, monkeypatch, capsys):
    runs = PLANS["sizes"](SMOKE)
    rows = {run.key: _row(run, 0.5) for run in runs[:-1]}
    rows[runs[0].key]["settings"] = "others"
    reproduce.save_rows(tmp_path / "reproduce-smoke.json", rows, "smoke")
    _call(monkeypatch, tmp_path, "sizes", "--list")
    states = dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines())
    expected = {run.key: "done" for run in runs} | {runs[0].key: "missing", runs[-1].key: "missing"}
    assert states == expected
    made = []

    def fine_tune(self, run):
        made.append(run.key)
        return _row(run, 0.75)

    monkeypatch.setattr(reproduce.Runner, "fine_tune", fine_tune)
    monkeypatch.setattr(reproduce.corpora, "find_data", lambda given: tmp_path)
    _call(monkeypatch, tmp_path, "sizes")
    assert made == [runs[0].key, runs[-1].key]
    assert (tmp_path / "reproduce-smoke.png").stat().st_size > 5000
    monkeypatch.setattr(
        reproduce.Runner, "measure_seconds", lambda self, run, steps: len(run.blocks)
    )
    _call(monkeypatch, tmp_path, "sizes", "--time_again")
    rows = reproduce.load_rows(tmp_path / "reproduce-smoke.json").values()
    assert {row["seconds"] for row in rows} == {1, 3} and made == [runs[0].key, runs[-1].key]
    assert all(row["seconds"] == len(row["blocks"]) for row in rows)
    with pytest.raises(DataError, match="no such run"):
        _call(monkeypatch, tmp_path, "sizes", "--only=none")


def test_seeds_are_summarized(tmp_path):
    run = PLANS["sizes"](SMOKE)[0]
    rows = [_row(run, score) for score in (0.2, 0.4, 0.6)]
    (row,) = summarize(rows)
    assert (row["score"], row["seeds"]) == (pytest.approx(0.4), 3)
    assert row["error"] == pytest.approx(0.2 / 3**0.5)
    assert summarize(rows[:1])[0]["error"] is None
    plot_sizes([row], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_program_that_fails_is_named_with_its_log(tmp_path):
    runner = reproduce.Runner(SMOKE, tmp_path, tmp_path / "work")
    with pytest.raises(FunnelError, match=r"classifier.py ended with 2; see .*log.txt"):
        runner._run("classifier.py", {"no_such_flag": 1, "model_dir": tmp_path / "run"})
    assert "no_such_flag" in (tmp_path / "work" / "log.txt").read_text()


@pytest.mark.slow
@needs_real_data
@pytest.mark.timeout(300)
def test_a_run_from_pretraining_to_its_score(tmp_path, monkeypatch, capsys):
    _call(monkeypatch, tmp_path, "ablations", "--only=*type=max", f"--data_dir={DATA}")
    (row,) = json.loads((tmp_path / "reproduce-smoke.json").read_text())["rows"]
    assert row["run"] == "ag_news-1_1-mlm-seed1-pooling_type=max" and 0 <= row["score"] <= 1
    config = json.loads((tmp_path / "work" / "smoke" / row["run"] / "net_config.json").read_text())
    assert config["pooling_type"] == "max" and config["block_size"] == "1_1"
    assert row["steps"] == 2 and row["seconds"] > 0
    flags = ("--only=*type=max", f"--data_dir={DATA}", "--time_again")
    _call(monkeypatch, tmp_path, "ablations", *flags)
    (again,) = json.loads((tmp_path / "reproduce-smoke.json").read_text())["rows"]
    assert again["score"] == row["score"] and again["seconds"] not in (0, row["seconds"])
