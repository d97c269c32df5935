"""Encoders to compare, as callables to time.

Our Funnel and transformers' have the same sizes. The BERT baseline is that of the paper: 12 layers
at width 768, 24 at width 1024 (other widths: as many layers as the encoder). Weights are random and
inputs unpadded. A training step is one of fine-tuning a classifier: forward with dropout, a linear
layer on [CLS], cross entropy, backward, AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _paths  # noqa: F401

import torch
from torch import nn

from funnel import ModelConfig
from funnel.flops import model_cost
from funnel.utils.errors import ConfigError
from funnel_torch import FunnelEncoder
from funnel_torch.models.attention import choose_attention
from harness import timing

if TYPE_CHECKING:
    from transformers import FunnelConfig

OURS, HF, BERT = "ours", "hf", "bert"
LABELS = {OURS: "ours", HF: "transformers Funnel", BERT: "transformers BERT, SDPA"}
FORWARD, TRAINING = "forward", "training"
FP32, BF16 = "fp32", "bf16"
CLASSES = 2
LEARNING_RATE = 1e-5
# The form of the models on its hub. Ours are exported with the other one, which also computes the
# shortest texts.
HF_ATTENTION = {"attention_type": "relative_shift"}
_BASELINES = {768: "L12H768", 1024: "L24H1024"}


@dataclass(frozen=True)
class Case:
    """One encoder, shape and mode to time.

    Attributes:
        model: ``ours``, ``hf`` or ``bert``.
        size: name of a file in configs/.
        mode: ``forward`` (evaluation, no gradients) or ``training`` (a complete step).
        batch, length: shape of the input.
        precision: ``fp32``, or ``bf16`` by autocast.
        compiled: whether ``torch.compile`` is applied.
        device: ``cpu`` or ``cuda``.
        threads: intra-op threads of PyTorch.
        attention: of ours, see ``choose_attention``.
    """

    model: str
    size: str
    mode: str
    batch: int
    length: int
    precision: str = FP32
    compiled: bool = False
    device: str = "cpu"
    threads: int = 1
    attention: str = "auto"

    @property
    def gflops(self) -> float:
        """GFLOPs according to ``funnel.flops``; a backward pass counts as two forward passes."""
        passes = 3 if self.mode == TRAINING else 1
        cost = model_cost(build_config(self.model, self.size), self.length, self.batch)
        return passes * self.batch * cost.encoder_total / 1e9


def parse_shape(text: str) -> tuple[int, int]:
    """Parse ``8x128`` as batch size and length."""
    try:
        batch, length = map(int, text.split("x"))
        if min(batch, length) < 1:
            raise ValueError
    except ValueError:
        raise ConfigError(f"--shapes={text}: write BATCHxLENGTH,..., e.g. 8x128,2x512") from None
    return batch, length


def load_config(name: str) -> ModelConfig:
    """Load the configuration ``configs/name.json``."""
    return ModelConfig.load(timing.REPOSITORY / "configs" / f"{name}.json")


def build_config(model: str, size: str) -> ModelConfig:
    """Return the configuration that describes a model, also that of a baseline."""
    config = load_config(size)
    if model != BERT:
        return config
    if config.d_model in _BASELINES:
        return load_config(_BASELINES[config.d_model])
    layers = sum(block.layers for block in config.blocks)
    return config.replace(block_size=str(layers), decoder_size="0", rel_attn_type="null")


def hf_config(config: ModelConfig, **settings: Any) -> FunnelConfig:
    """Return the configuration for transformers, with the faster of its forms of attention."""
    from transformers import FunnelConfig

    return FunnelConfig(**config.to_hf() | HF_ATTENTION | settings)


def build(model: str, size: str, length: int) -> nn.Module:
    """Build an encoder with random weights from a fixed seed."""
    torch.manual_seed(0)
    config = build_config(model, size)
    if model == OURS:
        return FunnelEncoder(config)
    # Here, so that ours can be timed without transformers.
    from transformers import BertConfig, BertModel, FunnelBaseModel

    if model == HF:
        return FunnelBaseModel(hf_config(config))
    if model != BERT:
        raise ConfigError(f"--models={model}: it is one of {', '.join(LABELS)}")
    settings = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        num_hidden_layers=config.blocks[0].layers,
        num_attention_heads=config.n_head,
        intermediate_size=config.d_inner,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropatt,
        max_position_embeddings=max(512, length),
        attn_implementation="sdpa",
    )
    return BertModel(settings, add_pooling_layer=False)


def parameters(model: str, size: str, length: int) -> int:
    """Return the number of weights of an encoder without allocating them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(model, size, length).parameters())


def prepare(case: Case) -> Callable[[], object]:
    """Build model and input of a case; return a callable for one forward pass or training step."""
    torch.set_num_threads(case.threads)
    with torch.device(case.device):
        model = build(case.model, case.size, case.length)
    choose_attention(model, case.attention)
    vocabulary = load_config(case.size).vocab_size
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, case.length)
    ids = torch.randint(vocabulary, shape, generator=generator).to(case.device)
    make = _training_step if case.mode == TRAINING else _forward_pass
    return make(model, ids, case)


def _autocast(case: Case) -> torch.autocast:
    return torch.autocast(case.device, torch.bfloat16, enabled=case.precision == BF16)


def _forward_pass(model: nn.Module, ids: torch.Tensor, case: Case) -> Callable[[], object]:
    model.eval()
    segments = torch.zeros_like(ids)
    forward = torch.compile(model) if case.compiled else model

    def run() -> object:
        with torch.inference_mode(), _autocast(case):
            return forward(ids, token_type_ids=segments)

    return run


def _training_step(model: nn.Module, ids: torch.Tensor, case: Case) -> Callable[[], object]:
    model.train()
    segments = torch.zeros_like(ids)
    classifier = nn.Linear(build_config(case.model, case.size).d_model, CLASSES).to(ids.device)
    labels = ids[:, 0] % CLASSES
    weights = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, fused=True)
    forward = torch.compile(model) if case.compiled else model

    def run() -> None:
        with _autocast(case):
            hidden = forward(ids, token_type_ids=segments).last_hidden_state
            loss = nn.functional.cross_entropy(classifier(hidden[:, 0]).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
