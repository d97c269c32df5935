"""pytorch/squad.py end to end on tiny questions: training, answers, ensembles, errors."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from answering_runs import RUN_FILES, SQUAD, run_files, write_squad
from classifier_runs import curve, invoke, load_program, refuse
from funnel.checkpoints import load_checkpoint
from funnel.tasks.squad import read_squad
from funnel.tasks.squad_metrics import evaluate_v2

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
ANSWERS = ("predictions.json", "nbest_predictions.json", "null_odds.json")


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def program():
    return load_program("squad")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A finished run that others only read; with its files."""
    return SQUAD.finished(tmp_path_factory.mktemp("squad"), program)


@pytest.fixture
def folder(tmp_path):
    write_squad(tmp_path)
    return tmp_path


def test_a_run_writes_all_its_files(finished):
    run = finished / "run"
    assert run_files(run) == RUN_FILES | set(ANSWERS)
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


def test_logits_are_written_if_asked_for(finished, program, tmp_path):
    wanted = {"do_train": None, "save_logits": True, "predict_dir": tmp_path / "answers"}
    assert invoke(program, SQUAD.arguments(finished, **wanted)) == 0
    logits = read(tmp_path / "answers" / "logits.json")
    assert len({row["unique_id"] for row in logits}) == len(logits) >= 12
    assert read(tmp_path / "answers" / "null_odds.json") == read(finished / "run/null_odds.json")
    assert min(row["cls_logits"] for row in logits) == pytest.approx(
        min(read(finished / "run" / "null_odds.json").values())
    )


def test_cache_is_filled_and_used(finished, folder, program, monkeypatch):
    changes = {"output_dir": folder / "cache"}
    for split in ("train", "eval"):
        argv = SQUAD.arguments(folder, **changes, prepro_split=split, num_proc=2)
        assert invoke(program, argv) == 0
    assert {item.name for item in (folder / "cache").iterdir()} == {
        f"vocab.txt.slen-28.qlen-4.{split}.features.npz" for split in ("train", "eval")
    }
    assert not (folder / "run").exists()
    with monkeypatch.context() as patch:
        patch.delattr("funnel.features.squad_cache.build_windows")
        assert invoke(program, SQUAD.arguments(folder, **changes)) == 0
    assert curve(folder / "run") == curve(finished / "run")
    argv = SQUAD.arguments(folder, **changes, doc_stride=9, debug=True, do_predict=None)
    before = read_bytes(folder / "cache")
    assert invoke(program, argv) == 0
    assert all(before[name] != content for name, content in read_bytes(folder / "cache").items())


def read_bytes(folder):
    return {item.name: item.read_bytes() for item in folder.iterdir()}


def test_debug_mode_takes_a_hundred_questions(tmp_path, program):
    write_squad(tmp_path, questions=103)
    assert invoke(program, SQUAD.arguments(tmp_path, debug_mode=True, epochs=1)) == 0
    assert len(read(tmp_path / "run" / "predictions.json")) == 100


@pytest.mark.parametrize("source", ["model_dir", "init_ckpt"])
def test_prediction_alone(finished, program, tmp_path, source):
    changes = {"do_train": None, "init_ckpt_config": None, "tokenizer_path": None}
    changes |= {"train_file": None, "predict_dir": tmp_path / "answers", "eval_batch_size": 3}
    if source == "init_ckpt":
        changes |= {"init_ckpt": finished / "run" / "best", "model_dir": None}
    assert invoke(program, SQUAD.arguments(finished, **changes)) == 0
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
    argv = SQUAD.arguments(finished, **changes, predict_dir=tmp_path / "answers")
    assert invoke(program, argv) == 0
    assert {item.name for item in (tmp_path / "answers").iterdir()} == set(ANSWERS)


def test_it_learns_which_word_is_asked_for(tmp_path, program):
    write_squad(tmp_path, questions=60)
    changes = {"epochs": None, "train_steps": 80, "lr": 1e-2, "eval_steps": 40, "do_predict": None}
    assert invoke(program, SQUAD.arguments(tmp_path, **changes)) == 0
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
    assert invoke(program, SQUAD.arguments(folder, **changes, epochs=1)) == 0
    best = read(folder / "run" / "best_result.json")
    wanted = "f1" if "eval_version" in changes else changes.get("target_eval_key", "best_f1")
    assert best["metric"] == wanted
    answerable = len(read(folder / "run" / "predictions.json"))
    assert answerable == (8 if "eval_version" in changes else 12)


def test_training_without_a_file_to_predict(folder, program):
    argv = SQUAD.arguments(folder, predict_file=None, do_predict=None, epochs=1)
    assert invoke(program, argv) == 0
    assert {row["split"] for row in curve(folder / "run")} == {"train"}
    assert (folder / "run" / "last" / "model.safetensors").is_file()


def test_ensemble_of_two(finished, program, tmp_path):
    second = tmp_path / "second"
    assert invoke(program, SQUAD.arguments(finished, model_dir=second, seed=2, epochs=1)) == 0
    output, both = tmp_path / "both.json", f"{finished / 'run' / 'best'},{second / 'best'}"
    changes = {"do_train": None, "do_predict": None, "do_ensemble": True, "model_dir": None}
    changes |= {"init_ckpt_config": None, "tokenizer_path": None, "ensemble_ckpts": both}
    changes |= {"ensemble_output_file": output}
    assert invoke(program, SQUAD.arguments(finished, **changes, na_threshold=1e9)) == 0
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
    assert invoke(program, SQUAD.arguments(finished, **changes, na_threshold=-1e9)) == 0
    assert set(read(output).values()) == {""}
    assert invoke(program, SQUAD.arguments(finished, **changes, search_threshold=True)) == 0
    assert len(read(output)) == 12


def test_head_of_another_kind_is_refused(finished, program, tmp_path, capsys):
    changes = {"init_ckpt": finished / "run" / "best", "init_ckpt_config": None, "epochs": 1}
    changes |= {"model_dir": tmp_path / "run", "no-conditional_end": True}
    refuse(program, capsys, SQUAD.arguments(finished, **changes), "--conditional_end", "--new_head")
    assert not (tmp_path / "run").exists()
    assert invoke(program, SQUAD.arguments(finished, **changes, new_head=True)) == 0


def test_finished_run_is_not_overwritten(finished, program, capsys, tmp_path):
    refuse(program, capsys, SQUAD.arguments(finished), "finished", "--resume", "--overwrite")
    refuse(program, capsys, SQUAD.arguments(finished, doc_stride=9), "doc_stride was 8, now 9")
    shutil.copytree(finished / "run", tmp_path / "run")
    argv = SQUAD.arguments(finished, model_dir=tmp_path / "run", overwrite=True, do_predict=None)
    assert invoke(program, [*argv, "--epochs=1"]) == 0
    assert not (tmp_path / "run" / "predictions.json").exists()


def test_training_on_the_cache_alone(finished, folder, program, capsys):
    changes = {"output_dir": folder / "cache"}
    assert invoke(program, SQUAD.arguments(folder, **changes, prepro_split="train")) == 0
    (folder / "train.json").unlink()
    assert invoke(program, SQUAD.arguments(folder, **changes, train_file=None)) == 0
    assert curve(folder / "run") == curve(finished / "run")
    changes |= {"max_query_length": 3, "model_dir": folder / "other"}
    refuse(
        *(program, capsys, SQUAD.arguments(folder, **changes)),
        "train.json: does not exist",
        "no windows that fit",
    )
