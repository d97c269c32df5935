"""``funnel_torch.finetune``: forms of data, options, results, resumption, and the documentation."""

import inspect
import json
import os
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import classifier_runs
import readme_commands
from funnel.config.model import ModelConfig
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import ConfigError, DataError, RunError
from funnel_torch import FunnelForSequenceClassification, FunnelModel, finetune
from funnel_torch.tasks.in_memory import ColumnNames, LabelRequest, build_task, read_rows
from repo_layout import ROOT

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "bad",
    "film",
    "plot",
    "the",
    "a",
    "was",
]
SIZES = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}
CONFIG = ModelConfig(vocab_size=len(WORDS), block_size="1_1", init_std=0.3, **SIZES)
ROWS = [("the film was good", "pos"), ("the plot was bad", "neg"), ("a bad film", "neg")] * 6
QUICK = {"epochs": 1, "max_length": 16, "batch_size": 16}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS))
    return path


@pytest.fixture(scope="module")
def trained(vocabulary):
    options = {"epochs": 8, "lr": 1e-2, "batch_size": 4, "max_length": 16}
    return finetune(CONFIG, ROWS, ROWS[:6], tokenizer=vocabulary, **options)


def test_a_configuration_becomes_a_trained_classifier(trained):
    assert list(trained.scores) == ["accuracy", "error_rate", "loss"]
    assert trained.scores["accuracy"] == 1.0
    assert trained.labels == ("neg", "pos")
    assert trained.predict(["good film", "the bad plot"]) == ["pos", "neg"]
    shares = trained.probabilities(["good film"])
    assert shares.shape == (1, 2) and shares.sum() == pytest.approx(1)
    steps = [row["step"] for row in trained.history if row["split"] == "dev"]
    assert steps == list(range(5, 41, 5))
    assert not trained.model.training


def test_the_model_that_is_returned_has_the_scores_that_are_reported(trained):
    """The first evaluation with the best accuracy, although later steps changed the weights."""
    best = next(row for row in trained.history if row.get("accuracy") == 1.0)
    assert best["step"] < 40
    again = trained.evaluate(ROWS[:6])
    assert again == pytest.approx({k: best[k] for k in ("accuracy", "error_rate", "loss")})
    assert again == pytest.approx(trained.scores)


def test_a_saved_model_predicts_the_same_and_trains_on(trained, tmp_path):
    folder = trained.save(tmp_path / "model")
    model = FunnelForSequenceClassification.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "neg", "1": "pos"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = finetune(model, ROWS, **QUICK, lr=1e-3)
    assert again.predict(["good film"]) == ["pos"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ConfigError, match="new_head=True"):
        finetune(folder, [("a", "yes"), ("b", "no")], **QUICK)
    other = finetune(folder, [("a", "x"), ("b", "y"), ("c", "z")], **QUICK, new_head=True)
    assert other.labels == ("x", "y", "z")


def test_the_base_of_another_model_gets_a_head(vocabulary):
    torch.manual_seed(0)
    model = FunnelModel(CONFIG)
    with pytest.raises(ConfigError, match="tokenizer=..."):
        finetune(model, ROWS, **QUICK)
    tokenizer = get_tokenizer("word_piece", vocabulary)
    result = finetune(model, ROWS, tokenizer=tokenizer, **QUICK, lr=0.0)
    weights = result.model.funnel.embeddings.word_embeddings.weight
    torch.testing.assert_close(weights, model.embeddings.word_embeddings.weight)
    assert result.scores == {} and result.tokenizer is tokenizer


def _as_forms(rows):
    texts, labels = zip(*rows, strict=True)
    yield [{"text": text, "label": label} for text, label in rows]
    yield {"text": list(texts), "label": list(labels)}
    pandas = pytest.importorskip("pandas")
    # Rows of a frame keep their order, whatever its index is.
    yield pandas.DataFrame({"text": texts, "label": labels}, index=range(len(rows), 0, -1))
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    numbers = [classes.str2int(label) for label in labels]
    yield datasets.Dataset.from_dict({"text": texts, "label": numbers}, features=features)


def test_every_form_of_data_is_the_same_data():
    expected = read_rows("train", ROWS)
    for data in _as_forms(ROWS):
        found = read_rows("train", data)
        assert list(found.rows) == list(expected.rows), type(data)
        assert build_task(found, LabelRequest()).labels == ("neg", "pos")


