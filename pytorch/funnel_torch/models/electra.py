"""Pretraining: masked language modelling, and ELECTRA with its generator.

Dai et al. 2020, section 3.1; ELECTRA: Clark et al. 2020. Both models take batches of
:class:`funnel.pretraining.masking.Masker`:

    model = ElectraPretraining(config)
    output = model(PretrainingBatch.from_arrays(masker.mask(...)))
    output.loss.backward()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import infer_generator
from funnel.config.heads import DEFAULT_PRETRAINING, PretrainingConfig
from funnel.config.model import ModelConfig
from funnel.pretraining.masking import MaskedBatch
from funnel_torch.models.heads import (
    DISCRIMINATOR_SCOPES,
    IGNORED,
    MASKED_LM_SCOPES,
    DiscriminatorHead,
    MaskedLMHead,
)
from funnel_torch.models.initialization import initialize
from funnel_torch.models.modeling import Decoder, Encoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.training.pretraining_metrics import PretrainingSums

# What a generator does not have in common with its discriminator.
_GENERATOR_SIZES = ("d_model", "n_head", "d_head", "d_inner")


class PretrainingBatch(NamedTuple):
    """What :class:`funnel.pretraining.masking.MaskedBatch` says of B records of T tokens, P slots,
    as tensors.

    Attributes:
        masked_input: int64 [B, T], what the model (of ELECTRA: the generator) reads.
        origin_input: int64 [B, T].
        seg_id: int64 [B, T].
        target: int64 [B, P], original ids at the targets.
        target_mask: bool [B, P], False for an empty slot.
        target_positions: int64 [B, P].
        input_mask: bool [B, T], True where ``masked_input`` is the mask symbol or padding.
        pad_mask: bool [B, T], True for padding.
    """

    masked_input: Tensor
    origin_input: Tensor
    seg_id: Tensor
    target: Tensor
    target_mask: Tensor
    target_positions: Tensor
    input_mask: Tensor
    pad_mask: Tensor

    @classmethod
    def from_arrays(cls, batch: MaskedBatch) -> PretrainingBatch:
        """The same arrays as tensors, which share their memory."""
        return cls(*(torch.from_numpy(getattr(batch, name)) for name in cls._fields))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PretrainingBatch:
        """The batch on ``device``."""
        return PretrainingBatch(*(x.to(device, non_blocking=non_blocking) for x in self))


class LossTotals(NamedTuple):
    """What summed losses are divided by, numbers or scalar tensors.

    A batch's losses are means over its own targets and tokens. Where several batches make one
    step (accumulation, several processes) and gradients add up, the totals of the whole step make
    its loss the mean over the step; where processes average their gradients, divide the totals by
    the number of processes. They must be above 0.

    Attributes:
        targets: masked tokens to predict.
        tokens: tokens that are no padding; MLM takes no notice.
    """

    targets: Tensor | float
    tokens: Tensor | float

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LossTotals:
        """The totals on ``device``."""
        moved = (torch.as_tensor(x).to(device, non_blocking=non_blocking) for x in self)
        return LossTotals(*moved)


class PretrainingOutput(NamedTuple):
    """What a pretraining step computes.

    Attributes:
        loss: what to minimise; of ELECTRA ``mlm_loss + disc_coeff * disc_loss``.
        mlm_loss: mean over the targets, scalar.
        disc_loss: mean over the tokens, scalar; None in MLM.
        sums: for statistics.
        disc_logits: [B, T], positive for *original*, without gradient; None in MLM.
        is_replaced: bool [B, T], the truth about them; None in MLM.
    """

    loss: Tensor
    mlm_loss: Tensor
    disc_loss: Tensor | None
    sums: PretrainingSums
    disc_logits: Tensor | None = None
    is_replaced: Tensor | None = None


class MLMPretraining(PretrainedModel):
    """Predicts the masked tokens from the decoder's output, at their positions only."""

    architecture = "FunnelForMaskedLM"

    def __init__(
        self, config: ModelConfig, pretraining: PretrainingConfig = DEFAULT_PRETRAINING
    ) -> None:
        super().__init__(config)
        self.pretraining = pretraining
        self.funnel = FunnelModel(config)
        self.lm_head = MaskedLMHead(config)
        initialize(self.lm_head, config)

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return MASKED_LM_SCOPES

    def forward(
        self, batch: PretrainingBatch, totals: LossTotals | None = None
    ) -> PretrainingOutput:
        """Losses of a batch; ``totals`` replace its own counts as their divisors."""
        hidden_keys = batch.input_mask if self.pretraining.hide_masked else batch.pad_mask
        attention_mask = 1 - hidden_keys.float()
        hidden = self.funnel(batch.masked_input, attention_mask, batch.seg_id).last_hidden_state
        table = self.funnel.embeddings.word_embeddings.weight
        logits = self.lm_head(_at_targets(hidden, batch), table)
        loss_sum, sums = _score_predictions(logits, batch)
        loss = loss_sum / (totals or _own_totals(sums)).targets
        return PretrainingOutput(loss, loss, None, sums)


