"""Checkpoint directories written here and read by transformers, and the other way round."""

import numpy as np
import pytest

from checkpoint_cases import TINY, VARIANTS, assert_same, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# By architecture: the auto class that loads it, and the heads of a complete checkpoint.
CASES = {
    "FunnelModel": ("AutoModel", ()),
    "FunnelBaseModel": ("AutoModel", None),
    "FunnelForPreTraining": ("AutoModelForPreTraining", ("discriminator",)),
    "FunnelForMaskedLM": ("AutoModelForMaskedLM", ("mlm_bias",)),
    "FunnelForSequenceClassification": (
        "AutoModelForSequenceClassification",
        ("summary", "classification"),
    ),
    "FunnelForMultipleChoice": ("AutoModelForMultipleChoice", ("summary", "race")),
    "FunnelForTokenClassification": (
        "AutoModelForTokenClassification",
        ("token_classification",),
    ),
    "FunnelForQuestionAnswering": ("AutoModelForQuestionAnswering", ("question_answering",)),
}
ENCODER_ONLY = ("FunnelBaseModel", "FunnelForSequenceClassification", "FunnelForMultipleChoice")


def _load(auto, path):
    """Load a model; assert that no weight is missing, unused or of another shape."""
    model, report = getattr(transformers, auto).from_pretrained(path, output_loading_info=True)
    for problem, names in report.items():
        assert not names, (problem, names)
    return model


