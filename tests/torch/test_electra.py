"""MLM and ELECTRA pretraining: losses, gradients, sampling, padding, compilation."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

import reference_heads as heads
from funnel.utils.errors import ConfigError
from funnel_torch.models.electra import (
    ElectraPretraining,
    LossDenominators,
    MLMPretraining,
    PretrainingConfig,
    PretrainingSums,
    gumbel_noise,
    replace_targets,
    sample,
)
from funnel_torch.models.weight_mapping import export_tensors
from funnel_torch.training.optimizer import (
    OptimizerConfig,
    build_optimizer,
    clip_gradients,
    set_learning_rate,
)
from funnel_torch.training.pretraining_metrics import summarize
from parity_cases import doubles
from parity_models import filled, gradients, leaf_gradients
from pretraining_cases import (
    CONFIGS,
    PLAIN,
    VOCAB,
    electra,
    electra_tensors,
    masked_batch,
    mlm_tensors,
    noise_for,
    noise_for_originals,
    rows,
    sizes_of_generator,
)
from reference_funnel import run_model

pytestmark = pytest.mark.slow

TOLERANCE = 1e-6
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_relative(actual, expected, name, floor=0.0):
    """Within 1e-6 of the largest element, or of ``floor`` where that is larger."""
    scale = max(expected.abs().max().item(), floor)
    difference = (actual.double() - expected).abs().max().item()
    assert difference <= TOLERANCE * scale, f"{name}: off by {difference:.1e} of {scale:.1e}"


def check_against(model, leaves, loss, expected):
    """Compare losses and all gradients, some of which are 0 (a bias that cancels in softmax)."""
    assert_relative(loss.detach(), expected.detach(), "loss")
    loss.backward()
    expected.backward()
    wanted = leaf_gradients(leaves)
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    found = gradients(model)
    assert sorted(found) == sorted(wanted)
    for name, gradient in wanted.items():
        assert_relative(found[name], gradient, name, floor=1e-6 * largest)


# --- the same numbers as a plain float64 reference ----------------------------------------------


@pytest.fixture
def all_double(monkeypatch):
    """Explicit fp32 becomes float64 too, so that only the formulas are compared."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@every_config
def test_electra_equals_the_reference(all_double, config):
    tensors, batch = electra_tensors(config), masked_batch()
    assert not batch.target_mask.all() and not batch.attention_mask.all()
    noise = noise_for(batch)
    model = filled(ElectraPretraining(config), tensors).double()
    output = model(batch, noise)
    leaves = doubles(tensors, requires_grad=True)
    wanted = heads.electra_losses((config, sizes_of_generator(config)), leaves, batch, noise)
    assert torch.equal(output.is_replaced, wanted.disc_input != batch.origin_input)
    assert 0 < output.is_replaced.sum() < batch.target_mask.sum()
    assert_relative(output.mlm_loss.detach(), wanted.mlm_loss.detach(), "mlm_loss")
    assert_relative(output.disc_loss.detach(), wanted.disc_loss.detach(), "disc_loss")
    assert_relative(output.disc_logits, wanted.disc_logits.detach(), "disc_logits")
    check_against(model, leaves, output.loss, wanted.mlm_loss + 50 * wanted.disc_loss)


@pytest.mark.parametrize("hide_masked", [True, False])
@every_config
def test_mlm_equals_the_reference(all_double, config, hide_masked):
    tensors, batch = mlm_tensors(config), masked_batch()
    settings = PretrainingConfig(hide_masked=hide_masked)
    model = filled(MLMPretraining(config, settings), tensors).double()
    output = model(batch)
    leaves = doubles(tensors, requires_grad=True)
    mask = batch.mlm_attention_mask if hide_masked else batch.attention_mask
    decoder = run_model(config, leaves, batch.masked_input, mask, batch.token_type_ids).decoder
    targets = (batch.target_positions, batch.target, batch.target_mask)
    check_against(model, leaves, output.loss, heads.mlm_loss(config, leaves, decoder, targets))


