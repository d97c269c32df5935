"""benchmarks/reproduce.py tasks: the plan, the data of each task, and a run of each."""

import json
import sys

import pytest

import repo_layout
from suite_data import write_suite_data

pytest.importorskip("torch")
sys.path.append(str(repo_layout.ROOT / "benchmarks"))

import reproduce
from funnel.tasks.race import read_race
from funnel.tasks.squad import read_squad
from harness import timing
from reproduction.baselines import guess
from reproduction.data import data_flags, write_task
from reproduction.figure import COLUMNS, summarize
from reproduction.plan import PLANS, SCALES, count_layers, fingerprint
from reproduction.tasks import RACE, SQUAD, TINY, cut

TASKS = {task.name: task for task in TINY}
METRICS = {
    "ag_news": "accuracy", "cola": "matthews_corr", "mnli": "accuracy", "rte": "accuracy",
    "sts-b": "pearson_spearman", "squad": "f1", "race": "accuracy",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_suite_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_all_tasks_start_from_one_pretraining_per_size(scale):
    scale = SCALES[scale]
    runs = PLANS["tasks"](scale)
    assert len({run.key for run in runs}) == len(runs)
    assert {run.task.name for run in runs} == set(METRICS)
    assert len(runs) == 7 * len(scale.suite_blocks) * 3 * 3
    starts = {(run.start.layers, run.initial): set() for run in runs if run.start is not None}
    for run in runs:
        if run.start is not None:
            starts[count_layers(run.blocks), run.initial].add(run.start)
    assert {initial for _, initial in starts} == {"mlm", "electra"}
    assert {len(found) for found in starts.values()} == {1}


def test_tables_that_share_a_run_agree_on_it():
    for scale in SCALES.values():
        settings = {}
        for plan in PLANS.values():
            for run in plan(scale):
                text = fingerprint(run, scale)
                assert settings.setdefault(run.key, text) == text


def test_results_on_record_are_still_those_of_the_plan():
    scale = SCALES["cpu"]
    rows = reproduce.load_rows(timing.RESULTS / "reproduce-cpu.json")
    runs = {run.key: run for plan in PLANS.values() for run in plan(scale)}
    done = [key for key, row in rows.items() if row["settings"] == fingerprint(runs[key], scale)]
    assert len(done) == len(rows) >= 30, rows.keys() - set(done)


def test_texts_are_written_with_their_labels(data, tmp_path):
    first, second = {}, {}
    for name in set(METRICS) - {"squad", "race"}:
        folder = write_task(TASKS[name], data, tmp_path)
        line = json.loads((folder / "dev.jsonl").read_text().splitlines()[0])
        first[name], second[name] = line["text"], line.get("text2")
        flags = data_flags(TASKS[name], folder)
        assert ("text_b_column" in flags) == (second[name] is not None)
    # The titles of AG News are empty in the sample: a single text would be nothing.
    assert first["ag_news"] == "" and second["ag_news"]
    assert second["cola"] is None and second["rte"] and second["mnli"] and second["sts-b"]


def test_questions_are_cut_to_a_number(data, tmp_path):
    task = cut(TASKS["squad"], 64, 5, 1, eval_rows=7)
    folder = write_task(task, data, tmp_path)
    train, dev = (read_squad(folder / f"{split}.json") for split in ("train", "dev"))
    assert (len(train.questions), len(dev.questions)) == (5, 7)
    for question in (*train.questions, *dev.questions):
        assert question.answers and question.answers[0].start is not None
    task = cut(TASKS["race"], 64, 5, 1, eval_rows=7)
    folder = write_task(task, data, tmp_path)
    train, dev = (read_race(folder, split) for split in ("train", "dev"))
    assert (len(train.questions), len(dev.questions)) == (5, 7)
    source = read_race(data / "race", "train")
    known = {(source.articles[q.article], q.options, q.label, q.is_high) for q in source.questions}
    for q in train.questions:
        assert (train.articles[q.article], q.options, q.label, q.is_high) in known


def test_an_interrupted_sample_is_made_again(data, tmp_path):
    task = cut(TASKS["race"], 64, 20, 1)
    folder = write_task(task, data, tmp_path)
    (folder / "train" / "complete.json").unlink()
    next((folder / "train" / "high").glob("*.txt")).unlink()
    assert len(read_race(write_task(task, data, tmp_path), "train").questions) == 20


def test_guessing(data, tmp_path):
    found = {name: guess(task, write_task(task, data, tmp_path)) for name, task in TASKS.items()}
    # Of the twelve labels of RTE, eight are "entailment"; those of the others are equally frequent.
    assert found["rte"] == pytest.approx(8 / 12)
    assert found["ag_news"] == found["race"] == 0.25 and found["mnli"] == pytest.approx(1 / 3)
    assert found["cola"] == found["sts-b"] == 0.0
    # Answers are one word of four to nine.
    assert 1 / 12 < found["squad"] < 0.6


def test_other_metrics_are_averaged():
    row = {
        "task": "squad", "blocks": "1", "change": "", "initial": "mlm", "metric": "f1",
        "baseline": 0.05, "gflops": 1.0, "seconds": 2.0,
    }  # fmt: skip
    rows = [row | {"score": s, "other_scores": {"exact_match": s / 2}} for s in (0.2, 0.4)]
    (mean,) = summarize(rows)
    assert mean["others"] == "exact_match 0.150" and mean["baseline"] == 0.05
    assert "| f1 | 0.050 | 0.300 | 0.100 | 2 | exact_match 0.150 |" in timing.markdown(
        [mean], COLUMNS
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_each_task(data, tmp_path, monkeypatch, capsys):
    flags = ["--scale=smoke", f"--work_dir={tmp_path / 'work'}", f"--output_dir={tmp_path}"]
    flags += ["--only=*-1_1-mlm-seed1", f"--data_dir={data}"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "tasks", *flags])
    reproduce.main()
    rows = json.loads((tmp_path / "reproduce-smoke.json").read_text())["rows"]
    assert {row["task"]: row["metric"] for row in rows} == METRICS
    for row in rows:
        task = TASKS[row["task"]]
        assert -1 <= row["score"] <= 1 and row["seconds"] > 0 and row["steps"] >= 1
        assert tuple(row["other_scores"]) == task.second_metrics
        folder = tmp_path / "work" / "smoke" / row["run"]
        config = json.loads((folder / "net_config.json").read_text())
        assert config["block_size"] == "1_1"
    by_task = {row["task"]: row for row in rows}
    gflops = {name: row["gflops"] for name, row in by_task.items()}
    assert gflops["race"] == pytest.approx(4 * gflops["squad"])
    # One pretraining run serves all.
    assert len(list((tmp_path / "work" / "smoke").glob("pretrain-*"))) == 1
    table = capsys.readouterr().out
    assert table.count("| 1_1 |") == len(METRICS)
    for program in (SQUAD, RACE):
        name = program.removesuffix(".py")
        run = next(r for r in PLANS["tasks"](SCALES["smoke"]) if r.key == f"{name}-1_1-mlm-seed1")
        runner = reproduce.Runner(SCALES["smoke"], data, tmp_path / "work" / "smoke")
        assert runner.measure_seconds(run, by_task[name]["steps"]) > 0