def _theirs(architecture, config=TINY, **more):
    # A transformers model with random weights.
    torch.manual_seed(0)
    keys = {key: value for key, value in config.to_hf().items() if key not in ("funnel",)}
    keys["attention_type"] = "relative_shift"  # that of TINY, and of the published models
    hf_config = transformers.FunnelConfig(**keys, **more)
    model = getattr(transformers, architecture)(hf_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize("architecture", CASES)
def test_transformers_loads_what_we_write(tmp_path, architecture):
    auto, heads = CASES[architecture]
    decoder = architecture not in ENCODER_ONLY
    checkpoint = random_checkpoint(TINY, heads or (), decoder=decoder)
    assert save_checkpoint(checkpoint, tmp_path, "hf") == []
    model = _load(auto, tmp_path)
    assert type(model).__name__ == architecture
    if architecture in ("FunnelForSequenceClassification", "FunnelForTokenClassification"):
        assert model.config.num_labels == 3
    # transformers writes back the same weights, bit for bit.
    model.save_pretrained(tmp_path / "back")
    assert_same(load_checkpoint(tmp_path / "back").tensors, checkpoint.tensors)


@pytest.mark.parametrize("architecture", CASES)
def test_we_load_what_transformers_writes(tmp_path, architecture):
    model = _theirs(architecture)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = load_checkpoint(tmp_path / "theirs")
    assert checkpoint.metadata["architecture"] == architecture
    decoder = architecture not in ENCODER_ONLY
    assert checkpoint.config.replace(decoder_size="2") == TINY
    assert any("decoder" in name for name in checkpoint.tensors) == decoder
    save_checkpoint(checkpoint, tmp_path / "ours", "hf")
    state = _load(CASES[architecture][0], tmp_path / "ours").state_dict()
    for name, values in model.state_dict().items():
        assert torch.equal(state[name], values), name


def test_every_layer_is_mapped_to_its_own(tmp_path):
    """The projections of each layer through their modules: names and layouts, not only shapes."""
    model = _theirs("FunnelModel")
    model.save_pretrained(tmp_path)
    tensors = load_checkpoint(tmp_path).tensors
    hidden = torch.randn(1, 4, 12)
    layers = [*(layer for block in model.encoder.blocks for layer in block), *model.decoder.layers]
    for index, layer in enumerate(layers):
        tower = "encoder" if index < 4 else "decoder"
        scope = f"model/{tower}/layer_{index}"
        for theirs, ours in {"q_head": "q", "k_head": "k", "v_head": "v"}.items():
            kernel = torch.tensor(tensors[f"{scope}/rel_attn/{ours}/kernel"])
            bias = tensors.get(f"{scope}/rel_attn/{ours}/bias", np.zeros((2, 5), np.float32))
            found = torch.einsum("btd,dnh->btnh", hidden, kernel) + torch.tensor(bias)
            wanted = getattr(layer.attention, theirs)(hidden).view(1, 4, 2, 5)
            torch.testing.assert_close(found, wanted)
        heads = torch.randn(1, 4, 2, 5)
        kernel = torch.tensor(tensors[f"{scope}/rel_attn/o/kernel"])
        found = torch.einsum("btnh,nhd->btd", heads, kernel)
        found += torch.tensor(tensors[f"{scope}/rel_attn/o/bias"])
        torch.testing.assert_close(found, layer.attention.post_proj(heads.reshape(1, 4, 10)))
        kernel = torch.tensor(tensors[f"{scope}/ff/layer_1/kernel"])
        found = hidden @ kernel + torch.tensor(tensors[f"{scope}/ff/layer_1/bias"])
        torch.testing.assert_close(found, layer.ffn.linear_1(hidden))


def test_their_discriminator_is_the_negative_of_ours(tmp_path):
    checkpoint = random_checkpoint(TINY, ("discriminator",))
    save_checkpoint(checkpoint, tmp_path, "hf")
    model = _load("AutoModelForPreTraining", tmp_path)
    hidden = torch.randn(2, 3, 12)
    ours = {n: torch.tensor(v) for n, v in checkpoint.tensors.items() if "binary" in n}
    inner = hidden @ ours["model/binary_proj/dense/kernel"] + ours["model/binary_proj/dense/bias"]
    inner = torch.nn.functional.gelu(inner, approximate="tanh")
    logits = inner @ ours["model/binary_loss/weight"] + ours["model/binary_loss/bias"]
    torch.testing.assert_close(model.discriminator_predictions(hidden), -logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_or_refuses_every_variant(tmp_path, variant):
    config = VARIANTS[variant]
    save_checkpoint(random_checkpoint(config), tmp_path, "hf")
    if variant in ("null", "projected", "decoder_repeats", "pool_by_3"):
        with pytest.raises(ValueError, match="funnel-extended"):
            transformers.AutoModel.from_pretrained(tmp_path)
        return
    model = _load("AutoModel", tmp_path)
    base = variant in ("encoder_only", "one_block", "first_block_repeats")
    assert type(model).__name__ == ("FunnelBaseModel" if base else "FunnelModel")
    assert model.config.block_repeats == [block.repeats for block in config.blocks]
    assert model.config.hidden_act == ("relu" if variant == "relu" else "gelu_new")


def test_their_tokenizer_reads_the_saved_vocabulary(tmp_path):
    (tmp_path / "vocab.uncased.txt").write_text(
        "<pad>\n<unk>\n<cls>\n<sep>\n<mask>\n<s>\n</s>\nfun\n##nel\n"
    )
    vocabulary = str(tmp_path / "vocab.uncased.txt")
    checkpoint = random_checkpoint(TINY, vocab_path=vocabulary)
    save_checkpoint(checkpoint, tmp_path / "m", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.tokenize("FUNNEL") == ["fun", "##nel"]


def test_label_names_arrive(tmp_path):
    labels = ["contradiction", "entailment", "neutral"]
    heads = ("summary", "classification")
    checkpoint = random_checkpoint(TINY, heads, decoder=False, labels=labels, cls_scope="mnli")
    save_checkpoint(checkpoint, tmp_path, "hf")
    model = _load("AutoModelForSequenceClassification", tmp_path)
    assert [model.config.id2label[index] for index in range(3)] == labels


def test_an_untied_language_model_is_refused(tmp_path):
    from funnel.utils.errors import CheckpointError

    model = _theirs("FunnelForMaskedLM", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the word table"):
        load_checkpoint(tmp_path)
