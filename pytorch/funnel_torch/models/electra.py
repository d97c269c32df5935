"""Pretraining models: masked language modelling (MLM), and ELECTRA with its generator.

Dai et al. 2020, section 3.1; ELECTRA: Clark et al. 2020. Both models take the batches of
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
from funnel_torch.kernels.float64 import stack_float64
from funnel_torch.models.heads import (
    DISCRIMINATOR_SCOPES,
    MASKED_LM_SCOPES,
    DiscriminatorHead,
    MaskedLMHead,
    masked_lm_arguments,
)
from funnel_torch.models.initialization import initialize
from funnel_torch.models.losses import IGNORED, cross_entropy
from funnel_torch.models.modeling import Decoder, Encoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.pretraining_batch import LossDenominators, PretrainingBatch

# Settings in which a generator differs from its discriminator.
_GENERATOR_SIZES = ("d_model", "n_head", "d_head", "d_inner")


class PretrainingSums(NamedTuple):
    """Sums over a batch, scalars without gradient, that can be added over batches and processes.

    The discriminator's sums are 0 in MLM. A positive is a token predicted to be replaced, that is
    one with a negative logit.

    Attributes:
        targets: number of masked tokens to predict.
        mlm_loss: sum of their cross entropies.
        mlm_correct: number of targets whose most likely token is the original one.
        tokens: number of tokens classified by the discriminator: all but padding.
        disc_loss: sum of their sigmoid cross entropies, without ``disc_coeff``.
        disc_correct: number of tokens classified correctly.
        replaced: number of tokens that differ from the original.
        predicted_positives: number of tokens predicted to be replaced.
        true_positives: number of replaced tokens predicted to be replaced.
    """

    targets: Tensor
    mlm_loss: Tensor
    mlm_correct: Tensor
    tokens: Tensor
    disc_loss: Tensor
    disc_correct: Tensor
    replaced: Tensor
    predicted_positives: Tensor
    true_positives: Tensor

    def vector(self) -> Tensor:
        """Return all sums as float64 [9]; ``PretrainingSums(*vector)`` is the inverse."""
        return stack_float64(self)


class PretrainingOutput(NamedTuple):
    """Losses and statistics of a batch.

    Attributes:
        loss: loss to minimise; for ELECTRA ``mlm_loss + disc_coeff * disc_loss``.
        mlm_loss: mean over the targets, scalar.
        disc_loss: mean over the tokens, scalar; None for MLM.
        sums: statistics of the batch.
        disc_logits: [B, T], positive for *original*, without gradient; None for MLM.
        is_replaced: bool [B, T], labels of the discriminator; None for MLM.
    """

    loss: Tensor
    mlm_loss: Tensor
    disc_loss: Tensor | None
    sums: PretrainingSums
    disc_logits: Tensor | None = None
    is_replaced: Tensor | None = None


class MLMPretraining(PretrainedModel):
    """Masked language model: predicts the masked tokens from the output of the decoder."""

    architecture = "FunnelForMaskedLM"

    def __init__(
        self,
        config: ModelConfig,
        pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
        projection: bool = True,
    ) -> None:
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.lm_head = MaskedLMHead(config, projection)
        initialize(self.lm_head, config)
        self.pretraining = pretraining

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return whether the saved head has a projection."""
        return masked_lm_arguments(checkpoint)

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return MASKED_LM_SCOPES

    def forward(
        self, batch: PretrainingBatch, denominators: LossDenominators | None = None
    ) -> PretrainingOutput:
        """Compute the loss of a batch.

        Args:
            batch: the records.
            denominators: divisors of the summed losses; by default the counts of the batch.
        """
        # Hiding [MASK] positions from attention is the original's choice, unlike BERT's.
        hides_masked = self.pretraining.hide_masked
        attention_mask = batch.mlm_attention_mask if hides_masked else batch.attention_mask
        hidden = self.funnel(batch.masked_input, attention_mask.float(), batch.token_type_ids)
        word_embeddings = self.funnel.embeddings.word_embeddings.weight
        logits = self.lm_head(_gather_targets(hidden.last_hidden_state, batch), word_embeddings)
        loss_sum, sums = _mlm_loss(logits, batch)
        loss = loss_sum / (denominators or _own_denominators(sums)).targets
        return PretrainingOutput(loss, loss, None, sums)