def test_masked_positions_are_hidden_by_default_in_mlm_alone():
    batch, config = masked_batch(), PretrainingConfig()
    assert config.hide_masked and config.width_shrink == 0.25 and config.disc_coeff == 50
    hiding = MLMPretraining(PLAIN)
    showing = MLMPretraining(PLAIN, PretrainingConfig(hide_masked=False))
    showing.load_state_dict(hiding.state_dict())
    assert hiding(batch).loss != showing(batch).loss
    all_shown = batch._replace(mlm_attention_mask=batch.attention_mask)
    assert hiding(all_shown).loss == showing(batch).loss
    model, noise = electra(), noise_for(batch)
    assert model(batch, noise).loss == model(all_shown, noise).loss


def test_fp32_losses_are_as_close():
    tensors, batch = electra_tensors(PLAIN), masked_batch()
    noise = noise_for(batch)
    configs = (PLAIN, sizes_of_generator(PLAIN))
    wanted = heads.electra_losses(configs, doubles(tensors), batch, noise)
    output = electra()(batch, noise.float())
    assert output.loss.dtype == torch.float32
    assert_relative(output.mlm_loss.detach(), wanted.mlm_loss, "mlm_loss")
    assert_relative(output.disc_loss.detach(), wanted.disc_loss, "disc_loss")


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_one_optimizer_step_equals_numpy(all_double, objective):
    """The original's AdamW after clipping, with the reference's gradients, t = 1."""
    rate, decay, clip, epsilon = 1e-2, 0.01, 0.5, 1e-6
    batch = masked_batch()
    noise, targets = noise_for(batch), (batch.target_positions, batch.target, batch.target_mask)
    if objective == "electra":
        tensors = electra_tensors(PLAIN)
        model, inputs = filled(ElectraPretraining(PLAIN), tensors).double(), (batch, noise)
        leaves = doubles(tensors, requires_grad=True)
        configs = (PLAIN, sizes_of_generator(PLAIN))
        losses = heads.electra_losses(configs, leaves, batch, noise)
        (losses.mlm_loss + 50 * losses.disc_loss).backward()
    else:
        tensors = mlm_tensors(PLAIN)
        model, inputs = filled(MLMPretraining(PLAIN), tensors).double(), (batch,)
        leaves = doubles(tensors, requires_grad=True)
        inputs_of_mlm = (batch.masked_input, batch.mlm_attention_mask, batch.token_type_ids)
        hidden = run_model(PLAIN, leaves, *inputs_of_mlm)
        heads.mlm_loss(PLAIN, leaves, hidden.decoder, targets).backward()
    settings = OptimizerConfig("funnel_adamw", weight_decay=decay, use_wd_exclusion=True)
    optimizer = build_optimizer(model, settings)
    set_learning_rate(optimizer, rate)
    model(*inputs).loss.backward()
    clip_gradients(model.parameters(), clip)
    optimizer.step()

    gradient = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    assert norm > clip
    for name, found in export_tensors(model).items():
        g, before = gradient[name] * clip / norm, leaves[name].detach().numpy()
        update = 0.1 * g / (np.sqrt(0.01 * g**2) + epsilon)
        if "layer_norm" not in name and name.rpartition("/")[2] != "bias":
            update = update + decay * before
        after = before - rate * math.sqrt(1 - 0.99) / (1 - 0.9) * update
        np.testing.assert_allclose(found, after, rtol=1e-6, atol=1e-6, err_msg=name)


# --- the generator ------------------------------------------------------------------------------


def test_samples_follow_the_softmax():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, 0.5, -3.0, 0.0, 2.5])
    samples = 40_000
    many = logits.expand(samples, -1)
    generator = torch.Generator().manual_seed(0)
    explicit = sample(many, gumbel_noise(many.shape, generators=generator))
    torch.manual_seed(1)
    for tokens in (explicit, sample(many)):
        counts = torch.bincount(tokens, minlength=len(logits)).numpy()
        expected = samples * torch.softmax(logits.double(), -1).numpy()
        assert stats.chisquare(counts, expected).pvalue > 0.01
        cooler = samples * torch.softmax(logits.double() / 1.1, -1).numpy()
        assert stats.chisquare(counts, cooler).pvalue < 1e-6