def test_pairs_and_columns_of_other_names():
    named = ColumnNames("first", "second", "class")
    table = {"first": ["a", "b"], "second": ["c", "d"], "class": [1, 0]}
    rows = read_rows("train", table, named).rows
    assert [row[1:] for row in rows] == [("a", "c", 1), ("b", "d", 0)]
    assert [row[1:] for row in read_rows("t", [("a", "c", 1), ("b", "d", 0)]).rows] == [
        row[1:] for row in rows
    ]
    assert read_rows("t", {"text": ["a"], "text_b": ["c"], "label": [1]}).rows[0].text_b == "c"
    pairs = read_rows("texts", [("a", "c")], labelled=False).rows
    assert pairs[0][1:] == ("a", "c", None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("train.csv", "no list of texts"),
        ([], "train: is empty"),
        (7, "a int holds no texts"),
        ([("a", 1), ("b",)], r"train\[1\]: has 1 values"),
        ([("a", 1), ("b", "c", 1)], "some rows are pairs"),
        ([("a", 1), (None, 1)], r"train\[1\]: text is missing"),
        ([("a", 1), (3, 1)], r"train\[1\]: text is a int"),
        ([("a", "x"), ("b", None)], r"train\[1\]: has no label"),
        ([("a", "x"), ("b", float("nan"))], r"train\[1\]: has no label"),
        ([("a", "x"), ("b", ["x", "y"])], r"train\[1\]: label .* is a list"),
        ([{"text": "a"}], r"train\[0\]: has no 'label'"),
        ({"text": ["a"], "labels": [1]}, "train: has no column 'label', only text, labels"),
        ({"text": ["a"], "label": [1, 2]}, "different lengths"),
        ([("a", "x"), ("b", "x")], "at least two labels"),
    ],
)
def test_bad_data_is_named(data, message):
    with pytest.raises((DataError, ConfigError), match=message):
        build_task(read_rows("train", data), LabelRequest())


def test_a_dictionary_of_splits_is_not_a_table():
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    with pytest.raises(DataError, match="by its name: 'train'"):
        read_rows("train", datasets.DatasetDict(train=part))


@pytest.mark.parametrize(
    ("labels", "regression", "found"),
    [
        ([10, 9], None, ("9", "10")),
        ([True, False], None, ("False", "True")),
        ([np.int64(3), np.int64(2)], None, ("2", "3")),
        ([1.0, 2.0], False, ("1", "2")),
        ([0.5, 2.0], None, None),
        ([1, 2], True, None),
    ],
)
def test_the_labels_decide_the_problem(labels, regression, found):
    rows = read_rows("train", [("a", label) for label in labels])
    task = build_task(rows, LabelRequest(regression=regression))
    assert task.labels == found and task.is_regression == (found is None)


def test_whole_numbers_of_type_float_have_to_be_explained():
    rows = read_rows("train", [("a", 1.0), ("b", 2.0)])
    with pytest.raises(ConfigError, match="regression=True"):
        build_task(rows, LabelRequest())


def test_integer_labels_come_back_and_an_unknown_one_is_named(vocabulary):
    rows = [("good", 3), ("bad", 7)] * 4
    result = finetune(CONFIG, rows, tokenizer=vocabulary, **QUICK)
    assert set(result.predict(["good", "bad"])) <= {3, 7} and result.labels == (3, 7)
    with pytest.raises(DataError, match=r"dev\[1\]: unknown label '4'; allowed: 3, 7"):
        finetune(CONFIG, rows, [("good", 3), ("bad", 4)], tokenizer=vocabulary, **QUICK)


def test_regression(vocabulary):
    rows = [("good", 1.5), ("bad", -1.25)] * 8
    options = {**QUICK, "epochs": 30, "lr": 2e-2, "batch_size": 4}
    result = finetune(CONFIG, rows, rows[:4], tokenizer=vocabulary, **options)
    low, high = result.predict(["bad", "good"])
    # Their level is not learnt: the first epoch with a correlation of 1 is kept.
    assert low < high
    assert next(iter(result.scores)) == "pearson_spearman" and result.scores["pearson"] > 0.9
    with pytest.raises(ConfigError, match="predicts numbers"):
        result.probabilities(["good"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1e-3}, "no option 'learning_rate'; did you mean lr"),
        ({"epoch": 1}, "did you mean epochs"),
        ({"epochs": 0}, "epochs=0"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"weight_decays": 0.1}, "did you mean weight_decay"),
        ({"metric": "bleu"}, "metric 'bleu'"),
    ],
)
def test_bad_options_are_named(vocabulary, options, message):
    with pytest.raises(ConfigError, match=message):
        finetune(CONFIG, ROWS, tokenizer=vocabulary, **options)
    with pytest.raises(ConfigError, match="is no model"):
        finetune(3, ROWS, tokenizer=vocabulary)


def test_the_signature_lists_the_options():
    parameters = inspect.signature(finetune).parameters
    assert list(parameters)[:3] == ["model", "train", "dev"]
    assert parameters["epochs"].default == 3 and parameters["lr"].default == 2e-5


def test_further_settings_of_training_are_passed_on(vocabulary):
    result = finetune(
        CONFIG, ROWS, tokenizer=vocabulary, max_length=16, train_steps=3, grad_accum=2
    )
    assert result.history[-1]["step"] == 3


