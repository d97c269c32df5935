"""Checkpoints of pretraining models: canonical variables, FULL releases, generator sizes."""

import logging
import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from checkpoint_cases import TINY, assert_same, random_checkpoint, with_slots
from funnel.checkpoints import Checkpoint, expected_shapes, load_checkpoint, save_checkpoint
from funnel_torch import FunnelForPreTraining, FunnelModel
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining, PretrainingConfig
from funnel_torch.models.weight_mapping import export_tensors, variable_views
from pretraining_cases import (
    CONFIGS,
    PLAIN,
    electra,
    masked_batch,
    noise_for,
    noise_for_originals,
)

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.mark.parametrize("width_shrink", [0.25, 0.5, 1.0])
@every_config
def test_variables_are_the_canonical_ones(config, width_shrink):
    settings = PretrainingConfig(width_shrink=width_shrink)
    model = ElectraPretraining(config, settings)
    sizes = settings.generator(config)
    wanted = expected_shapes(config, heads=("discriminator", "generator"), generator=sizes)
    assert {view.name: view.shape for _, _, view in variable_views(model, config)} == wanted
    assert sum(p.numel() for p in model.parameters()) == sum(map(math.prod, wanted.values()))
    mlm = MLMPretraining(config)
    wanted = expected_shapes(config, heads=("mlm",))
    assert {view.name: view.shape for _, _, view in variable_views(mlm, config)} == wanted
    assert sum(p.numel() for p in mlm.parameters()) == sum(map(math.prod, wanted.values()))


@pytest.mark.parametrize("kind", ["tf", "hf"])
@every_config
def test_full_checkpoints_round_trip(tmp_path, config, kind):
    model = electra(config)
    tensors = export_tensors(model)
    full = with_slots(Checkpoint(config, tensors))
    save_checkpoint(full, tmp_path / "full", kind)
    # A run-time switch, which net_config.json does not hold.
    switch = {"truncate_seq": config.truncate_seq}
    loaded = ElectraPretraining.from_pretrained(tmp_path / "full", **switch)
    assert_same(export_tensors(loaded), tensors)
    batch = masked_batch()
    torch.testing.assert_close(
        loaded(batch, noise_for(batch)).loss, model(batch, noise_for(batch)).loss
    )
    found = load_checkpoint(tmp_path / "full", with_optimizer=True)
    assert_same(found.optimizer, full.optimizer)


def test_saved_models_come_back_and_convert_with_their_generator(tmp_path):
    model = electra(width_shrink=0.25)
    separate = model.save_pretrained(tmp_path / "ours")
    assert separate == sorted(n for n in export_tensors(model) if n.startswith("generator/"))
    save_checkpoint(load_checkpoint(tmp_path / "ours"), tmp_path / "tf", "tf")
    for path in ("ours", "tf"):
        loaded = ElectraPretraining.from_pretrained(tmp_path / path, dropout=0.3)
        assert_same(export_tensors(loaded), export_tensors(model))
        assert loaded.generator.config.dropout == 0.3
    discriminator = FunnelForPreTraining.from_pretrained(tmp_path / "ours")
    batch = masked_batch()
    output = model(batch, noise_for_originals(batch))
    logits = discriminator(batch.origin_input, batch.attention_mask, batch.token_type_ids).logits
    torch.testing.assert_close(logits, output.disc_logits)
    mlm = MLMPretraining(PLAIN)
    mlm.save_pretrained(tmp_path / "mlm")
    loaded = MLMPretraining.from_pretrained(
        tmp_path / "mlm", pretraining=PretrainingConfig(hide_masked=False)
    )
    assert not loaded.pretraining.hide_masked
    assert_same(export_tensors(loaded), export_tensors(mlm))


def test_a_generator_of_any_size_loads(caplog):
    """The sizes are inferred from the weights: no config file contains them."""
    checkpoint = random_checkpoint(TINY, ("discriminator", "generator"))
    with caplog.at_level(logging.WARNING):
        model = ElectraPretraining.from_checkpoint(checkpoint)
    assert (model.generator.config.d_model, model.generator.config.d_inner) == (6, 8)
    assert_same(export_tensors(model), checkpoint.tensors)
    assert not caplog.text


def test_pretraining_continues_from_a_model_without_generator(tmp_path, caplog):
    FunnelModel(PLAIN).save_pretrained(tmp_path / "core")
    with caplog.at_level(logging.WARNING):
        model = ElectraPretraining.from_pretrained(
            tmp_path / "core", pretraining=PretrainingConfig(width_shrink=0.5)
        )
    assert "newly initialized" in caplog.text and "model/binary_proj/dense/kernel" in caplog.text
    assert model.generator.config.d_model == 8
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model.generator.encoder.layers[0].attention.qkv_weight.std() > 0.1