def test_noise_repeats_with_its_generator_and_the_global_one_stays():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    torch.manual_seed(0)
    state = torch.get_rng_state()
    noise = gumbel_noise((3, 4, VOCAB), generators=generators(5, 6, 7))
    again = gumbel_noise((2, 4, VOCAB), generators=generators(6, 7))
    assert torch.equal(noise[1:], again)
    assert torch.equal(torch.get_rng_state(), state)
    batch, model = masked_batch(), electra()
    state = torch.get_rng_state()
    first, second = model(batch), model(batch)
    assert not torch.equal(first.disc_logits, second.disc_logits)
    torch.set_rng_state(state)
    assert torch.equal(model(batch).disc_logits, first.disc_logits)
    with pytest.raises(ValueError):
        gumbel_noise((3, 4, VOCAB), generators=generators(1, 2))


def test_nothing_flows_back_through_the_samples():
    model, batch = electra().train(), masked_batch()
    model(batch, noise_for(batch)).disc_loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.funnel.parameters())
    model.zero_grad()
    model(batch, noise_for(batch)).mlm_loss.backward()
    assert all(p.grad is not None for p in model.generator.parameters())
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    inputs = {f"funnel.embeddings.{n}" for n, _ in model.funnel.embeddings.named_parameters()}
    assert {n for n in with_gradient if not n.startswith("generator.")} == inputs


def test_the_generator_shares_the_input_layer_and_has_none_of_its_own():
    model, batch = electra(), masked_batch()
    noise = noise_for(batch)
    assert not [n for n, _ in model.generator.named_parameters() if "embedding" in n]
    assert model.generator.encoder.input_projection.weight.shape == (4, 16)
    before = model(batch, noise)
    with torch.no_grad():
        model.funnel.embeddings.layer_norm.bias += torch.arange(16) / 16
    shifted = model(batch, noise)
    assert shifted.mlm_loss != before.mlm_loss and shifted.disc_loss != before.disc_loss
    same_width = ElectraPretraining(PLAIN, PretrainingConfig(width_shrink=1.0))
    assert not hasattr(same_width.generator.encoder, "input_projection")


def test_only_targets_are_replaced_and_empty_slots_do_nothing():
    batch = masked_batch()
    tokens = torch.full_like(batch.target, 7)
    replaced = replace_targets(batch, tokens)
    wanted = batch.origin_input.clone()
    for row, slot in batch.target_mask.nonzero().tolist():
        wanted[row, batch.target_positions[row, slot]] = 7
    assert torch.equal(replaced, wanted)
    empty = ~batch.target_mask
    assert empty.any()
    other = batch._replace(
        target=batch.target.masked_fill(empty, 9),
        target_positions=batch.target_positions.masked_fill(empty, 3),
    )
    assert torch.equal(replace_targets(other, tokens), wanted)
    for model, more in ((electra(), (noise_for(batch),)), (MLMPretraining(PLAIN), ())):
        assert model(batch, *more).loss == model(other, *more).loss


def test_a_sample_that_equals_the_original_counts_as_original():
    batch = masked_batch()
    noise = noise_for_originals(batch)
    output = electra()(batch, noise)
    assert not output.is_replaced.any() and output.sums.replaced == 0
    assert electra()(batch, -noise).sums.replaced == batch.target_mask.sum()


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_padding_and_its_amount_influence_no_loss(objective):
    """Lengths end with a pooling window, so that no pooled position mixes tokens and padding."""
    config = PLAIN.replace(truncate_seq=False)
    batch = masked_batch((13, 13, 9))
    model, more = MLMPretraining(config).eval(), ()
    if objective == "electra":
        model, more = electra(config), (noise_for(batch),)
    wanted = model(batch, *more)
    changed = dict.fromkeys(("masked_input", "origin_input", "token_type_ids"))
    for name in changed:
        changed[name] = getattr(batch, name).masked_fill(~batch.attention_mask, 1)
    output = model(batch._replace(**changed), *more)
    torch.testing.assert_close(output.loss, wanted.loss, rtol=1e-6, atol=0)

    def extended(tensor, value):
        return torch.nn.functional.pad(tensor, (0, 8), value=value)

    ids = ("masked_input", "origin_input", "token_type_ids")
    masks = ("attention_mask", "mlm_attention_mask")
    longer = batch._replace(
        **{name: extended(getattr(batch, name), 3) for name in ids},
        **{name: extended(getattr(batch, name), False) for name in masks},
    )
    output = model(longer, *more)
    torch.testing.assert_close(output.loss, wanted.loss, rtol=1e-6, atol=0)
    assert summarize(output.sums) == pytest.approx(summarize(wanted.sums), rel=1e-6)


