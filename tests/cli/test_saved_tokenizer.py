"""The PyTorch programs on the tokenizer of a model: read from its directory, never contradicted."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from classifier_runs import arguments, invoke, load_program, refuse, write_files
from pretrain_runs import arguments as pretrain_arguments
from pretrain_runs import write_files as write_records

pytestmark = pytest.mark.slow


def write_shouts(folder):
    """A task whose label depends on case alone, and a vocabulary with both cases."""
    write_files(folder)
    special = (folder / "vocab.txt").read_text().split()[:9]
    letters = [f"{mark}{c}" for c in "abcdefABCDEF" for mark in ("", "##")]
    (folder / "vocab.txt").write_text("\n".join([*special, *letters]) + "\n")
    (folder / "csv").mkdir()
    for name, count in (("train", 96), ("dev", 16)):
        rows = [("ABC DEF,shout", "abc def,calm")[i % 2] for i in range(count)]
        (folder / "csv" / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def flags(folder, model_dir, **changes):
    return arguments(
        folder, model_dir,
        **{"dataset": "csv", "data_dir": folder / "csv", "overwrite_keys": "vocab_size",
           "epochs": 8, "lr": 5e-3, **changes},
    )  # fmt: skip


def again(folder, model_dir, **changes):
    """Flags of an evaluation that name nothing but the run."""
    unset = dict.fromkeys(("tokenizer_path", "init_ckpt_config", "overwrite_keys"))
    return flags(folder, model_dir, test_only=True, **unset, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shouts")
    write_shouts(folder)
    program = load_program("classifier")
    assert invoke(program, flags(folder, "cased", cased=True)) == 0
    assert invoke(program, flags(folder, "uncased", epochs=1)) == 0
    return folder


def scores(folder, model_dir):
    return json.loads((folder / model_dir / "final_scores.json").read_text())["dev"]


def read_settings(directory):
    return json.loads((directory / "tokenizer_config.json").read_text())


def test_case_is_written_beside_the_weights_and_read_from_there(folder):
    trained = scores(folder, "cased")
    assert trained["accuracy"] == 1.0
    assert read_settings(folder / "cased/best")["do_lower_case"] is False
    program = load_program("classifier")
    for more in ({}, {"cased": True}, {"tokenizer_type": "word_piece"}):
        assert invoke(program, again(folder, "cased", **more)) == 0
        assert scores(folder, "cased")["accuracy"] == 1.0


def test_a_flag_that_contradicts_the_model_is_refused_with_both_values(folder, capsys):
    program = load_program("classifier")
    both = ("do_lower_case false", "do_lower_case true", "tokenizer_config.json")
    refuse(program, capsys, again(folder, "uncased", cased=True), "--cased", *both)
    other = {"init_ckpt": folder / "uncased/best", "cased": True, "new_head": True}
    refuse(program, capsys, flags(folder, "new", **other), "--cased", *both)
    kind = again(folder, "cased", tokenizer_type="sent_piece")
    refuse(program, capsys, kind, "--tokenizer_type=sent_piece", "word_piece")
    segment = again(folder, "cased", seg_id_cls=0)
    refuse(program, capsys, segment, "--seg_id_cls=0", "says 2")
    reverse = folder / "reverse.txt"
    lines = (folder / "vocab.txt").read_text().split()
    reverse.write_text("\n".join([*lines[:9], *lines[:8:-1]]) + "\n")
    vocabulary = [*again(folder, "cased"), f"--tokenizer_path={reverse}"]
    refuse(program, capsys, vocabulary, "id 9 is '##F', but 'a'")


@pytest.mark.parametrize("layout", ["hf", "tf", "pt"])
def test_every_layout_and_program_keeps_the_case(folder, tmp_path, layout):
    convert, extract = load_program("convert"), load_program("extract_features")
    source = folder / "cased/best"
    # A directory that transformers wrote: its own config alone says that text keeps its case.
    (tmp_path / "hf").mkdir()
    for path in source.iterdir():
        (tmp_path / "hf" / path.name).write_bytes(path.read_bytes())
    config = {"tokenizer_class": "FunnelTokenizer", "do_lower_case": False}
    (tmp_path / "hf/tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "one.txt").write_text("ABC\tdEf\n")
    found = []
    for number, path in enumerate((source, tmp_path / "hf")):
        copy = tmp_path / f"copy{number}"
        assert invoke(convert, [f"--src={path}", f"--dst={copy}", f"--to={layout}"]) == 0
        assert read_settings(copy)["do_lower_case"] is False
        for model in (path, copy):
            output = tmp_path / "out.npz"
            argv = [f"--model={model}", f"--text={tmp_path / 'one.txt'}", f"--output={output}"]
            assert invoke(extract, [*argv, "--device_id=-1"]) == 0
            found.append(np.load(output)["input_ids"].tolist())
    lines = (folder / "vocab.txt").read_text().split()
    pieces = [lines[i] for i in found[0][0]]
    assert pieces == ["<cls>", "A", "##B", "##C", "<sep>", "d", "##E", "##f", "<sep>"]
    assert found == found[:1] * 4


def test_a_directory_that_records_nothing_is_converted_as_the_flag_says(folder, tmp_path, capsys):
    convert, released = load_program("convert"), tmp_path / "released"
    argv = [f"--src={folder / 'cased/best'}", f"--dst={released}", "--to=tf"]
    assert invoke(convert, argv) == 0
    (released / "tokenizer_config.json").unlink()
    for layout in ("tf", "pt"):
        argv = [f"--src={released}", f"--dst={tmp_path / layout}", f"--to={layout}"]
        assert invoke(convert, argv) == 0
        assert not (tmp_path / layout / "tokenizer_config.json").exists()
    argv = [f"--src={released}", f"--dst={tmp_path / 'hf'}", "--to=hf"]
    assert invoke(convert, argv) == 0
    assert read_settings(tmp_path / "hf")["do_lower_case"] is True
    assert invoke(convert, [*argv, "--cased"]) == 0
    assert read_settings(tmp_path / "hf")["do_lower_case"] is False
    argv = [f"--src={folder / 'uncased/best'}", f"--dst={tmp_path / 'x'}", "--to=tf", "--cased"]
    refuse(convert, capsys, argv, "do_lower_case false", "do_lower_case true")


def test_symbols_of_a_bert_vocabulary_are_named_for_transformers(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    write_shouts(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().split()
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*names, *lines[9:]]) + "\n")
    assert invoke(load_program("classifier"), flags(tmp_path, "run", epochs=1)) == 0
    best = tmp_path / "run/best"
    assert read_settings(best)["cls_token"] == "[CLS]"
    tokenizer = transformers.AutoTokenizer.from_pretrained(best)
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(best)
    inputs = tokenizer("abc", "def", return_tensors="pt")
    assert inputs["input_ids"].max() < model.config.vocab_size == len(tokenizer)
    assert inputs["token_type_ids"].tolist() == [[2, 0, 0, 0, 0, 1, 1, 1, 1]]
    model(**inputs)


def test_records_of_another_vocabulary_are_refused(tmp_path, capsys):
    write_records(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().split()
    special = [line for line in lines if line.startswith("<")]
    others = [line for line in lines if not line.startswith("<")]
    reverse = tmp_path / "reversed.txt"
    reverse.write_text("\n".join([*special, *reversed(others)]) + "\n")
    program = load_program("pretrain")
    argv = pretrain_arguments(tmp_path, tokenizer_path=reverse, train_steps=2)
    refuse(program, capsys, argv, "another tokenizer, vocab.txt", "reversed.txt", "SHA-256")
    for meta in (tmp_path / "records").glob("meta.*"):
        content = json.loads(meta.read_text())
        kept = {key: content[key] for key in ("filenames", "num_example")}
        meta.write_text(json.dumps(kept))
    argv = pretrain_arguments(tmp_path, "old", train_steps=2, eval_steps=2)
    assert invoke(program, argv) == 0
    assert "name no tokenizer" in capsys.readouterr().err
    # A run that began with one vocabulary does not resume with another.
    argv = pretrain_arguments(tmp_path, "old", tokenizer_path=reverse, train_steps=2, eval_steps=2)
    refuse(program, capsys, [*argv, "--resume"], "vocabulary was")
