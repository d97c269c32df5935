"""TensorFlow's squad.py and race.py end to end on tiny data."""

import json

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from answering_runs import write_race, write_squad
from classifier_runs import invoke, refuse
from funnel.checkpoints.names import expected_shapes
from funnel.config.model import ModelConfig
from funnel.formats.tensor_bundle import write_tf_checkpoint
from funnel.utils.logging import read_metrics
from tf_program_runs import load_tf_program

pytestmark = pytest.mark.slow


def _flags(folder, model_dir="run", **changes):
    flags = {
        "use_tpu": False,
        "num_core_per_host": 1,
        "output_dir": folder / "records",
        "model_dir": folder / model_dir,
        "tokenizer_path": folder / "vocab.txt",
        "model_config": folder / "net_config.json",
        "train_batch_size": 4,
        "learning_rate": 1e-2,
        "train_steps": 6,
        "log_freq": 1,
        "seed": 1,
    }
    return [f"--{name}={value}" for name, value in (flags | changes).items() if value is not None]


@pytest.fixture(scope="module")
def squad():
    return load_tf_program("squad")


@pytest.fixture(scope="module")
def answered(squad, tmp_path_factory):
    """Return the folder of a run that trained on two shards and answered after 3 and 6 steps."""
    folder = tmp_path_factory.mktemp("tf-squad")
    write_squad(folder)
    wanted = {"do_train": True, "do_predict": True, "save_steps": 3, "num_proc": 2}
    wanted |= {"save_logits": True, "prediction_format": "jsonl"}
    assert invoke(squad, _squad_flags(folder, eval_start_step=0, **wanted)) == 0
    return folder


def _squad_flags(folder, model_dir="run", **changes):
    flags = {
        "train_file": folder / "train.json",
        "predict_file": folder / "dev.json",
        "max_seq_length": 28,
        "max_query_length": 4,
        "doc_stride": 8,
        "predict_batch_size": 8,
    }
    return _flags(folder, model_dir, **(flags | changes))


def test_squad_answers_every_question_by_the_best_checkpoint(answered):
    run = answered / "run"
    questions = {f"dev.json-{i}" for i in range(12)}
    files = [f"{name}.json" for name in ("predictions", "nbest_predictions", "null_odds")]
    for name in files:
        assert json.loads((run / name).read_text()).keys() == questions
    _check_files_of_every_checkpoint(run, files, answered / "records")
    rows = [r for r in read_metrics(run / "metrics.jsonl") if r["split"] == "dev"]
    best = json.loads((run / "best_result.json").read_text())
    assert [row["step"] for row in rows] == [3, 6]
    assert best["score"] == max(row["best_f1"] for row in rows)
    scores = json.loads((run / "final_scores.json").read_text())["dev"]
    assert scores["best_f1"] == best["score"] and scores["total"] == 12
    shards = sorted(path.name for path in (answered / "records").glob("*train.tfrecord"))
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert {row["id"]: row["label"] for row in rows} == json.loads(
        (run / "predictions.json").read_text()
    )
    assert shards == [f"vocab.txt.{i}.slen-28.qlen-4.train.tfrecord" for i in (0, 1)]


def _check_files_of_every_checkpoint(run, files, records):
    best = json.loads((run / "best_result.json").read_text())["step"]
    for name in files:
        by_step = {step: json.loads((run / f"{step}.{name}").read_text()) for step in (3, 6)}
        assert by_step[best] == json.loads((run / name).read_text())
    count = json.loads((records / "vocab.txt.slen-28.qlen-4.eval.tfrecord.meta.json").read_text())
    logits = json.loads((run / f"{best}.logits.json").read_text())
    assert len(logits) == count["num_real_examples"]
    assert [len(logits[0][f"{end}_top_index"]) for end in ("start", "end")] == [5, 25]
    assert logits[1]["unique_id"] == 1_000_000_001 and isinstance(logits[0]["cls_logits"], float)
    nbest = json.loads((run / "nbest_predictions.json").read_text())
    scores = {score for row in logits for score in row["start_top_log_probs"]}
    assert nbest["dev.json-0"][0]["start_log_prob"] in scores


def test_squad_stops_early(squad, answered, tmp_path):
    # With a rate of 0 no checkpoint is better than the first one.
    wanted = {"do_train": True, "do_predict": True, "save_steps": 1, "patience": 2}
    wanted |= {"learning_rate": 0, "train_steps": 30, "retain_all": True}
    # --patience scores step 1, too, which is not among those to evaluate.
    argv = _squad_flags(answered, tmp_path / "run", eval_start_step=2, **wanted)
    assert invoke(squad, argv) == 0
    run = tmp_path / "run"
    progress = json.loads((run / "progress.json").read_text())
    assert progress == {"step": 3, "total_steps": 3, "finished": True}
    assert json.loads((run / "best_result.json").read_text())["step"] == 3
    metrics = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "dev"]
    assert [row["step"] for row in metrics] == [3]


