"""pytorch/predict.py and the class Predictor, with finished models of every head."""

import csv
import gzip
import io
import json
import random
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import funnel_torch
from answering_runs import RACE, SQUAD
from classifier_runs import arguments, flag_list, invoke, load_program, refuse, write_files
from funnel.config.model import ModelConfig
from funnel.tokenization.choice import load_tokenizer

torch.set_num_threads(1)

WORDS = ("good", "bad", "film", "the", "a", "plot", "very", "not", "one", "two", "cat")


def texts(count=60):
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, 14))) for _ in range(count)]


def read_jsonl(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def program():
    return load_program("predict")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the classifier, with its own predictions for the test data."""
    folder = tmp_path_factory.mktemp("finished")
    write_files(folder)
    flags = {"epochs": 1, "write_prediction": True, "write_logits": True}
    assert invoke(load_program("classifier"), arguments(folder, **flags)) == 0
    return folder


def predict(program, source, target, model, **flags):
    values = {"model": model, "input": source, "output": target, "device_id": -1} | flags
    assert invoke(program, flag_list(values)) == 0
    return target


def _reference(folder, lines):
    """The logits of every line, computed alone, padded to the length of the training."""
    model = funnel_torch.FunnelForSequenceClassification.from_pretrained(folder)
    tokenizer, found = load_tokenizer(folder), []
    for line in lines:
        ids = [tokenizer.special.cls_id, *tokenizer.encode(line)[:14], tokenizer.special.sep_id]
        mask = torch.tensor([[1] * len(ids) + [0] * (16 - len(ids))])
        ids += [tokenizer.special.pad_id] * (16 - len(ids))
        segments = torch.tensor([[2] + [0] * 15])
        with torch.inference_mode():
            output = model(torch.tensor([ids]), mask, segments)
        found.append(output.logits[0].tolist())
    return np.array(found)


def test_it_predicts_as_the_program_that_trained(program, finished, tmp_path):
    """The same test file, in the same order: the logits of classifier.py."""
    source = finished / "CoLA" / "test.tsv"
    target = predict(
        program, source, tmp_path / "out.jsonl", finished / "run", text_column="sentence",
        id_column="index", write_logits=True,
    )  # fmt: skip
    found, expected = read_jsonl(target), read_jsonl(finished / "run" / "test_results.jsonl")
    assert [row["id"] for row in found] == [str(i) for i in range(9)]
    for row, other in zip(found, expected, strict=True):
        assert row["label"] == other["label"]
        assert list(row["logits"].values()) == pytest.approx(
            list(other["logits"].values()), abs=1e-4
        )


def test_order_lengths_and_windows(finished):
    """More texts than a part holds, of very different lengths: each as if computed alone."""
    predictor = funnel_torch.Predictor.from_pretrained(
        finished / "run" / "best", write_logits=True, batch_size=7, device="cpu"
    )
    predictor.engine.window = 16
    lines = texts()
    rows = predictor(lines)
    assert [row["index"] for row in rows] == list(range(len(lines)))
    found = np.array([list(row["logits"].values()) for row in rows])
    assert np.abs(found - _reference(finished / "run" / "best", lines)).max() < 2e-6
    assert predictor.engine.counts.texts == len(lines)
    stream = predictor(iter(lines))
    assert next(stream) == rows[0] and [rows[0], *stream] == rows
    assert predictor(lines[3])["logits"] == pytest.approx(rows[3]["logits"], abs=1e-4)
    pair = predictor(("good film", "bad plot"))
    assert pair["label"] in "01"
    with pytest.raises(funnel_error(), match="no input of this model"):
        predictor([3])


def funnel_error():
    from funnel.utils.errors import FunnelError

    return FunnelError


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same inputs in every form."""
    folder, lines = tmp_path_factory.mktemp("forms"), texts(12)
    lines[4] = 'good, "bad"'
    rows = [{"key": i, "text": line} for i, line in enumerate(lines)]
    (folder / "in.txt").write_text("\n".join(lines) + "\n")
    (folder / "in.txt.gz").write_bytes(gzip.compress((folder / "in.txt").read_bytes()))
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "in.json").write_text(json.dumps(rows, indent=1))
    (folder / "in.tsv").write_text("text\n" + "".join(f"{line}\tx\n"[:-3] + "\n" for line in lines))
    with (folder / "in.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["key", "text"])
        table.writeheader()
        table.writerows(rows)
    with (folder / "latin.csv").open("w", newline="", encoding="utf-16") as stream:
        csv.writer(stream, delimiter=";").writerows([[line] for line in lines])
    return folder


def test_every_form_of_input_gives_the_same(program, finished, forms, tmp_path, monkeypatch):
    model = finished / "run" / "best"
    expected = predict(program, forms / "in.txt", tmp_path / "x.csv", model).read_bytes()
    assert expected.startswith(b"index,id,label,probability\n") and expected.count(b"\n") == 13
    for name in ("in.txt.gz", "in.jsonl", "in.json", "in.csv"):
        found = predict(program, forms / name, tmp_path / "y.csv", model)
        assert found.read_bytes() == expected, name
    flags = {"encoding": "utf-16", "no_header": True, "delimiter": ";"}
    found = predict(program, forms / "latin.csv", tmp_path / "y.csv", model, **flags)
    assert found.read_bytes() == expected
    data = (forms / "in.txt").read_bytes()
    for packed in (data, gzip.compress(data)):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed)))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert predict(program, "-", tmp_path / "y.csv", model).read_bytes() == expected