def test_the_same_call_resumes_or_returns_a_run(vocabulary, tmp_path, monkeypatch):
    options = {"tokenizer": vocabulary, "output_dir": tmp_path / "run", "max_length": 16, "seed": 3}
    options |= {"epochs": 3, "batch_size": 8, "lr": 1e-2}
    memory = finetune(CONFIG, ROWS, ROWS[:6], **{**options, "output_dir": None})

    from funnel_torch.training.trainer import Trainer

    count, original = [], Trainer._backward

    def stop(self, *args, **kwargs):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_backward", stop)
        finetune(CONFIG, ROWS, ROWS[:6], **options)
    resumed = finetune(CONFIG, ROWS, ROWS[:6], **options)
    for name, value in memory.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert resumed.scores == pytest.approx(memory.scores)
    assert [row["step"] for row in resumed.history if row["split"] == "dev"] == [3, 6, 9]
    again = finetune(CONFIG, ROWS, ROWS[:6], **options)
    assert again.scores == resumed.scores and len(again.history) == len(resumed.history)
    assert not (tmp_path / "run" / ".run.lock").exists()
    with pytest.raises(RunError, match=r"data was .*overwrite=True"):
        finetune(CONFIG, ROWS[:-1], ROWS[:6], **options)


def test_a_directory_belongs_to_one_initial_model(vocabulary, tmp_path):
    """A finished run is returned for the same call only; an object has no path to know it by."""
    options = {"tokenizer": vocabulary, "max_length": 16, "train_steps": 1}
    first, second = (FunnelForSequenceClassification(CONFIG, 2) for _ in range(2))
    cases = {
        r"model_config\.d_inner was": (CONFIG, CONFIG.replace(d_inner=2 * CONFIG.d_inner)),
        "weights was": (first, second),
    }
    for number, (message, (model, other)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        before = finetune(model, ROWS, output_dir=folder, **options)
        with pytest.raises(RunError, match=message):
            finetune(other, ROWS, output_dir=folder, **options)
        again = finetune(model, ROWS, output_dir=folder, **options)
        texts = [ROWS[0][0]]
        np.testing.assert_allclose(again.logits(texts), before.logits(texts), atol=1e-6)


def test_the_result_is_that_of_the_program(tmp_path):
    """Same data, same settings, same seed: the same losses and scores in every line."""
    classifier_runs.write_files(tmp_path)
    program = classifier_runs.load_program("classifier")
    assert not classifier_runs.invoke(program, classifier_runs.arguments(tmp_path))
    curve = classifier_runs.curve(tmp_path / "run")
    parts = []
    for name in ("train", "dev"):
        lines = (tmp_path / "CoLA" / f"{name}.tsv").read_text().splitlines()
        parts.append([(line.split("\t")[3], int(line.split("\t")[1])) for line in lines])
    result = finetune(
        ModelConfig.load(tmp_path / "net_config.json"),
        *parts,
        tokenizer=tmp_path / "vocab.txt",
        metric="matthews_corr",
        max_length=16,
        batch_size=8,
        epochs=2,
        lr=1e-3,
        seed=1,
    )
    assert len(result.history) == len(curve) > 4
    for ours, theirs in zip(result.history, curve, strict=True):
        assert {name: ours[name] for name in ("step", "split", "loss")} == {
            name: pytest.approx(theirs[name], rel=1e-6) if name == "loss" else theirs[name]
            for name in ("step", "split", "loss")
        }


def test_the_documentation_runs(tmp_path, monkeypatch, capsys):
    """All examples in a row, with a small model in place of the released one."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    vocabulary = [*WORDS, *["it", "fun", "dull", "man", "he", "dog", "fair", "not", "."]]
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=len(vocabulary), block_size="1_1", **SIZES)
    FunnelModel(config).save_pretrained("funnel-transformer/small", vocab_path="words.txt")
    lines = [f'"{text}",{label}' for text, label in ROWS]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    blocks = readme_commands.blocks(ROOT / "docs" / "python_api.md", "python")
    assert len(blocks[0].splitlines()) < 30
    names = {}
    for block in blocks:
        exec(compile(block, "python_api.md", "exec"), names)
    assert os.path.isfile("my-classifier/model.safetensors")
    assert "accuracy" in capsys.readouterr().out


def test_the_notebook_runs_and_holds_no_outputs():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    path = ROOT / "docs" / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [c for c in code if c.outputs or c.execution_count], "clear the outputs first"
    # Torch's threads would wait for each other where tests run at the same time.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import torch; torch.set_num_threads(1)"))
    resources = {"metadata": {"path": path.parent}}
    nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    shown = "".join(o.text for c in code for o in c.outputs if o.output_type == "stream")
    found = [float(value) for value in re.findall(r"step +\d+: accuracy ([\d.]+)", shown)]
    # Four topics of similar size.
    assert max(found) > 0.5, shown
