"""PyTorch's classifier with several labels per text, class weights, smoothing and sampling."""

import json

import pytest

torch = pytest.importorskip("torch")

from classifier_runs import arguments, invoke, load_program, refuse
from multi_label_cases import write_texts
from task_files import write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    torch.set_num_threads(1)
    return load_program("classifier")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that has learned which words stand for which labels."""
    folder = tmp_path_factory.mktemp("several")
    write_texts(folder)
    wanted = {"multi_label": True, "write_prediction": True, "write_logits": True}
    flags = _flags(folder, epochs=20, lr=1e-2, class_weights="balanced", **wanted)
    assert invoke(program, [*flags, "--label_smoothing=0.05", "--eval_steps=40"]) == 0
    return folder


def _flags(folder, model_dir="run", **changes):
    own = {"dataset": "jsonl", "data_dir": folder / "own"}
    return arguments(folder, model_dir, **{**own, **changes})


def test_several_labels_are_learned_and_written(trained):
    scores = json.loads((trained / "run/final_scores.json").read_text())
    assert list(scores["dev"]) == ["micro_f1", "macro_f1", "subset_accuracy", "loss"]
    assert scores["dev"]["micro_f1"] > 0.6
    lines = (trained / "run/test_results.txt").read_text().splitlines()
    rows = [json.loads(x) for x in (trained / "run/test_results.jsonl").read_text().splitlines()]
    assert [set(line.split("|")) - {""} for line in lines] == [set(row["label"]) for row in rows]
    config = json.loads((trained / "run/best/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["bad", "cat", "good"]


def test_transformers_computes_the_same_logits(trained):
    transformers = pytest.importorskip("transformers")
    from funnel_torch import FunnelForSequenceClassification

    path = trained / "run/best"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    ours = FunnelForSequenceClassification.from_pretrained(path)
    ids, labels = torch.tensor([[3, 9, 10, 11, 12, 4]]), torch.tensor([[1.0, 0.0, 1.0]])
    types = torch.tensor([[2, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        one = ours(ids, None, types, labels)
        other = theirs(ids, token_type_ids=types, labels=labels)
    torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.loss, other.loss, atol=1e-4, rtol=1e-4)


def test_the_saved_problem_type_is_honoured(program, trained, capsys, tmp_path):
    model = {"init_ckpt": trained / "run/best", "tokenizer_path": None, "init_ckpt_config": None}
    flags = _flags(trained, tmp_path / "out", test_only=True, **model)
    assert invoke(program, flags) == 0
    before = json.loads((trained / "run/final_scores.json").read_text())["dev"]
    after = json.loads((tmp_path / "out/final_scores.json").read_text())["dev"]
    assert after == pytest.approx(before, abs=1e-6)
    flags = _flags(trained, tmp_path / "new", regression=True, **model)
    refuse(program, capsys, flags, "problem_type is multi_label_classification")


def test_weights_smoothing_and_sampling_change_training(program, tmp_path, capsys):
    write_texts(tmp_path)
    rows = [f"good film,yes\n{'bad plot,no' * (i < 2)}\n".rstrip("\n") + "\n" for i in range(10)]
    for split in ("train", "dev"):
        write(tmp_path / f"own/{split}.csv", "text,label\n" + "".join(rows))
    runs = {
        "plain": {},
        "weights": {"class_weights": '{"no": 3}'},
        "smooth": {"label_smoothing": 0.2},
        "sampled": {"balanced_sampling": True, "num_workers": 0},
    }
    losses = {}
    for name, options in runs.items():
        flags = _flags(tmp_path, name, dataset="csv", epochs=1, train_bsz=20, **options)
        assert invoke(program, flags) == 0
        first = (tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]
        losses[name] = json.loads(first)["loss"]
    assert len(set(losses.values())) == 4
    assert "balanced sampling: 12 examples become 20 a pass" in capsys.readouterr().err
    flags = _flags(tmp_path, "x", dataset="csv", regression=True, label_smoothing=0.1)
    write(tmp_path / "own/train.csv", "text,label\na,1\nb,2\n")
    refuse(program, capsys, flags, "--label_smoothing: goes with labels")
    flags = _flags(tmp_path, "x", multi_label=True, balanced_sampling=True)
    refuse(program, capsys, flags, "--balanced_sampling: goes with one label")
    flags = _flags(tmp_path, "x", multi_label=True, do_submit=True)
    refuse(program, capsys, flags, "--do_submit: goes with benchmarks")
