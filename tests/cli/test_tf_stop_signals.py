"""SIGTERM and SIGUSR1 in the TensorFlow programs, during training and during evaluation."""

import json
import random
import signal

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

import classifier_runs
import pretrain_runs
from answering_runs import write_race, write_squad
from classifier_runs import flag_list, invoke, steps_done, stop_runs
from funnel.utils.logging import read_metrics
from funnel_tf.training.run_directory import latest_step
from tf_program_runs import classifier_flags, kill_tf_program, load_tf_program
from thoroughness import usual_or_thorough

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STOPPED = 143
STEPS = 40
MOMENTS = usual_or_thorough(1, 5)
# No dropout: TensorFlow draws other masks when a run resumes.
_NO_DROPOUT = {"dropout": 0.0, "dropatt": 0.0}
_LENGTHS = {"squad": {"max_seq_length": 28, "max_query_length": 4, "doc_stride": 8}}
_LENGTHS["race"] = {"max_seq_length": 32, "max_qa_length": 8, "eval_batch_size": 8}


def _write(name, folder):
    if name == "pretrain":
        pretrain_runs.write_files(folder, **_NO_DROPOUT)
        return
    write = {"classifier": classifier_runs.write_files, "race": write_race, "squad": write_squad}
    write[name](folder)
    path = folder / "net_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | _NO_DROPOUT))


def _flags(name, folder, model_dir):
    common = {"train_steps": STEPS, "save_steps": 20, "log_freq": 3, "seed": 1, "do_train": True}
    if name == "classifier":
        return classifier_flags(folder, model_dir, do_eval=True, **common)
    common |= {"use_tpu": False, "num_core_per_host": 1, "train_batch_size": 4}
    common |= {"learning_rate": 1e-2, "model_dir": folder / model_dir, "do_eval": True}
    common |= {"tokenizer_path": folder / "vocab.txt", "model_config": folder / "net_config.json"}
    common |= {"output_dir": folder / "records"} | _LENGTHS.get(name, {})
    if name == "pretrain":
        del common["output_dir"]
        common |= {"record_dir": folder / "records", "loss_type": "mlm", "num_predict": 4}
        common |= {"seq_len": pretrain_runs.SEQ_LEN, "eval_batch_size": 4, "start_eval_steps": 0}
    elif name == "race":
        common |= {"data_dir": folder / "RACE"}
    else:
        del common["do_eval"]
        common |= {"train_file": folder / "train.json", "predict_file": folder / "dev.json"}
        common |= {"do_predict": True, "predict_batch_size": 8}
    return flag_list({k: str(v) for k, v in common.items()})


@pytest.mark.parametrize("name", ["classifier", "pretrain", "race", "squad"])
def test_stopped_runs_repeat_the_uninterrupted_one(tmp_path, name):
    check_stopped_runs(name, tmp_path, MOMENTS)


def check_stopped_runs(name, folder, moments, seed=0):
    """Stop runs of a program at random moments; they must equal the one that was not stopped."""
    _write(name, folder)
    program, complete, draw = load_tf_program(name), folder / "complete", random.Random(seed)
    assert invoke(program, _flags(name, folder, complete)) == 0

    def stop_and_compare(number, drawn):
        run = folder / f"stopped {number}"
        stops = _stop_at(name, _flags(name, folder, run), run, drawn, draw)
        assert_same(run, complete)
        return stops

    lines = len(read_metrics(complete / "metrics.jsonl"))
    stop_runs(moments, range(1, lines - 1), draw, stop_and_compare)


def _stop_at(name, flags, run, moments, draw):
    """Stop a run when it has so many lines, and let it end; return how many times it stopped."""
    stops, log = 0, run.with_name("log")
    for lines in moments:
        lines = max(lines, steps_done(run) + 1)
        signals = (draw.choice([signal.SIGTERM, signal.SIGUSR1]), signal.SIGTERM)
        kept = _training_rows(run)
        status = kill_tf_program(name, flags, lambda n=lines: steps_done(run) >= n, log, signals)
        assert _training_rows(run)[: len(kept)] == kept  # it was resumed, not started again
        if status == 0:
            break
        assert status == STOPPED, log.read_text()
        last = log.read_text().strip().splitlines()[-1]
        # The second signal may be handled first: any thread of the process can receive either.
        assert last.startswith(tuple(f"stopped by {number.name}" for number in signals)), last
        assert "the same command resumes" in last
        assert not (run / ".run.lock").exists()
        assert 0 < latest_step(run) <= STEPS
        stops += 1
    kept = _training_rows(run)
    assert invoke(load_tf_program(name), flags) == 0
    assert _training_rows(run)[: len(kept)] == kept
    return stops


def _training_rows(run):
    """Return the lines of training up to the last checkpoint, with the times of writing.

    Those of an evaluation that was stopped are written again.
    """
    if not (run / "metrics.jsonl").exists():
        return []
    rows, last = read_metrics(run / "metrics.jsonl"), latest_step(run)
    return [row for row in rows if row["split"] == "train" and row["step"] <= last]


def assert_same(run, complete):
    """The same lines in metrics.jsonl up to rounding, and the same checkpoints and best one."""
    ours, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (run, complete))
    clock = ("time", "examples_per_second", "split")
    assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in theirs]
    for row, reference in zip(ours, theirs, strict=True):
        for name in row.keys() - set(clock):
            np.testing.assert_allclose(row[name], reference[name], rtol=1e-3, atol=1e-5)
    kept = [sorted(p.name for p in folder.glob("model.ckpt-*.index")) for folder in (run, complete)]
    assert kept[0] == kept[1]
    best = [json.loads((folder / "best_result.json").read_text()) for folder in (run, complete)]
    assert best[0]["step"] == best[1]["step"]
    assert latest_step(run) == STEPS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_during_evaluation_repeats_no_lines(tmp_path, number):
    _write("classifier", tmp_path)
    flags, run = _flags("classifier", tmp_path, "run"), tmp_path / "run"

    def is_evaluating():
        if not (run / "metrics.jsonl").exists():
            return False
        return any('"dev"' in line for line in (run / "metrics.jsonl").read_text().splitlines())

    status = kill_tf_program("classifier", flags, is_evaluating, tmp_path / "log", (number,))
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    if number == signal.SIGTERM:
        assert status == STOPPED and "stopped by SIGTERM; the same command resumes" in text
    else:
        assert status == -signal.SIGKILL
        assert (run / ".run.lock").exists()  # of a dead process: no obstacle
    assert invoke(load_tf_program("classifier"), flags) == 0
    rows = [(row["step"], row["split"]) for row in read_metrics(run / "metrics.jsonl")]
    assert len(rows) == len(set(rows))
    assert [step for step, split in rows if split == "dev"] == [0, 20, 40]
