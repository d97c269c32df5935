"""TensorFlow's tagger.py on a made-up CoNLL file: learned by heart, scored, exchanged, refused."""

import json
from types import SimpleNamespace

import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

import tagging_cases as cases
from classifier_runs import invoke, refuse
from funnel.checkpoints import load_checkpoint
from funnel.checkpoints.names import WORD_TABLE
from funnel.formats.tensor_bundle import write_tf_checkpoint
from funnel.utils.errors import CheckpointError
from funnel_tf.cli import tagger
from funnel_tf.models.initial_model import init_from_checkpoint
from tf_program_runs import load_tf_program, parse_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("tagger")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that has learned its 24 sentences by heart."""
    folder = tmp_path_factory.mktemp("tagger")
    cases.write_files(folder)
    wanted = {"do_eval": True, "do_predict": True, "test_file": "dev.txt", "write_logits": True}
    flags = cases.tf_flags(folder, eval_start_step=0, **wanted)
    assert invoke(program, flags) == 0
    return folder


def test_a_tiny_model_learns_the_sentences_and_scores_as_seqeval(trained):
    best = json.loads((trained / "run-tf/best_result.json").read_text())
    assert best["metric"] == "f1" and 0.95 < best["score"] < 1
    rows = cases.read_columns(trained / "run-tf/test_results.conll")
    sentences = [*cases.make_sentences(24), cases.ODD]
    assert [[w for w, _ in s] for s in rows] == [[w for w, _ in s] for s in sentences]
    seqeval = pytest.importorskip("seqeval.metrics")
    gold, found = ([[tag for _, tag in s] for s in some] for some in (sentences, rows))
    assert best["score"] == pytest.approx(seqeval.f1_score(gold, found), abs=1e-12)


def test_the_model_keeps_its_tags(trained):
    labels = json.loads((trained / "run-tf/labels.json").read_text())["labels"]
    assert labels == sorted({tag for rows in cases.make_sentences(24) for _, tag in rows})


def test_pytorch_predicts_the_same_tags_with_this_checkpoint(trained):
    torch = pytest.importorskip("torch")
    import numpy as np

    from classifier_runs import load_program
    from funnel_torch import FunnelForTokenClassification

    torch.set_num_threads(1)
    flags = cases.torch_flags(
        trained, test_only=True, write_prediction=True, init_ckpt=trained / "run-tf/latest",
        init_ckpt_config=None, tokenizer_path=None, test_file="dev.txt", prediction_format="jsonl",
    )  # fmt: skip
    assert invoke(load_program("tagger"), flags) == 0
    name = "test_results.jsonl"
    ours, theirs = (
        [json.loads(line) for line in (trained / run / name).read_text().splitlines()]
        for run in ("run-tf", "run")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["label"] == other["label"] and one["words"] == other["words"]
        np.testing.assert_allclose(one["probability"], other["probability"], atol=1e-5)
    model = FunnelForTokenClassification.from_pretrained(trained / "run-tf/latest")
    assert model.num_labels == 5


def test_a_checkpoint_without_decoder_needs_a_word(program, trained, capsys, tmp_path):
    core = load_checkpoint(trained / "run-tf/latest")
    kept = {n: t for n, t in core.tensors.items() if "/decoder/" not in n and "token" not in n}
    write_tf_checkpoint(tmp_path / "model.ckpt", kept)
    flags = cases.tf_flags(
        trained, tmp_path / "new", init_checkpoint=tmp_path / "model.ckpt", train_steps=1
    )
    refuse(program, capsys, flags, "has no decoder", "-FULL-TF", "--random_decoder")
    with tf.Graph().as_default():
        variables = [
            tf.get_variable(name, tensor.shape, use_resource=True)
            for name, tensor in core.tensors.items()
        ]
        report = init_from_checkpoint(str(tmp_path / "model.ckpt"), variables, random_decoder=True)
        assert set(report.restored) == set(kept) and not report.missing
        with pytest.raises(CheckpointError, match="missing: model/decoder/"):
            init_from_checkpoint(str(tmp_path / "model.ckpt"), variables)


def test_a_random_decoder_has_two_layers(trained, tmp_path):
    core = load_checkpoint(trained / "run-tf/latest")
    write_tf_checkpoint(tmp_path / "model.ckpt", {n: core.tensors[n] for n in [WORD_TABLE]})
    flags = cases.tf_flags(
        trained, tmp_path / "new", init_checkpoint=tmp_path / "model.ckpt", random_decoder=True
    )
    settings, encoder = parse_settings("tagger", *flags), core.config.replace(decoder_size="0")
    directory = SimpleNamespace(step=0, path=tmp_path)
    assert tagger.check_decoder(settings, encoder, directory).decoder_size == "2"
    assert tagger.check_decoder(settings, core.config, directory) == core.config


def test_contradictions(program, trained, capsys):
    refuse(program, capsys, cases.tf_flags(trained, do_train=None), "nothing to do")
    refuse(program, capsys, cases.tf_flags(trained, task_name="csv"), "'csv'", "conll, jsonl")
    flags = cases.tf_flags(trained, train_file="nosuch.txt")
    refuse(program, capsys, flags, "no nosuch.txt (train data)")
