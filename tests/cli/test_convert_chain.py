"""The original's path from a TensorFlow release to fine-tuning: two scripts in a row.

``ckpt_to_pt.py`` on a model with a decoder, then ``classifier.py`` on the converted file and the
config of the released layout, which describes the encoder only.
"""

import json

import pytest

import program_server
from checkpoint_cases import assert_same, random_checkpoint
from classifier_runs import write_files
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from repo_layout import ROOT

torch = pytest.importorskip("torch")


def _convert(folder):
    """Write a TensorFlow model with decoder and discriminator, convert it, and return it."""
    write_files(folder, train=16, dev=8, decoder_size="1")
    config = ModelConfig.load(folder / "net_config.json")
    first = random_checkpoint(config, ("discriminator",))
    first.tensors = {name: values * 0.05 for name, values in first.tensors.items()}
    save_checkpoint(first, folder / "tf/model.ckpt", "tf")
    _run(
        "ckpt_to_pt.py",
        "--input_ckpt_path=tf/model.ckpt",
        "--input_config_path=tf/net_config.json",
        "--output_pt_path=pt/model.pt",
        "--output_config_path=pt/net_config.pytorch.json",
        cwd=folder,
    )
    return first


def _run(program, *flags, cwd):
    done = program_server.run([ROOT / "pytorch" / program, *flags], cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_convert_then_fine_tune(tmp_path):
    _convert(tmp_path)
    _run(
        "classifier.py",
        *("--device_id=-1", "--dataset=CoLA", "--data_dir=CoLA", "--output_dir=proc"),
        *("--model_dir=exp", "--tokenizer_type=word_piece"),
        *("--tokenizer_path=vocab.txt", "--init_ckpt_config=pt/net_config.pytorch.json"),
        *("--init_ckpt=pt/model.pt", "--attn_type=rel_shift", "--max_length=16"),
        *("--lr=1e-5", "--train_bsz=8", "--epochs=1"),
        cwd=tmp_path,
    )
    assert json.loads((tmp_path / "exp/final_scores.json").read_text())


def test_a_config_of_the_released_layout_leaves_the_decoder_as_it_was_saved(tmp_path):
    first = _convert(tmp_path)
    kept = load_checkpoint(tmp_path / "pt/model.pt")
    given = load_checkpoint(
        tmp_path / "pt/model.pt", config_path=tmp_path / "pt/net_config.pytorch.json"
    )
    assert_same(given.tensors, first.tensors)
    assert given.config == kept.config == first.config
    # What a config states itself decides, also against the extra file.
    other = tmp_path / "other.json"
    other.write_text(json.dumps(first.config.to_net_config() | {"decoder_size": "2"}))
    with pytest.raises(CheckpointError, match="missing: model/decoder/layer_3"):
        load_checkpoint(tmp_path / "pt/model.pt", config_path=other)


def test_a_directory_of_the_original_holds_model_and_optimizer(tmp_path):
    first = _convert(tmp_path)
    torch.save({"exp_avg": torch.zeros(3)}, tmp_path / "pt/var.pt")
    assert_same(load_checkpoint(tmp_path / "pt").tensors, first.tensors)