class Generator(nn.Module):
    """ELECTRA's generator, a small MLM model on the embeddings of its discriminator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.lm_head = MaskedLMHead(config)
        initialize(self, config)

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor,
        batch: PretrainingBatch,
        word_embeddings: Tensor,
    ) -> Tensor:
        """Return the logits at the targets, [B, P, V].

        Args:
            embedded: embedded ``masked_input``, [B, T, E].
            attention_mask: float [B, T], 1 for a token, 0 for padding.
            batch: the records, for their segments and targets.
            word_embeddings: [V, E], also the weights of the output layer.
        """
        hidden = self.decoder(self.encoder(embedded, attention_mask, batch.token_type_ids))
        return self.lm_head(_gather_targets(hidden, batch), word_embeddings)


class ElectraPretraining(PretrainedModel):
    """ELECTRA: a discriminator of original and sampled tokens, with the generator of the samples.

    Both use the same word embeddings and the same embedding LayerNorm. The model is saved as a
    discriminator in the Hugging Face layout, with the weights of the generator in the same
    directory.
    """

    architecture = "FunnelForPreTraining"

    def __init__(
        self,
        config: ModelConfig,
        pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
        generator_sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Build a model with fresh weights.

        Args:
            config: configuration of the discriminator.
            pretraining: settings of the objective.
            generator_sizes: d_model, n_head, d_head and d_inner of the generator; by default they
                follow from ``pretraining.width_shrink``.
        """
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
        """Return the sizes of the saved generator."""
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
        denominators: LossDenominators | None = None,
    ) -> PretrainingOutput:
        """Compute the losses of a batch.

        Args:
            batch: the records.
            noise: :func:`gumbel_noise` [B, P, V] for the samples of the generator; None draws it
                from the global random generator.
            denominators: divisors of the summed losses; by default the counts of the batch.
        """
        attention_mask, token_type_ids = batch.attention_mask.float(), batch.token_type_ids
        embeddings = self.funnel.embeddings
        embedded = embeddings(batch.masked_input, token_type_ids)
        word_embeddings = embeddings.word_embeddings.weight
        logits = self.generator(embedded, attention_mask, batch, word_embeddings)
        mlm_sum, mlm_sums = _mlm_loss(logits, batch)
        # Sampling has no gradient: the generator learns from the MLM loss alone.
        replaced_input = replace_targets(batch, sample(logits, noise))

        hidden = self.funnel(replaced_input, attention_mask, token_type_ids).last_hidden_state
        disc_logits = self.discriminator(hidden)
        # A sample that happens to equal the original token counts as original.
        is_replaced = replaced_input != batch.origin_input
        disc_sum, sums = _discriminator_loss(disc_logits, is_replaced, batch, mlm_sums)

        divisors = denominators or _own_denominators(sums)
        # Means over different counts: targets of the generator, all tokens of the discriminator.
        mlm_loss = mlm_sum / divisors.targets
        disc_loss = disc_sum / divisors.tokens
        loss = mlm_loss + self.pretraining.disc_coeff * disc_loss
        return PretrainingOutput(loss, mlm_loss, disc_loss, sums, disc_logits.detach(), is_replaced)


def gumbel_noise(
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    generators: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Return independent samples of the standard Gumbel distribution, fp32.

    The arg max of logits plus Gumbel noise is distributed according to their softmax.

    Args:
        shape: shape of the result.
        device: device of the result and of the generators.
        generators: one for all samples, or one per entry of the first axis, so that the noise of a
            record does not depend on its batch; None uses the global generator.
    """
    noise = torch.empty(shape, device=device)
    if generators is None or isinstance(generators, torch.Generator):
        noise.uniform_(generator=generators)
    else:
        for row, generator in zip(noise, generators, strict=True):
            row.uniform_(generator=generator)
    # uniform_ is below 1, so nothing becomes +inf; a 0 becomes -inf, which arg max never selects.
    # (Tensor.exponential_ would save one logarithm, but takes longer than two on a CPU.)
    return noise.log_().neg_().log_().neg_()


@torch.no_grad()
def sample(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """Sample token ids [...] from the softmax of ``logits`` [..., V], without gradient."""
    if noise is None:
        noise = gumbel_noise(logits.shape, logits.device)
    return (logits + noise).argmax(-1)


def replace_targets(batch: PretrainingBatch, tokens: Tensor) -> Tensor:
    """Return the original ids [B, T] with ``tokens`` [B, P] at the targets."""
    length = batch.origin_input.shape[1]
    # Empty slots are written to an additional last position, which is cut off again.
    positions = batch.target_positions.masked_fill(~batch.target_mask.bool(), length)
    return F.pad(batch.origin_input, (0, 1)).scatter(1, positions, tokens)[:, :length]


def _own_denominators(sums: PretrainingSums) -> LossDenominators:
    """Return the counts of a batch, at least 1: without targets or tokens the loss is 0."""
    return LossDenominators(sums.targets.clamp(min=1), sums.tokens.clamp(min=1))


def _gather_targets(hidden: Tensor, batch: PretrainingBatch) -> Tensor:
    """Select the targets, [B, T, D] to [B, P, D].

    Done before the output layer: its [D, V] product is the largest of the model, and most positions
    are no targets.
    """
    index = batch.target_positions[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)


def _mlm_loss(logits: Tensor, batch: PretrainingBatch) -> tuple[Tensor, PretrainingSums]:
    """Return the summed cross entropy of [B, P, V] logits, with gradient, and its statistics."""
    filled = batch.target_mask.bool()
    labels = batch.target.masked_fill(~filled, IGNORED).flatten()
    flat = logits.flatten(0, 1)
    loss = cross_entropy(flat, labels, ignore_index=IGNORED, reduction="sum")
    correct = (logits.detach().argmax(-1) == batch.target) & filled
    zero = torch.zeros_like(loss.detach())
    no_discriminator = [zero] * (len(PretrainingSums._fields) - 3)
    return loss, PretrainingSums(filled.sum(), loss.detach(), correct.sum(), *no_discriminator)


def _discriminator_loss(
    logits: Tensor, is_replaced: Tensor, batch: PretrainingBatch, sums: PretrainingSums
) -> tuple[Tensor, PretrainingSums]:
    """Return the summed sigmoid cross entropy of [B, T] logits, and ``sums`` with its statistics.

    The positive class of the loss is *original*, as in the original implementation, while precision
    and recall are those of finding replaced tokens.
    """
    real = batch.attention_mask.bool()
    is_original = (~is_replaced).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, is_original, reduction="none")
    loss = losses.masked_fill(~real, 0).sum()
    replaced, predicted = is_replaced & real, (logits.detach() < 0) & real
    return loss, sums._replace(
        tokens=real.sum(),
        disc_loss=loss.detach(),
        disc_correct=((replaced == predicted) & real).sum(),
        replaced=replaced.sum(),
        predicted_positives=predicted.sum(),
        true_positives=(replaced & predicted).sum(),
    )
