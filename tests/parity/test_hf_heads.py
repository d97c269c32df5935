"""Heads of transformers that differ in kind: loaded exactly or refused, never half random."""

import logging

import pytest

from checkpoint_cases import TINY, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.utils.errors import CheckpointError, ConfigError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import funnel_torch as ft
from funnel_torch.models.electra import MLMPretraining
from pretraining_cases import masked_batch

SIZES = {
    "vocab_size": 64,
    "d_model": 64,
    "n_head": 2,
    "d_head": 32,
    "d_inner": 128,
    "block_sizes": [1, 1],
    "num_decoder_layers": 1,
}
IDS = torch.tensor([[3, 10, 11, 12, 4, 7, 8, 9]])
SEGMENTS = torch.tensor([[2, 0, 0, 0, 0, 1, 1, 1]])


def _theirs(name, folder, **changes):
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.FunnelConfig(**SIZES | changes)).eval()
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def _logits(model):
    return model(IDS, token_type_ids=SEGMENTS).logits


def test_a_masked_lm_head_without_projection_loads_exactly(tmp_path, caplog):
    theirs = _theirs("FunnelForMaskedLM", tmp_path / "hf")
    with caplog.at_level(logging.WARNING):
        ours = ft.FunnelForMaskedLM.from_pretrained(tmp_path / "hf")
    assert not caplog.records
    torch.testing.assert_close(_logits(ours), _logits(theirs), atol=1e-4, rtol=1e-4)
    # And back: what we save is theirs again, without missing weights.
    ours.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again/funnel_extra.safetensors").exists()
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(_logits(again), _logits(theirs), atol=1e-4, rtol=1e-4)
    reloaded = ft.FunnelForMaskedLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(_logits(reloaded), _logits(ours), atol=0, rtol=0)


def test_pretraining_continues_with_their_head(tmp_path):
    _theirs("FunnelForMaskedLM", tmp_path)
    model = MLMPretraining.from_checkpoint(load_checkpoint(tmp_path)).train()
    assert not model.lm_head.projection
    loss = model(masked_batch()).loss
    loss.backward()
    assert loss.isfinite() and model.lm_head.bias.grad is not None


def test_their_head_needs_an_embedding_as_wide_as_the_model():
    with pytest.raises(ConfigError, match="d_embed: 8 must be d_model 12"):
        ft.FunnelForMaskedLM(TINY.replace(d_embed=8), projection=False)


def test_a_projection_is_not_dropped_on_request_nor_invented(tmp_path):
    checkpoint = random_checkpoint(TINY, ("mlm_bias",))
    with pytest.raises(CheckpointError, match="masked-LM head is of another kind.*lm_proj/dense"):
        ft.FunnelForMaskedLM.from_checkpoint(checkpoint, projection=True)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_their_discriminator(tmp_path, caplog, activation):
    theirs = _theirs("FunnelForPreTraining", tmp_path, hidden_act=activation)
    if activation == "gelu_new":
        ours = ft.FunnelForPreTraining.from_pretrained(tmp_path)
        torch.testing.assert_close(_logits(ours), -_logits(theirs), atol=1e-4, rtol=1e-4)
        return
    # Theirs uses relu in the head too, where the original always uses gelu.
    with pytest.raises(CheckpointError, match="discriminator uses relu .* cannot be loaded"):
        ft.FunnelForPreTraining.from_pretrained(tmp_path)
    # The body is the same.
    ours = ft.FunnelModel.from_pretrained(tmp_path)
    assert "that head is left out" in caplog.text
    with torch.inference_mode():
        found = ours(IDS, token_type_ids=SEGMENTS).last_hidden_state
        wanted = theirs.funnel(IDS, token_type_ids=SEGMENTS).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_our_discriminator_of_a_relu_model_still_loads(tmp_path):
    checkpoint = random_checkpoint(TINY.replace(ff_activation="relu"), ("discriminator",))
    save_checkpoint(checkpoint, tmp_path, "hf")
    ft.FunnelForPreTraining.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"block_repeats": [2, 1]}])
def test_a_skip_connection_from_elsewhere_is_said(tmp_path, caplog, changes):
    theirs = _theirs("FunnelModel", tmp_path, **changes)
    ours = ft.FunnelModel.from_pretrained(tmp_path)
    with torch.inference_mode():
        found = ours(IDS, token_type_ids=SEGMENTS).last_hidden_state
        wanted = theirs(IDS, token_type_ids=SEGMENTS).last_hidden_state
    is_same = torch.allclose(found, wanted, atol=1e-3)
    assert is_same == (not changes) == ("skip connection" not in caplog.text)


def test_their_answer_head_loads_exactly(tmp_path):
    theirs = _theirs("FunnelForQuestionAnswering", tmp_path)
    ours = ft.FunnelForQuestionAnswering.from_pretrained(tmp_path)
    with torch.inference_mode():
        wanted = theirs(IDS, token_type_ids=SEGMENTS)
        found = ours(IDS, token_type_ids=SEGMENTS)
    torch.testing.assert_close(found.start_logits, wanted.start_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.end_logits, wanted.end_logits, atol=1e-4, rtol=1e-4)


def test_an_extra_file_that_is_lost_is_missed_unless_transformers_saved_again(tmp_path):
    checkpoint = random_checkpoint(TINY, ("discriminator", "mlm"))
    save_checkpoint(checkpoint, tmp_path / "m", "hf")
    model = transformers.AutoModel.from_pretrained(tmp_path / "m")
    (tmp_path / "m/funnel_extra.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"funnel_extra.safetensors: missing, but config"):
        load_checkpoint(tmp_path / "m")
    model.save_pretrained(tmp_path / "theirs")
    assert load_checkpoint(tmp_path / "theirs").tensors
