"""pytorch/squad.py end to end on tiny questions: training, answers, ensembles, what it refuses."""

import json
import shutil
import signal

import pytest

torch = pytest.importorskip("torch")

from answering_runs import common_flags, write_squad
from classifier_runs import Zygote, curve, flag_list, invoke, kill_after, load_program, refuse
from funnel.checkpoints import load_checkpoint
from funnel.squad_metrics import evaluate_v2
from funnel.tasks.squad import read_squad

torch.set_num_threads(1)
ANSWERS = ("predictions.json", "nbest_predictions.json", "null_odds.json")


def arguments(folder, **changes):
    """Flags of a run on the tiny files, whose longer paragraphs take several windows."""
    flags = common_flags(folder) | {"model_dir": folder / "run", "epochs": 3}
    flags |= {"do_train": True, "do_predict": True, "predict_file": folder / "dev.json"}
    flags |= {"train_file": folder / "train.json", "max_seq_length": 28}
    return flag_list(flags | {"max_query_length": 4, "doc_stride": 8} | changes)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def program():
    return load_program("squad")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A finished run that others only read; with its files."""
    folder = tmp_path_factory.mktemp("squad")
    write_squad(folder)
    assert invoke(program, arguments(folder)) == 0
    return folder


@pytest.fixture
def folder(tmp_path):
    write_squad(tmp_path)
    return tmp_path


def test_a_run_leaves_everything_behind(finished):
    run = finished / "run"
    names = {item.name for item in run.iterdir() if not item.name.startswith("events.")}
    assert names == {
        *("run_config.json", "net_config.json", "metrics.jsonl", "best_result.json"),
        *("best", "last", "final_scores.json", *ANSWERS),
    }
    rows = [row for row in curve(run) if row["split"] == "dev"]
    assert len(rows) == 3
    best = read(run / "best_result.json")
    assert best["metric"] == "best_f1"
    assert best["score"] == max(row["best_f1"] for row in rows)
    checkpoint = load_checkpoint(run / "best")
    assert checkpoint.metadata["architecture"] == "FunnelForQuestionAnswering"
    assert "model/end_logits/dense_1/kernel" in checkpoint.tensors


def test_files_are_official_and_scores_are_theirs(finished):
    run, data = finished / "run", read_squad(finished / "dev.json")
    predictions, nbest, odds = (read(run / name) for name in ANSWERS)
    assert list(predictions) == list(nbest) == list(odds) == [q.id for q in data.questions]
    for question in data.questions:
        assert predictions[question.id] in data.paragraphs[question.paragraph]
        assert nbest[question.id][0]["text"] == predictions[question.id]
        assert sum(entry["probability"] for entry in nbest[question.id]) == pytest.approx(1)
    scores = read(run / "final_scores.json")["dev"]
    assert scores == evaluate_v2(data, predictions, odds)
    assert scores["best_f1"] == read(run / "best_result.json")["score"]


@pytest.mark.parametrize("source", ["model_dir", "init_ckpt"])
def test_prediction_alone(finished, program, tmp_path, source):
    changes = {"do_train": None, "init_ckpt_config": None, "tokenizer_path": None}
    changes |= {"train_file": None, "predict_dir": tmp_path / "answers", "valid_bsz": 3}
    if source == "init_ckpt":
        changes |= {"init_ckpt": finished / "run" / "best", "model_dir": None}
    assert invoke(program, arguments(finished, **changes)) == 0
    written = tmp_path / "answers"
    assert {item.name for item in written.iterdir()} == {*ANSWERS, "final_scores.json"}
    assert read(written / ANSWERS[0]) == read(finished / "run" / ANSWERS[0])
    known = read(finished / "run" / "null_odds.json")
    assert read(written / "null_odds.json") == pytest.approx(known, abs=1e-5)


def test_prediction_without_known_answers(finished, program, tmp_path):
    content = read(finished / "dev.json")
    for paragraph in content["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"], question["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    changes = {"do_train": None, "predict_file": tmp_path / "test.json"}
    assert invoke(program, arguments(finished, **changes, predict_dir=tmp_path / "answers")) == 0
    assert {item.name for item in (tmp_path / "answers").iterdir()} == set(ANSWERS)


def test_it_learns_which_word_is_asked_for(tmp_path, program):
    write_squad(tmp_path, questions=60)
    changes = {"epochs": None, "train_steps": 80, "lr": 1e-2, "eval_steps": 40, "do_predict": None}
    assert invoke(program, arguments(tmp_path, **changes)) == 0
    losses = [row["loss"] for row in curve(tmp_path / "run") if row["split"] == "train"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not (tmp_path / "run" / "predictions.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"train_version": "v1", "eval_version": "v1"},
        {"no-conditional_end": True, "no-use_answer_class": True, "no-use_masked_loss": True},
        {"bf16": True, "grad_accum": 2, "num_workers": 1, "lr_layer_decay_rate": 0.75},
        {"target_eval_key": "HasAns_f1", "predict_file": "dev.json", "start_n_top": 9},
    ],
)
def test_switches_work_together(folder, program, changes, monkeypatch):
    monkeypatch.chdir(folder)
    assert invoke(program, arguments(folder, **changes, epochs=1)) == 0
    best = read(folder / "run" / "best_result.json")
    wanted = "f1" if "eval_version" in changes else changes.get("target_eval_key", "best_f1")
    assert best["metric"] == wanted
    answerable = len(read(folder / "run" / "predictions.json"))
    assert answerable == (8 if "eval_version" in changes else 12)


def test_training_without_a_file_to_predict(folder, program):
    argv = arguments(folder, predict_file=None, do_predict=None, epochs=1)
    assert invoke(program, argv) == 0
    assert {row["split"] for row in curve(folder / "run")} == {"train"}
    assert (folder / "run" / "last" / "model.safetensors").is_file()


def test_ensemble_of_two(finished, program, tmp_path):
    second = tmp_path / "second"
    assert invoke(program, arguments(finished, model_dir=second, seed=2, epochs=1)) == 0
    output, both = tmp_path / "both.json", f"{finished / 'run' / 'best'},{second / 'best'}"
    changes = {"do_train": None, "do_predict": None, "do_ensemble": True, "model_dir": None}
    changes |= {"init_ckpt_config": None, "tokenizer_path": None, "ensemble_ckpts": both}
    changes |= {"ensemble_output_file": output}
    assert invoke(program, arguments(finished, **changes, na_threshold=1e9)) == 0
    shares = {}
    for run in (finished / "run", second):
        for name, entries in read(run / "nbest_predictions.json").items():
            for entry in entries:
                key = (name, entry["text"])
                shares[key] = shares.get(key, 0.0) + entry["probability"] / 2
    for name, text in read(output).items():
        assert shares[name, text] == pytest.approx(
            max(share for (question, _), share in shares.items() if question == name), abs=1e-5
        )
    assert invoke(program, arguments(finished, **changes, na_threshold=-1e9)) == 0
    assert set(read(output).values()) == {""}
    assert invoke(program, arguments(finished, **changes, search_threshold=True)) == 0
    assert len(read(output)) == 12


def test_a_killed_run_continues_bit_for_bit(folder):
    zygote, settings = Zygote("squad"), {"epochs": 4, "save_steps": 2, "n_log_epoch": 9}
    try:
        log = folder / "run.log"
        argv = arguments(folder, model_dir=folder / "whole", **settings)
        assert zygote.run(argv, log) == 0, log.read_text()
        argv = arguments(folder, model_dir=folder / "killed", **settings)
        assert kill_after(zygote, argv, folder / "killed", 5, log) == -signal.SIGKILL
        assert zygote.run(argv, log) == 0, log.read_text()
    finally:
        zygote.close()
    assert curve(folder / "killed") == curve(folder / "whole")
    for name in ("best/model.safetensors", "nbest_predictions.json", "null_odds.json"):
        ours, theirs = folder / "killed" / name, folder / "whole" / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_head_of_another_kind_is_refused(finished, program, tmp_path, capsys):
    changes = {"init_ckpt": finished / "run" / "best", "init_ckpt_config": None, "epochs": 1}
    changes |= {"model_dir": tmp_path / "run", "no-conditional_end": True}
    refuse(program, capsys, arguments(finished, **changes), "--conditional_end", "--new_head")
    assert not (tmp_path / "run").exists()
    assert invoke(program, arguments(finished, **changes, new_head=True)) == 0


WRONG = {
    "nothing to do": ({"do_train": None, "do_predict": None}, ["--do_train", "--do_ensemble"]),
    "no train file": ({"train_file": None}, ["--train_file is needed"]),
    "no predict file": ({"predict_file": None}, ["--predict_file is needed"]),
    "no such file": ({"train_file": "/nowhere.json"}, ["/nowhere.json"]),
    "no model": ({"do_train": None}, ["--do_predict: no model in", "run/best"]),
    "length": ({"max_query_length": 25}, ["max_seq_length=28"]),
    "beam": ({"start_n_top": 0}, ["--start_n_top=0"]),
    "version": ({"eval_version": "v3"}, ["--eval_version"]),
    "metric": ({"target_eval_key": "best_f2"}, ["best_f2", "best_exact"]),
    "threshold as metric": ({"target_eval_key": "best_f1_thresh"}, ["target_eval_key"]),
    "ensemble of none": (
        {"do_train": None, "do_predict": None, "do_ensemble": True},
        ["--ensemble_ckpts is needed"],
    ),
    "ensemble and training": ({"do_ensemble": True}, ["--do_ensemble goes without"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_flags_write_nothing(folder, program, capsys, case):
    changes, words = WRONG[case]
    refuse(program, capsys, arguments(folder, **changes), *words)
    assert not (folder / "run").exists()


def test_finished_run_is_not_overwritten(finished, program, capsys, tmp_path):
    refuse(program, capsys, arguments(finished), "finished", "--resume", "--overwrite")
    refuse(program, capsys, arguments(finished, doc_stride=9), "doc_stride was 8, now 9")
    shutil.copytree(finished / "run", tmp_path / "run")
    argv = arguments(finished, model_dir=tmp_path / "run", overwrite=True, do_predict=None)
    assert invoke(program, [*argv, "--epochs=1"]) == 0
    assert not (tmp_path / "run" / "predictions.json").exists()


# Columns S of the original's flags that the shared ones do not cover.
DEFAULTS = {
    "max_length": 512,
    "max_query_length": 64,
    "doc_stride": 128,
    "start_n_top": 5,
    "end_n_top": 5,
    "n_best_size": 5,
    "max_answer_length": 64,
    "conditional_end": True,
    "use_answer_class": True,
    "use_masked_loss": True,
    "ans_loss_weight": 0.5,
    "cls_loss_weight": 0.5,
    "train_version": "v2",
    "eval_version": "v2",
    "target_eval_key": "best_f1",
    "na_threshold": 0.0,
    "search_threshold": False,
    "do_ensemble": False,
    "ensemble_ckpts": None,
    "ensemble_output_file": "",
    "predict_dir": "",
    "keep_accents": False,
}


def test_defaults_are_frozen(program):
    args = vars(program.squad_flags.squad_parser("what it does").parse_args([]))
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS
