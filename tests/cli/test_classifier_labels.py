"""classifier.py reads the outputs of a trained model as the labels the model names."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from classifier_runs import arguments, invoke, load_program, refuse, write_files
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel_torch import FunnelForSequenceClassification

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

LABELS = ("mid", "high", "low")  # neither sorted nor reversed


@pytest.fixture(scope="module")
def program():
    return load_program("classifier")


def write_split(folder, split, labels, count=12):
    """Write a csv file whose text has the position of its label in ``LABELS``, or no label."""
    words = ("one", "two", "cat")
    folder.mkdir(exist_ok=True)
    rows = [" ".join([words[i % 3]] * 4) + f",{labels[i % 3]}" for i in range(count)]
    (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, program):
    """A model that knows its three labels, with its files."""
    folder = tmp_path_factory.mktemp("trained")
    write_files(folder, dropout=0.0, dropatt=0.0)
    for split in ("train", "dev", "test"):
        write_split(folder / "own", split, LABELS, 48)
    changes = {"dataset": "csv", "data_dir": folder / "own", "lr": 4e-3, "epochs": 45}
    assert invoke(program, arguments(folder, **changes, labels=",".join(LABELS))) == 0
    return folder


def evaluate(program, trained, data, model, **changes):
    """Evaluate ``model`` on csv files without training; return its dev scores and predictions."""
    run = data / "evaluation"
    argv = test_arguments(trained, data, model, model_dir=run, **changes)
    assert invoke(program, argv) == 0
    scores = json.loads((run / "final_scores.json").read_text())
    return scores, (run / "test_results.txt").read_text().splitlines()


def test_arguments(trained, data, model, **changes):
    flags = {"dataset": "csv", "data_dir": data, "init_ckpt": model, "init_ckpt_config": None}
    flags |= {"test_only": True, "write_prediction": True, "tokenizer_path": None}
    return arguments(trained, **{**flags, "model_dir": data / "evaluation", **changes})


test_arguments.__test__ = False


def rename(model, folder, **config):
    """Return a copy of a saved model with other keys in its config.json."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def name_outputs(labels):
    return {"id2label": {str(i): x for i, x in enumerate(labels)}, "label2id": {}}


def test_the_model_names_its_labels_and_needs_no_training_file(program, trained, tmp_path):
    model = trained / "run" / "best"
    assert load_checkpoint(model).metadata["labels"] == list(LABELS)
    data = tmp_path / "data"
    write_split(data, "dev", LABELS)
    write_split(data, "test", ("-1",) * 3)
    scores, predictions = evaluate(program, trained, data, model)
    assert list(scores) == ["dev"] and scores["dev"]["accuracy"] == 1.0
    assert predictions == [LABELS[i % 3] for i in range(12)]


def test_labels_of_another_case_are_the_same(program, trained, tmp_path, capsys):
    write_split(tmp_path / "data", "dev", (" MID", "High ", "low"))
    write_split(tmp_path / "data", "test", LABELS)
    scores, _ = evaluate(program, trained, tmp_path / "data", trained / "run" / "best")
    assert scores["dev"]["accuracy"] == scores["test"]["accuracy"] == 1.0
    assert "labels read 'MID' as 'mid' (4 rows), 'High' as 'high' (4 rows)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("labels", [None, "low,mid,high", "LOW, Mid,high"])
def test_a_model_with_outputs_in_another_order(program, trained, tmp_path, labels):
    """The same model with its outputs permuted predicts the same labels."""
    order = [2, 0, 1]
    checkpoint = load_checkpoint(trained / "run" / "best")
    for name in ("model/csv/logit/kernel", "model/csv/logit/bias"):
        checkpoint.tensors[name] = np.ascontiguousarray(checkpoint.tensors[name][..., order])
    checkpoint.metadata["labels"] = [LABELS[i] for i in order]
    save_checkpoint(checkpoint, tmp_path / "model", "hf")
    data = tmp_path / "data"
    for split in ("dev", "test"):
        write_split(data, split, LABELS)
    scores, predictions = evaluate(program, trained, data, tmp_path / "model", labels=labels)
    assert scores["dev"]["accuracy"] == 1.0
    spelling = dict.fromkeys(LABELS) | {x.lower(): x for x in LABELS}
    if labels is not None:
        spelling = {x.strip().lower(): x.strip() for x in labels.split(",")}
    assert predictions == [spelling[LABELS[i % 3]] for i in range(12)]


def test_other_labels_are_refused(program, trained, tmp_path, capsys):
    data, model = tmp_path / "data", trained / "run" / "best"
    for split in ("train", "dev", "test"):
        write_split(data, split, ("1", "2", "3"))
    argv = test_arguments(trained, data, model)
    refuse(program, capsys, argv, "dev.csv:2: unknown label '1'; allowed: mid, high, low", "best")
    refuse(program, capsys, [*argv, "--labels=1,2,3"], "are mid, high, low, those of", "1, 2, 3")
    assert not (data / "evaluation").exists()


def test_unnamed_labels(program, trained, tmp_path, capsys):
    model = rename(trained / "run/best", tmp_path / "model", id2label=None, label2id=None)
    data = tmp_path / "data"
    for split in ("dev", "test"):
        write_split(data, split, ("0", "1", "2"))
    scores, predictions = evaluate(program, trained, data, model)
    assert scores["dev"]["accuracy"] == 1.0
    assert predictions[:3] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert "does not name its labels" in capsys.readouterr().err
    write_split(data, "dev", LABELS)
    argv = test_arguments(trained, data, model)
    refuse(program, capsys, argv, "unknown label 'mid'", "--labels names them")
    write_split(data, "test", LABELS)
    _, predictions = evaluate(program, trained, data, model, labels=",".join(LABELS))
    assert predictions[:3] == list(LABELS)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"problem_type": "sorting"}, "problem_type: 'sorting' is none of"),
        ({"problem_type": "regression"}, "has 3 outputs, the task needs 1"),
        (name_outputs(("a", "b")), "names the labels a, b; a head of 3 outputs"),
        (name_outputs(("a", "b", "a")), "needs as many different names"),
    ],
)
def test_a_head_of_another_kind(program, trained, tmp_path, capsys, config, words):
    model = rename(trained / "run/best", tmp_path / "model", **config)
    write_split(tmp_path / "data", "dev", LABELS)
    refuse(program, capsys, test_arguments(trained, tmp_path / "data", model), words)


def test_a_model_of_several_labels_is_read_as_such(program, trained, tmp_path, capsys):
    kind = {"problem_type": "multi_label_classification"}
    model = rename(trained / "run/best", tmp_path / "model", **kind)
    write_split(tmp_path / "data", "dev", (*LABELS, ""))
    argv = test_arguments(trained, tmp_path / "data", model)
    refuse(program, capsys, [*argv, "--metric=f1"], kind["problem_type"], "f1 is no metric")
    refuse(program, capsys, [*argv, "--regression"], kind["problem_type"])
    assert invoke(program, argv) == 0
    assert "several labels can hold for a text" in capsys.readouterr().err


def test_nothing_to_evaluate(program, trained, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    argv = test_arguments(trained, tmp_path / "data", trained / "run" / "best")
    refuse(program, capsys, argv, "data: no dev.csv")


def test_a_checkpoint_without_head(program, trained, tmp_path, capsys):
    checkpoint = load_checkpoint(trained / "run" / "best")
    kept = {n: t for n, t in checkpoint.tensors.items() if "/logit/" not in n}
    checkpoint.tensors, checkpoint.metadata = kept, {}
    save_checkpoint(checkpoint, tmp_path / "model", "hf")
    write_split(tmp_path / "data", "dev", LABELS)
    argv = test_arguments(trained, tmp_path / "data", tmp_path / "model")
    argv += [f"--tokenizer_path={trained / 'vocab.txt'}"]
    refuse(program, capsys, argv, "has no classification head")


def test_training_on_other_labels_needs_a_new_head(program, trained, tmp_path, capsys):
    data, model = tmp_path / "data", trained / "run" / "best"
    for split in ("train", "dev"):
        write_split(data, split, ("1", "2", "3"))
    flags = {"test_only": None, "write_prediction": None, "epochs": 1}
    argv = test_arguments(trained, data, model, model_dir=tmp_path / "run", **flags)
    refuse(program, capsys, argv, "are mid, high, low", "1, 2, 3; --new_head starts")
    assert not (tmp_path / "run").exists()
    assert invoke(program, [*argv, "--new_head"]) == 0
    assert load_checkpoint(tmp_path / "run" / "best").metadata["labels"] == ["1", "2", "3"]


def test_training_goes_on_with_the_labels_of_the_model(program, trained, tmp_path):
    """Labels are sorted in the data (high, low, mid); the head keeps its order. Also resumed."""
    data = tmp_path / "data"
    for split in ("train", "dev"):
        write_split(data, split, LABELS)
    flags = {"test_only": None, "write_prediction": None, "epochs": 1, "lr": 0.0}
    argv = test_arguments(trained, data, trained / "run/best", model_dir=tmp_path / "r", **flags)
    assert invoke(program, argv) == 0
    assert load_checkpoint(tmp_path / "r" / "best").metadata["labels"] == list(LABELS)
    best = json.loads((tmp_path / "r" / "best_result.json").read_text())
    assert best["scores"]["dev"]["accuracy"] == 1.0
    assert invoke(program, [*argv, "--resume"]) == 0


def test_a_model_of_numbers_makes_the_labels_numbers(program, trained, tmp_path, capsys):
    data = tmp_path / "data"
    for split in ("train", "dev", "test"):
        write_split(data, split, ("0.5", "1", "2"))
    flags = {"test_only": None, "write_prediction": None, "epochs": 1, "init_ckpt": None}
    flags |= {"init_ckpt_config": trained / "net_config.json", "model_dir": tmp_path / "r"}
    flags |= {"tokenizer_path": trained / "vocab.txt"}
    argv = test_arguments(trained, data, None, **flags)
    assert invoke(program, [*argv, "--regression"]) == 0
    (data / "train.csv").unlink()
    scores, predictions = evaluate(program, trained, data, tmp_path / "r" / "best")
    assert next(iter(scores["dev"])) == "pearson_spearman"
    assert all(float(value) < 10 for value in predictions)
    argv = test_arguments(trained, data, tmp_path / "r" / "best", labels="0.5,1,2")
    refuse(program, capsys, argv, "problem_type is regression, task csv is single_label")


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification", None])
def test_the_model_class_keeps_the_problem_type(trained, tmp_path, kind):
    path = rename(trained / "run/best", tmp_path / "m", problem_type=kind, id2label=None)
    model = FunnelForSequenceClassification.from_pretrained(path)
    ids, labels = torch.tensor([[3, 9, 4], [3, 10, 4]]), torch.rand(2, 3)
    logits = model(ids).logits
    if kind is None:
        labels = torch.tensor([0, 2])
        expected = torch.nn.functional.cross_entropy(logits, labels)
    elif kind == "regression":
        expected = ((logits - labels) ** 2).mean()
    else:
        expected = torch.nn.functional.binary_cross_entropy(logits.sigmoid(), labels)
    torch.testing.assert_close(model(ids, labels=labels).loss, expected)
    model.save_pretrained(tmp_path / "again")
    saved = load_checkpoint(tmp_path / "again").metadata["problem_type"]
    assert saved == (kind or "single_label_classification")