def test_the_standard_output(program, finished, forms, capsys):
    predict(program, forms / "in.txt", "-", finished / "run")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(12))


def test_invalid_lines(program, finished, tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "good"}\n{"text": 3}\nnothing\n\n{"text": "bad"}\n')
    flags = {"model": finished / "run", "input": source, "output": tmp_path / "o.csv"}
    argv = flag_list(flags | {"device_id": -1})
    refuse(program, capsys, argv, "in.jsonl:2: 'text' is missing or not a string", "--skip_invalid")
    assert not list(tmp_path.glob("*o.csv*"))
    assert invoke(program, [*argv, "--skip_invalid"]) == 0
    assert "3 invalid lines left out" in capsys.readouterr().err
    with (tmp_path / "o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["index"], row["id"]) for row in rows] == [("0", "0"), ("1", "4")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "/nowhere"}, ["/nowhere"]),
        ({"input": "/nowhere.txt"}, ["--input=/nowhere.txt", "no such file"]),
        ({"input": "in.xyz"}, ["in.xyz", "--input_format"]),
        ({"input": "in.csv", "text_column": "title"}, ["in.csv:1", "'title'", "key, text"]),
        ({"input": "in.csv", "id_column": "name"}, ["'name'", "id"]),
        ({"input": "in.csv", "encoding": "klingon"}, ["klingon"]),
        ({"input": "in.csv", "no_header": True, "text_column": "text"}, ["--no_header"]),
        ({"input": "empty.txt"}, ["empty.txt", "no input"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"max_length": 4}, ["max_length=4"]),
        ({"int8": True, "onnx": "x.onnx"}, ["--int8 and --onnx"]),
        ({"onnx": "in.txt"}, ["in.txt: no readable ONNX file"]),
        ({"cased": True}, ["do_lower_case"]),
        ({"format": "xml"}, ["--format"]),
    ],
    ids=str,
)
def test_wrong_flags(program, finished, forms, tmp_path, capsys, changes, words):
    if "onnx" in changes:
        pytest.importorskip("onnxruntime")
    (forms / "in.xyz").write_text("a\n")
    (forms / "empty.txt").write_text("")
    flags = {"model": finished / "run", "input": "in.txt", "output": tmp_path / "out"} | changes
    for name in ("input", "onnx"):
        if name in flags and not str(flags[name]).startswith("/") and flags[name] != "x.onnx":
            flags[name] = forms / flags[name]
    refuse(program, capsys, flag_list(flags | {"device_id": -1}), *words)
    assert not list(tmp_path.iterdir())


def test_int8_and_onnx(program, finished, forms, tmp_path):
    flags = {"write_logits": True}
    model, source = finished / "run" / "best", forms / "in.txt"
    exact = read_jsonl(predict(program, source, tmp_path / "a.jsonl", model, **flags))
    found = read_jsonl(predict(program, source, tmp_path / "b.jsonl", model, int8=True, **flags))
    logits = [np.array([list(row["logits"].values()) for row in rows]) for rows in (exact, found)]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export = load_program("export_onnx")
    file = tmp_path / "model.onnx"
    assert invoke(export, flag_list({"model": model, "output": file})) == 0
    found = read_jsonl(predict(program, source, tmp_path / "c.jsonl", model, onnx=file, **flags))
    for row, other in zip(found, exact, strict=True):
        assert row["logits"] == pytest.approx(other["logits"], abs=1e-4)


SIZES = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}