class Generator(nn.Module):
    """The small model that proposes replacements; it reads its discriminator's embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.lm_head = MaskedLMHead(config)
        initialize(self, config)

    def forward(
        self, embedded: Tensor, attention_mask: Tensor, batch: PretrainingBatch, table: Tensor
    ) -> Tensor:
        """Logits [B, P, V] at the targets.

        Args:
            embedded: [B, T, E], the embedded ``masked_input``.
            attention_mask: float [B, T], 1 for a real token.
            batch: names the segments and the targets.
            table: word embeddings [V, E], the output layer too.
        """
        hidden = self.decoder(self.encoder(embedded, attention_mask, batch.seg_id))
        return self.lm_head(_at_targets(hidden, batch), table)


class ElectraPretraining(PretrainedModel):
    """A discriminator that tells original tokens from a generator's samples, and the generator.

    Both read the same word table through the same LayerNorm. Saved, it is the discriminator of
    the Hugging Face layout, with the generator kept beside it.
    """

    architecture = "FunnelForPreTraining"

    def __init__(
        self,
        config: ModelConfig,
        pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
        generator_sizes: Mapping[str, int] | None = None,
    ) -> None:
        """``generator_sizes`` (d_model, n_head, d_head, d_inner) overrule ``width_shrink``."""
        super().__init__(config)
        self.pretraining = pretraining
        sizes = generator_sizes
        smaller = pretraining.generator(config) if sizes is None else config.replace(**sizes)
        self.funnel = FunnelModel(config)
        self.discriminator = DiscriminatorHead(config)
        self.generator = Generator(smaller)
        initialize(self.discriminator, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """The sizes of the generator that was saved."""
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        if not any(name.startswith("generator/") for name in shapes):
            return {}
        saved = infer_generator(checkpoint.config, shapes)
        return {"generator_sizes": {key: getattr(saved, key) for key in _GENERATOR_SIZES}}

    def variable_scopes(self) -> dict[str, str]:
        """See the base class; the generator's scopes are an MLM model's."""
        return DISCRIMINATOR_SCOPES | MASKED_LM_SCOPES

    def forward(
        self,
        batch: PretrainingBatch,
        noise: Tensor | None = None,
        totals: LossTotals | None = None,
    ) -> PretrainingOutput:
        """Losses of a batch.

        Args:
            batch: the records.
            noise: :func:`gumbel_noise` [B, P, V] that decides the samples; None draws it from
                the global generator.
            totals: replace the batch's own counts as divisors of its losses.
        """
        real = 1 - batch.pad_mask.float()
        embeddings = self.funnel.embeddings
        embedded = embeddings(batch.masked_input, batch.seg_id)
        logits = self.generator(embedded, real, batch, embeddings.word_embeddings.weight)
        mlm_sum, mlm_sums = _score_predictions(logits, batch)
        replaced_input = replace_targets(batch, sample(logits, noise))

        hidden = self.funnel(replaced_input, real, batch.seg_id).last_hidden_state
        disc_logits = self.discriminator(hidden)
        is_replaced = replaced_input != batch.origin_input
        disc_sum, sums = _score_judgements(disc_logits, is_replaced, batch, mlm_sums)

        divisors = totals or _own_totals(sums)
        mlm_loss = mlm_sum / divisors.targets
        disc_loss = disc_sum / divisors.tokens
        loss = mlm_loss + self.pretraining.disc_coeff * disc_loss
        return PretrainingOutput(loss, mlm_loss, disc_loss, sums, disc_logits.detach(), is_replaced)


def gumbel_noise(
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    generators: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Independent draws of the standard Gumbel distribution, fp32.

    The arg max of logits plus such noise is distributed as their softmax.

    Args:
        shape: of the result.
        device: where to draw; that of the generators.
        generators: one for all, or one for each entry of the first axis (what is drawn for a
            record then depends on its own alone, not on its batch); None: the global one.
    """
    noise = torch.empty(shape, device=device)
    if generators is None or isinstance(generators, torch.Generator):
        noise.uniform_(generator=generators)
    else:
        for row, generator in zip(noise, generators, strict=True):
            row.uniform_(generator=generator)
    # Never 1, so nothing is +inf; a 0 becomes -inf, which is never chosen. (Tensor.exponential_
    # saves one logarithm, but takes longer than two on a CPU.)
    return noise.log_().neg_().log_().neg_()


