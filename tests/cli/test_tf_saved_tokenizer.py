"""The TensorFlow programs on the tokenizer of a model: read from its directory."""

import json

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from classifier_runs import invoke, refuse, write_files
from pretrain_runs import SEQ_LEN
from pretrain_runs import write_files as write_records
from tf_program_runs import classifier_flags, load_tf_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a cased run."""
    folder = tmp_path_factory.mktemp("trained")
    write_files(folder)
    assert invoke(program, classifier_flags(folder, uncased=False, train_steps=2)) == 0
    return folder


def evaluation(folder, **changes):
    """Flags of an evaluation that name no vocabulary."""
    wanted = {"do_train": None, "do_eval": True, "tokenizer_path": None, "model_config": None}
    return classifier_flags(folder, **(wanted | changes))


def test_case_is_written_beside_the_weights_and_read_from_there(program, trained):
    config = json.loads((trained / "run/tokenizer_config.json").read_text())
    assert config["do_lower_case"] is False
    assert invoke(program, evaluation(trained)) == 0
    described = json.loads(
        (trained / "records/vocab.txt.len-16.dev.tfrecord.meta.json").read_text()
    )
    assert described["uncased"] is False
    # The run is evaluated, whatever weights it once began with.
    other = evaluation(trained, model_dir=trained / "other", eval_model_dir=trained / "run")
    assert invoke(program, other) == 0


def test_a_flag_that_contradicts_the_model_is_refused_with_both_values(program, trained, capsys):
    both = ("do_lower_case true", "do_lower_case false", "tokenizer_config.json")
    refuse(program, capsys, evaluation(trained, uncased=True), "--uncased=True", *both)
    started = classifier_flags(
        trained, "new", uncased=True, init_checkpoint=trained / "run/model.ckpt-2"
    )
    refuse(program, capsys, started, "--uncased=True", *both)
    refuse(program, capsys, evaluation(trained, seg_id_cls=1), "--seg_id_cls=1", "says 2")


def test_features_are_those_of_a_cased_model(trained, tmp_path):
    (tmp_path / "one.txt").write_text("good GOOD\n")
    flags = {"model": trained / "run/model.ckpt-2", "text": tmp_path / "one.txt"}
    argv = [f"--{name}={value}" for name, value in flags.items()]
    argv += [f"--output={tmp_path / 'out.npz'}", "--device_id=-1"]
    assert invoke(load_tf_program("extract_features"), argv) == 0
    assert np.load(tmp_path / "out.npz")["input_ids"].tolist() == [[3, 9, 0, 4]]


def test_records_of_another_vocabulary_are_refused(tmp_path, capsys):
    write_records(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().split()
    special = [line for line in lines if line.startswith("<")]
    others = [line for line in lines if not line.startswith("<")]
    reverse = tmp_path / "reversed.txt"
    reverse.write_text("\n".join([*special, *reversed(others)]) + "\n")
    flags = {
        "use_tpu": False,
        "model_config": tmp_path / "net_config.json",
        "record_dir": tmp_path / "records",
        "tokenizer_path": reverse,
        "model_dir": tmp_path / "run",
        "seq_len": SEQ_LEN,
        "num_predict": 4,
        "train_steps": 2,
    }
    argv = [f"--{name}={value}" for name, value in flags.items()]
    words = ("another tokenizer, vocab.txt", "reversed.txt", "SHA-256")
    refuse(load_tf_program("pretrain"), capsys, argv, *words)