def _save(folder, finished, head, labels=None, **arguments):
    """A directory with random weights of a head, and the vocabulary of the tests."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=21, block_size="1_1", decoder_size="1", **SIZES)
    model = getattr(funnel_torch, head)(config, **arguments)
    tokenizer = load_tokenizer(finished / "run" / "best")
    model.save_pretrained(folder, tokenizer=tokenizer, labels=labels)
    return folder


def test_regression_and_several_labels(finished, tmp_path):
    folder = _save(
        tmp_path / "r", finished, "FunnelForSequenceClassification", num_labels=1, regression=True
    )
    row = funnel_torch.Predictor.from_pretrained(folder, write_logits=True)("good film")
    assert row["label"] == row["logits"][0] and isinstance(row["label"], float)
    folder = _save(
        tmp_path / "m", finished, "FunnelForSequenceClassification", ["x", "y", "z"],
        num_labels=3, multi_label=True,
    )  # fmt: skip
    predictor = funnel_torch.Predictor.from_pretrained(folder, write_logits=True, threshold=0.0)
    row = predictor("good film")
    assert row["label"] == ["x", "y", "z"]
    logits = np.array(list(row["logits"].values()))
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)


def test_token_classification(finished, tmp_path):
    """A label per word, that of its first token; long ones are cut into windows."""
    labels = ["O", "B-X", "I-X"]
    folder = _save(tmp_path / "t", finished, "FunnelForTokenClassification", labels, num_labels=3)
    predictor = funnel_torch.Predictor.from_pretrained(folder, write_logits=True, max_length=12)
    words = ["films", "cat", "plots", "good"]
    first, second, empty = predictor([words, " ".join(["a"] * 30), ""])
    assert first["words"] == words and set(first["label"]) <= set(labels)
    model = funnel_torch.FunnelForTokenClassification.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    pieces = [tokenizer.encode(word) for word in words]
    ids = [tokenizer.special.cls_id, *(i for p in pieces for i in p), tokenizer.special.sep_id]
    begins = np.cumsum([1, *map(len, pieces)])[:-1]
    with torch.inference_mode():
        segments = torch.tensor([[2] + [0] * (len(ids) - 1)])
        logits = model(torch.tensor([ids]), token_type_ids=segments).logits[0].numpy()
    assert np.abs(np.array(first["logits"]) - logits[begins]).max() < 1e-4
    assert len(second["label"]) == 30 and set(second["label"]) <= set(labels)
    assert empty["words"] == [] and empty["label"] == []


def test_question_answering_as_squad(program, tmp_path):
    """The questions of a SQuAD file as rows: the answers that squad.py gives them."""
    SQUAD.write(tmp_path)
    assert invoke(load_program("squad"), SQUAD.arguments(tmp_path, epochs=1)) == 0
    expected = json.loads((tmp_path / "run" / "nbest_predictions.json").read_text())
    rows = [
        {"name": qa["id"], "question": qa["question"], "context": paragraph["context"]}
        for article in json.loads((tmp_path / "dev.json").read_text())["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = predict(
        program, tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "run",
        id_column="name", write_logits=True,
    )  # fmt: skip
    for row in read_jsonl(target):
        best, *_ = expected[row["id"]]
        assert row["label"] == best["text"]
        assert row["probability"] == pytest.approx(best["probability"], abs=1e-4)
        assert len(row["nbest"]) == len(expected[row["id"]])
    predictor = funnel_torch.Predictor.from_pretrained(tmp_path / "run/best", na_threshold=-1e9)
    assert predictor((rows[0]["question"], rows[0]["context"]))["label"] == ""
    empty = funnel_torch.Predictor.from_pretrained(tmp_path / "run/best")([("", ""), ("a", "a")])
    assert empty[0]["label"] == "" and empty[1]["label"] == "a"


def test_multiple_choice_as_race(program, tmp_path):
    """The questions of RACE as rows: the logits that race.py gives them; any number of options."""
    RACE.write(tmp_path)
    flags = {"epochs": 1, "write_prediction": True, "write_logits": True}
    assert invoke(load_program("race"), RACE.arguments(tmp_path, **flags)) == 0
    from funnel.tasks.race import read_race

    data = read_race(tmp_path / "RACE", "dev")
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["question", "context", "options"])
        for q in data.questions:
            table.writerow([q.text, data.articles[q.article], json.dumps(q.options)])
    target = predict(
        program, tmp_path / "in.csv", tmp_path / "o.jsonl", tmp_path / "run", write_logits=True
    )
    expected = read_jsonl(tmp_path / "run" / "valid_results.jsonl")
    for row, other in zip(read_jsonl(target), expected, strict=True):
        assert row["label"] == other["label"]
        assert row["logits"] == pytest.approx(other["logits"], abs=1e-4)
    predictor = funnel_torch.Predictor.from_pretrained(tmp_path / "run/best")
    row = predictor(("a cat", "good film", ["one", "two"]))
    assert row["label"] in "AB"