def test_squad_refuses_a_checkpoint_without_decoder(squad, answered, tmp_path, capsys):
    content = json.loads((answered / "net_config.json").read_text()) | {"decoder_size": "1"}
    (tmp_path / "net_config.json").write_text(json.dumps(content))
    shapes = expected_shapes(ModelConfig(**content), decoder=False)
    start, config = tmp_path / "init" / "model.ckpt", tmp_path / "net_config.json"
    write_tf_checkpoint(start, {name: np.zeros(shape, "f") for name, shape in shapes.items()})
    # With --do_predict, too: the scorer was once taken for the leave to start a decoder afresh.
    wanted = {"do_train": True, "do_predict": True, "init_checkpoint": start}
    argv = _squad_flags(answered, tmp_path / "run", model_config=config, **wanted)
    refuse(squad, capsys, argv, "missing: model/decoder/")


def test_squad_ensemble_and_refusals(squad, answered, capsys):
    run, output = answered / "run", answered / "together.json"
    wanted = {
        "do_ensemble": True,
        "ensemble_ckpts": f"{run}/latest,{run}/model.ckpt-6",
        "ensemble_output_file": output,
        "search_threshold": True,
        "model_config": None,
        "tokenizer_path": None,
    }
    assert invoke(squad, _squad_flags(answered, "", **wanted)) == 0
    assert len(json.loads(output.read_text())) == 12
    other = _squad_flags(answered, do_predict=True, conditional_end=False)
    refuse(squad, capsys, other, "2 missing: model/end_logits/dense/", "head")
    refuse(squad, capsys, _squad_flags(answered), "nothing to do")
    refuse(squad, capsys, _squad_flags(answered, do_train=True, train_version="v3"), "v1|v2")
    missing = _squad_flags(answered, prepro_split="train", train_file=None)
    refuse(squad, capsys, missing, "--train_file is needed")


def test_squad_1_without_conditional_ends_and_without_gold_answers(squad, tmp_path):
    write_squad(tmp_path)
    records = {"train_version": "v1", "eval_version": "v1"}
    assert invoke(squad, _squad_flags(tmp_path, prepro_split="eval", **records)) == 0
    assert (tmp_path / "records" / "vocab.txt.slen-28.qlen-4.eval.v1.tfrecord").exists()
    content = json.loads((tmp_path / "dev.json").read_text())
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"], paragraph["qas"][0]["is_impossible"]
    (tmp_path / "dev.json").write_text(json.dumps(content))
    head = {"conditional_end": False, "use_answer_class": False}
    wanted = {"do_train": True, "do_predict": True, "predict_dir": tmp_path / "answers"}
    assert invoke(squad, _squad_flags(tmp_path, train_steps=2, **records, **head, **wanted)) == 0
    assert len(json.loads((tmp_path / "answers" / "predictions.json").read_text())) == 12


def test_race_trains_scores_all_checkpoints_and_another_split(tmp_path, capsys):
    race = load_tf_program("race")
    write_race(tmp_path)
    flags = {"data_dir": tmp_path / "RACE", "max_seq_length": 32, "max_qa_length": 8}
    flags |= {"eval_batch_size": 5, "save_steps": 3}
    refuse(race, capsys, _flags(tmp_path, **flags), "nothing to do")
    same = {"do_train": True, "do_predict": True, "eval_split": "train"}
    refuse(
        race, capsys, _flags(tmp_path, **flags, **same), "--eval_split=train", "--do_train=False"
    )
    wanted = {"do_train": True, "do_eval": True, "eval_start_step": 0}
    assert invoke(race, _flags(tmp_path, **flags, **wanted)) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    dev = [row for row in rows if row["split"] == "dev"]
    assert [row["step"] for row in dev] == [3, 6]
    for row in dev:  # 12 questions of either level
        mean = (row["accuracy_middle"] + row["accuracy_high"]) / 2
        assert row["accuracy"] == pytest.approx(mean)
        assert row["accuracy"] * 24 == pytest.approx(round(row["accuracy"] * 24))
    assert np.isfinite(dev[-1]["loss"])
    evaluation = {
        "do_eval": True,
        "eval_split": "test",
        "eval_all_ckpt": False,
        "model_config": None,
        "do_predict": True,
        "write_logits": True,
    }
    assert invoke(race, _flags(tmp_path, **(flags | evaluation))) == 0
    labels = (tmp_path / "run" / "test_results.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (tmp_path / "run" / "test_results.jsonl").open()]
    assert [row["label"] for row in rows] == labels and len(labels) == 24
    assert rows[0]["id"] == "middle/0.txt#0" and len(rows[0]["logits"]) == 4
    best = json.loads((tmp_path / "run" / "best_result.json").read_text())
    assert (best["split"], best["step"], best["metric"]) == ("test", 6, "accuracy")


def test_squad_trains_on_records_alone(squad, answered, capsys, tmp_path):
    """The shards of another machine, without the file that they were made from."""
    wanted = {"do_train": True, "train_steps": 2, "train_file": tmp_path / "gone.json"}
    assert invoke(squad, _squad_flags(answered, tmp_path / "run", **wanted)) == 0
    assert sorted(path.name for path in (tmp_path / "run").glob("*.index")) == [
        "model.ckpt-0.index",
        "model.ckpt-2.index",
    ]
    none = {"output_dir": tmp_path / "empty", "model_dir": tmp_path / "other"}
    refuse(squad, capsys, _squad_flags(answered, **(wanted | none)), "gone.json", "no records")
    none |= {"do_train": True, "train_file": None}
    refuse(squad, capsys, _squad_flags(answered, **none), "--train_file=: is needed", "no records")
    assert not (tmp_path / "other").exists()
