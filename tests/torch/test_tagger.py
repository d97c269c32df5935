"""PyTorch's tagger.py on a made-up CoNLL file: learned by heart, scored, resumed, refused."""

import json

import pytest

torch = pytest.importorskip("torch")

import readme_commands
import repo_layout
import tagging_cases as cases
from classifier_runs import flag_list, invoke, load_program, refuse
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel_torch import FunnelForTokenClassification

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    torch.set_num_threads(1)
    return load_program("tagger")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that has learned its 24 sentences by heart."""
    folder = tmp_path_factory.mktemp("tagger")
    cases.write_files(folder)
    assert invoke(program, cases.torch_flags(folder, write_prediction=True, write_logits=True)) == 0
    return folder


def test_a_tiny_model_learns_the_sentences_and_scores_as_seqeval(trained):
    scores = json.loads((trained / "run/final_scores.json").read_text())
    assert next(iter(scores["dev"])) == "f1" and 0.95 < scores["dev"]["f1"] < 1
    seqeval = pytest.importorskip("seqeval.metrics")
    gold = [[tag for _, tag in rows] for rows in cases.make_sentences(5, seed=1)]
    rows = cases.read_columns(trained / "run/test_results.conll")
    assert [[w for w, _ in s] for s in rows] == [
        [w for w, _ in s] for s in cases.make_sentences(5, seed=1)
    ]
    found = [[tag for _, tag in sentence] for sentence in rows]
    assert scores["test"]["f1"] == pytest.approx(seqeval.f1_score(gold, found), abs=1e-12)
    assert scores["test"]["accuracy"] == pytest.approx(seqeval.accuracy_score(gold, found))
    lines = (trained / "run/test_results.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["label"] == found[0] and len(first["logits"]) == len(found[0])
    assert all(0 < value <= 1 for value in first["probability"])


def test_the_model_keeps_its_tags_for_transformers_too(trained):
    config = json.loads((trained / "run/best/config.json").read_text())
    labels = sorted({tag for rows in cases.make_sentences(24) for _, tag in rows})
    assert list(config["id2label"].values()) == labels
    assert config["architectures"] == ["FunnelForTokenClassification"]


def test_prediction_needs_no_training_file(trained, program, tmp_path):
    (tmp_path / "ner").mkdir()
    words = [[(word, "") for word, _ in rows] for rows in cases.make_sentences(5, seed=1)]
    text = "\n\n".join("\n".join(word for word, _ in rows) for rows in words)
    (tmp_path / "ner/test.conll").write_text(text)
    flags = cases.torch_flags(
        *(tmp_path, "out"), test_only=True, write_prediction=True, init_ckpt=trained / "run/best",
        tokenizer_path=None, init_ckpt_config=None, max_length=12, overlap=2,
    )  # fmt: skip
    assert invoke(program, flags) == 0
    found = (tmp_path / "out/test_results.conll").read_text()
    assert found.count("\t") == sum(map(len, words))
    assert not (tmp_path / "out/valid_results.conll").exists()


@pytest.mark.parametrize("given", [{}, {"overlap": 2}, {"max_length": 20}])
def test_predictions_use_the_lengths_of_the_training(trained, program, tmp_path, capsys, given):
    cases.write_files(tmp_path)
    lengths = {"max_length": None, "overlap": None} | given
    files = {"tokenizer_path": None, "init_ckpt_config": None, "init_ckpt": trained / "run/best"}
    flags = cases.torch_flags(tmp_path, "out", test_only=True, **files, **lengths)
    capsys.readouterr()
    assert invoke(program, flags) == 0
    log = capsys.readouterr().err
    record = trained / "run/run_config.json"
    is_said = f"{record}: sequences of 16 tokens, as in training" in log
    assert is_said == ("max_length" not in given), log


def test_a_resumed_run_is_the_same_run(program, trained, capsys):
    flags = cases.torch_flags(trained, write_prediction=True)
    refuse(program, capsys, flags, "finished", "--resume")
    assert invoke(program, [*flags, "--resume"]) == 0
    refuse(program, capsys, cases.torch_flags(trained, overlap=5), "overlap was 4, now 5")


def test_tags_of_another_data_set_are_refused(program, trained, capsys, tmp_path):
    cases.write_files(tmp_path)
    path = tmp_path / "ner/dev.txt"
    path.write_text(path.read_text().replace("-LOC", "-GPE"))
    start = {"init_ckpt": trained / "run/best", "tokenizer_path": None, "init_ckpt_config": None}
    flags = cases.torch_flags(tmp_path, test_only=True, **start)
    refuse(program, capsys, flags, "dev.txt:", "unknown tag 'B-GPE'", "the tags of")
    train = tmp_path / "ner/train.txt"
    train.write_text(train.read_text().replace("-LOC", "-GPE"))
    flags = cases.torch_flags(tmp_path, **start)
    refuse(program, capsys, flags, "the tags of the model are", "B-GPE", "--new_head")


def test_a_checkpoint_without_decoder_needs_a_word(program, trained, capsys, tmp_path):
    checkpoint = load_checkpoint(trained / "run/best")
    kept = {n: t for n, t in checkpoint.tensors.items() if "/decoder/" not in n}
    checkpoint.tensors = {n: t for n, t in kept.items() if "token_classification" not in n}
    checkpoint.config = checkpoint.config.replace(decoder_size="0")
    checkpoint.metadata.pop("labels")
    checkpoint.metadata["architecture"] = "FunnelBaseModel"
    save_checkpoint(checkpoint, tmp_path / "encoder", "hf")
    cases.write_files(tmp_path / "data")
    start = {"init_ckpt": tmp_path / "encoder", "init_ckpt_config": None, "tokenizer_path": None}
    flags = cases.torch_flags(tmp_path / "data", train_steps=1, **start)
    refuse(program, capsys, flags, "has no decoder", "-FULL-TF", "-PT", "--random_decoder")
    assert invoke(program, [*flags, "--random_decoder"]) == 0
    model = FunnelForTokenClassification.from_pretrained(tmp_path / "data/run/last")
    assert model.config.decoder_size == "2"


def test_contradictions(program, trained, capsys, tmp_path):
    refuse(program, capsys, cases.torch_flags(trained, "x", dataset="xml"), "'xml'", "conll, jsonl")
    refuse(program, capsys, cases.torch_flags(trained, "x", overlap=14), "overlap=14", "13")
    refuse(program, capsys, cases.torch_flags(trained, "x", data_dir=tmp_path), "no train.conll")
    flags = cases.torch_flags(trained, "x", label_column=1)
    refuse(program, capsys, flags, "all words have the tag 'X'")
    flags = cases.torch_flags(trained, "x", metric="f1", scheme="none")
    refuse(program, capsys, flags, "metric 'f1' is about entities")


def test_the_documented_command_runs(program, trained, tmp_path):
    """The initial checkpoint is a TensorFlow one without head, as the released ones are."""
    (words,) = [
        line.split()[2:]
        for line in readme_commands.shell_lines(repo_layout.ROOT / "docs/token_classification.md")
        if "pytorch/tagger.py" in line
    ]
    core = load_checkpoint(trained / "run/best")
    core.tensors = {n: t for n, t in core.tensors.items() if "token_classification" not in n}
    core.metadata.pop("labels")
    (tmp_path / "ckpt").mkdir()
    save_checkpoint(core, tmp_path / "ckpt/model.ckpt", "tf")
    flags = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
    places = {"data_dir": trained / "ner", "init_ckpt": tmp_path / "ckpt", "epochs": 1}
    flags |= {"model_dir": tmp_path / "run", "max_length": 32, "overlap": 8, "device_id": -1}
    switches = [word for word in words if "=" not in word]
    assert invoke(program, [*switches, *flag_list(flags | places)]) == 0
    assert (tmp_path / "run/test_results.conll").is_file()
