"""Small models and masked batches for the tests of pretraining."""

from __future__ import annotations

import numpy as np
import torch

import reference_heads as heads
from funnel.config.model import ModelConfig
from funnel.pretraining.masking import Masker, MaskingConfig, record_generator
from funnel.tokenization.special_tokens import SpecialIds
from funnel_torch.models.electra import ElectraPretraining, PretrainingBatch, PretrainingConfig
from parity_cases import random_tensors
from parity_models import filled
from reference_funnel import parameter_shapes

VOCAB, LENGTH, TARGETS = 40, 17, 4
SPECIAL = SpecialIds(
    unk_id=0, cls_id=1, sep_id=2, pad_id=3, mask_id=4,
    bos_id=None, eos_id=None, eod_id=None, eop_id=None,
)  # fmt: skip
PLAIN = ModelConfig(
    vocab_size=VOCAB, d_model=16, d_embed=16, n_head=4, d_head=4, d_inner=32,
    block_size="1_1x2_1", decoder_size="1", dropout=0.0, dropatt=0.0, init_std=0.2,
)  # fmt: skip
# Whatever changes which variables there are, or how they are used.
CONFIGS = {
    "plain": PLAIN,
    "projected": PLAIN.replace(d_embed=12, ff_activation="relu", pooling_type="max"),
    "one_block": PLAIN.replace(block_size="2", decoder_size="0"),
    "no_decoder": PLAIN.replace(decoder_size="0", truncate_seq=False, pool_q_only=False),
    "null": PLAIN.replace(rel_attn_type="null", decoder_size="1x2", separate_cls=False),
}


def sizes_of_generator(config: ModelConfig) -> ModelConfig:
    """Return the configuration of the generator: a quarter of the widths."""
    return config.replace(d_model=4, n_head=1, d_inner=8)


def masked_batch(lengths: tuple[int, ...] = (17, 13, 5, 17), seed: int = 0) -> PretrainingBatch:
    """Records of ``lengths`` tokens, padded; [CLS] A [SEP] B [SEP]. The shortest lack targets."""
    random = np.random.default_rng(seed)
    inputs = np.full((len(lengths), LENGTH), SPECIAL.pad_id)
    segments = np.zeros_like(inputs)
    for row, (ids, length) in enumerate(zip(inputs, lengths, strict=True)):
        ids[:length] = random.integers(SPECIAL.mask_id + 1, VOCAB, length)
        middle = length // 2
        ids[[0, middle, length - 1]] = SPECIAL.cls_id, SPECIAL.sep_id, SPECIAL.sep_id
        segments[row, middle + 1 : length] = 1
    segments[:, 0] = 2
    masker = Masker(MaskingConfig(LENGTH, TARGETS), SPECIAL, VOCAB)
    generators = [record_generator(seed, 0, index) for index in range(len(lengths))]
    return PretrainingBatch.from_arrays(masker.mask(inputs, segments, None, generators))


def rows(batch: PretrainingBatch, which: slice) -> PretrainingBatch:
    """Return some records of a batch."""
    return PretrainingBatch(
        *(tensor[which] for tensor in batch if isinstance(tensor, torch.Tensor))
    )


def noise_for(batch: PretrainingBatch, seed: int = 0) -> torch.Tensor:
    """Gumbel noise [B, P, V]; it makes every record's first sample the original token."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch.target.shape, VOCAB)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform))
    noise[:, 0].scatter_(1, batch.target[:, :1], 100.0)
    return noise


def noise_for_originals(batch: PretrainingBatch) -> torch.Tensor:
    """Noise that makes every sample the original token."""
    return torch.zeros(*batch.target.shape, VOCAB).scatter(2, batch.target[..., None], 1e4)


def electra_tensors(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Weights of a discriminator and its generator, in which every term matters."""
    shapes = parameter_shapes(config) | heads.head_shapes(config, "discriminator")
    return random_tensors(shapes | heads.generator_shapes(sizes_of_generator(config)))


def mlm_tensors(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Weights of a masked language model, in which every term matters."""
    return random_tensors(parameter_shapes(config) | heads.head_shapes(config, "mlm"))


def electra(config: ModelConfig = PLAIN, **settings: float) -> ElectraPretraining:
    """An ELECTRA model with those weights."""
    model = ElectraPretraining(config, PretrainingConfig(**settings))
    return filled(model, electra_tensors(config))