@torch.no_grad()
def sample(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """Token ids [...] from the softmax of ``logits`` [..., V]; nothing flows back through them."""
    if noise is None:
        noise = gumbel_noise(logits.shape, logits.device)
    return (logits + noise).argmax(-1)


def replace_targets(batch: PretrainingBatch, tokens: Tensor) -> Tensor:
    """The original ids [B, T] with ``tokens`` [B, P] at the targets; empty slots do nothing."""
    length = batch.origin_input.shape[1]
    # Empty slots write to one position more, which is cut off again.
    positions = batch.target_positions.masked_fill(~batch.target_mask.bool(), length)
    return F.pad(batch.origin_input, (0, 1)).scatter(1, positions, tokens)[:, :length]


def _own_totals(sums: PretrainingSums) -> LossTotals:
    """A batch may have nothing to predict: its loss is then 0."""
    return LossTotals(sums.targets.clamp(min=1), sums.tokens.clamp(min=1))


def _at_targets(hidden: Tensor, batch: PretrainingBatch) -> Tensor:
    """[B, T, D] to [B, P, D]: the product with the vocabulary is made at the targets only."""
    index = batch.target_positions[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)


def _score_predictions(logits: Tensor, batch: PretrainingBatch) -> tuple[Tensor, PretrainingSums]:
    """Summed cross entropy of [B, P, V] logits, with gradient, and the statistics."""
    filled = batch.target_mask.bool()
    labels = batch.target.masked_fill(~filled, IGNORED).flatten()
    flat = logits.flatten(0, 1)
    loss = F.cross_entropy(flat, labels, ignore_index=IGNORED, reduction="sum")
    correct = (logits.detach().argmax(-1) == batch.target) & filled
    nothing = torch.zeros_like(loss.detach())
    none_judged = [nothing] * (len(PretrainingSums._fields) - 3)
    return loss, PretrainingSums(filled.sum(), loss.detach(), correct.sum(), *none_judged)


def _score_judgements(
    logits: Tensor, is_replaced: Tensor, batch: PretrainingBatch, sums: PretrainingSums
) -> tuple[Tensor, PretrainingSums]:
    """Summed sigmoid cross entropy of [B, T] logits, and ``sums`` with these statistics added."""
    real = ~batch.pad_mask.bool()
    is_original = (~is_replaced).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, is_original, reduction="none")
    loss = losses.masked_fill(~real, 0).sum()
    replaced, flagged = is_replaced & real, (logits.detach() < 0) & real
    return loss, sums._replace(
        tokens=real.sum(),
        disc_loss=loss.detach(),
        disc_correct=((replaced == flagged) & real).sum(),
        replaced=replaced.sum(),
        flagged=flagged.sum(),
        caught=(replaced & flagged).sum(),
    )
