"""TensorFlow's pretrain.py: training, resuming, exchange with PyTorch."""

import json
import shutil

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from checkpoint_cases import flip
from classifier_runs import invoke, refuse
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.logging import read_metrics
from funnel_tf.training.run_directory import retain
from pretrain_runs import SEQ_LEN, write_files
from tf_program_runs import load_tf_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("pretrain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tf-pretrain")
    write_files(folder, dropout=0.0, dropatt=0.0)
    return folder


@pytest.fixture(scope="module")
def electra(folder, program):
    """Return a finished ELECTRA run; --start_eval_steps is later, so the last step is scored."""
    assert invoke(program, _flags(folder, "electra", train_steps=30, do_eval=True)) == 0
    return folder / "electra"


@pytest.fixture(scope="module")
def masked(folder, program):
    """Return a finished run of masked language modelling with an intermediate checkpoint."""
    assert invoke(program, _flags(folder, "mlm", loss_type="MLM", save_steps=5)) == 0
    return folder / "mlm"


def _flags(folder, model_dir, **changes):
    flags = {
        "use_tpu": False,
        "num_core_per_host": 1,
        "model_config": folder / "net_config.json",
        "record_dir": folder / "records",
        "tokenizer_path": folder / "vocab.txt",
        "model_dir": folder / model_dir,
        "loss_type": "electra",
        "width_shrink": 0.5,
        "seq_len": SEQ_LEN,
        "num_predict": 4,
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "train_steps": 12,
        "learning_rate": 1e-2,
        "log_freq": 1,
        "seed": 1,
    }
    return [f"--{name}={value}" for name, value in (flags | changes).items() if value is not None]


def _rows(run, split):
    return [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == split]


def test_electra_learns_and_is_scored(electra):
    train = _rows(electra, "train")
    assert [row["step"] for row in train] == list(range(1, 31))
    first, last = (np.mean([row["mlm_loss"] for row in part]) for part in (train[:3], train[-3:]))
    assert last < first - 0.1
    assert train[-1]["disc_loss"] < train[0]["disc_loss"]
    (dev,) = _rows(electra, "dev")
    assert dev["step"] == 30
    assert dev["loss"] == pytest.approx(dev["mlm_loss"] + 50 * dev["disc_loss"])
    assert json.loads((electra / "best_result.json").read_text())["score"] == dev["loss"]


def test_user_errors(program, folder, electra, capsys):
    refuse(program, capsys, _flags(folder, "electra", train_steps=30), "finished")
    refuse(program, capsys, _flags(folder, "new", num_predict=14), "num_predict")
    refuse(program, capsys, _flags(folder, "new", seq_len=32), "seq-16")
    refuse(program, capsys, _flags(folder, "new", do_train=False), "nothing to do")
    evaluation = {"do_train": False, "do_eval": True, "eval_split": "test"}
    refuse(program, capsys, _flags(folder, "electra", **evaluation), "no records of test")


def test_resuming_continues_with_the_next_data(program, folder, masked):
    killed = shutil.copytree(masked, folder / "killed")
    (killed / "progress.json").unlink()
    retain(killed, {5})
    flags = _flags(folder, "killed", loss_type="MLM", save_steps=5)
    assert invoke(program, flags) == 0
    one, two = (_rows(folder / name, "train") for name in ("mlm", "killed"))
    assert [row["step"] for row in two] == list(range(1, 13))
    losses = [[row["loss"] for row in rows] for rows in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_checkpoint_is_continued_with_its_optimizer(program, folder, electra):
    start = {"init_checkpoint": electra / "latest", "train_steps": 31}
    assert invoke(program, _flags(folder, "continued", **start)) == 0
    end = TFCheckpoint(folder / "continued" / "latest")
    assert int(end["global_step"]) == 31
    assert len(_rows(folder / "continued", "train")) == 1


def test_a_corrupt_record_is_named(program, folder, capsys, tmp_path):
    records = shutil.copytree(folder / "records", tmp_path / "records")
    corrupt = next(records.glob("data.train*00001-of*"))
    flip(corrupt, corrupt.stat().st_size // 2)
    flags = _flags(folder, tmp_path / "run", record_dir=records, loss_type="mlm")
    refuse(program, capsys, flags, str(corrupt), "record")


def test_to_pytorch_and_back(program, folder, electra, tmp_path):
    torch = pytest.importorskip("torch")
    from funnel_torch import FunnelForMaskedLM, FunnelForPreTraining, FunnelModel

    ids = torch.tensor([[3, 10, 11, 12, 4]])
    with torch.inference_mode():
        states = FunnelModel.from_pretrained(electra)(ids).last_hidden_state
        scores = FunnelForPreTraining.from_pretrained(electra)(ids).logits
    assert states.shape == (1, 5, 16) and scores.shape == (1, 5)

    model = FunnelForMaskedLM.from_pretrained(electra)
    model.save_pretrained(tmp_path / "torch", vocab_path=folder / "vocab.txt")
    start = {"init_checkpoint": tmp_path / "torch", "loss_type": "mlm", "learning_rate": 0.0}
    assert invoke(program, _flags(folder, tmp_path / "back", train_steps=1, **start)) == 0
    here, there = TFCheckpoint(tmp_path / "back" / "latest"), TFCheckpoint(electra / "latest")
    body = [name for name in here if name.startswith(("model/input", "model/encoder"))]
    body = [name for name in body if "/adam_" not in name]
    assert len(body) > 20
    for name in body:
        np.testing.assert_array_equal(here[name], there[name])