# --- batches, precision, compilation ------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_parts_with_the_denominators_of_all_add_up_to_the_batch(objective):
    """Records have unequal numbers of targets and tokens: a mean of means would be off."""
    batch = masked_batch()
    model, noise = MLMPretraining(PLAIN).eval(), None
    if objective == "electra":
        model, noise = electra(), noise_for(batch)

    def run(which, denominators=None):
        more = () if noise is None else (noise[which],)
        return model(rows(batch, which), *more, denominators=denominators)

    full = run(slice(None))
    full.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    tokens = float(batch.attention_mask.sum())
    denominators = LossDenominators(float(batch.target_mask.sum()), tokens)
    parts = [run(which, denominators) for which in (slice(0, 1), slice(1, None))]
    for part in parts:
        part.loss.backward()
    torch.testing.assert_close(sum(part.loss for part in parts), full.loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)
    added = PretrainingSums(*sum(part.sums.vector() for part in parts))
    assert summarize(added) == pytest.approx(summarize(full.sums), rel=1e-6)


def test_a_batch_without_targets_has_no_loss():
    batch = masked_batch()
    batch = batch._replace(target_mask=torch.zeros_like(batch.target_mask))
    output = MLMPretraining(PLAIN)(batch)
    output.loss.backward()
    assert output.loss == 0 and summarize(output.sums)["mlm_accuracy"] == 0
    output = electra()(batch)
    assert output.mlm_loss == 0 and output.loss == 50 * output.disc_loss > 0


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_compiles_as_one_graph(objective):
    batch, config = masked_batch(), PLAIN.replace(block_size="1_1")
    model, more = MLMPretraining(config), ()
    if objective == "electra":
        model, more = electra(config).train(), (noise_for(batch).float(),)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = model(batch, *more)
    expected.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    output = compiled(batch, *more)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected.loss)
    assert summarize(output.sums) == pytest.approx(summarize(expected.sums), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5)
    if objective == "electra":
        drawn = compiled(batch)
        assert 0 < drawn.sums.replaced <= drawn.sums.targets


@pytest.mark.parametrize("objective", ["mlm", "electra"])
def test_losses_are_fp32_under_autocast(objective):
    batch = masked_batch()
    model, more = MLMPretraining(PLAIN).eval(), ()
    if objective == "electra":
        model, more = electra(), (noise_for(batch).float(),)
    wanted = model(batch, *more)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch, *more)
    assert {output.loss.dtype, output.mlm_loss.dtype} == {torch.float32}
    torch.testing.assert_close(output.mlm_loss, wanted.mlm_loss, rtol=0.1, atol=0)
    assert output.mlm_loss != wanted.mlm_loss, "autocast changed nothing"


class LargestVocabularyRows(TorchDispatchMode):
    """Records the largest number of rows over the vocabulary that any operation returns."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCAB,):
                self.most = max(self.most, tensor.numel() // VOCAB)
        return result


@pytest.mark.parametrize("build", [MLMPretraining, ElectraPretraining])
def test_logits_exist_at_targets_only(build):
    batch = masked_batch()
    with LargestVocabularyRows() as seen:
        build(PLAIN)(batch).loss.backward()
    assert seen.most == max(batch.target.numel(), PLAIN.d_embed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width_shrink": 0.0}, "width_shrink: 0.0 should be above 0"),
        ({"width_shrink": 1.5}, "width_shrink: 1.5 should be above 0 and at most 1"),
        ({"disc_coeff": -1.0}, "disc_coeff: -1.0 should be a number from 0 up"),
        ({"width_shrink": 0.1}, "width_shrink: 0.1 makes no generator: .*n_head"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ElectraPretraining(PLAIN, PretrainingConfig(**settings))
