"""Reference heads in float64, on top of :mod:`reference_funnel`: formulas and losses.

Heads take hidden states, not ids, so each can be tested on any model. Names are those of the
TensorFlow variables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from reference_funnel import (
    Params,
    activate,
    dense,
    gelu,
    layer_norm,
    parameter_shapes,
    run_model,
)

MASKED = -1e30


def head_shapes(config: Any, head: str, classes: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a head's variables."""
    wide, embed = config.d_model, config.d_embed
    summary = {
        "model/sequnece_summary/summary/kernel": (wide, wide),
        "model/sequnece_summary/summary/bias": (wide,),
    }
    end = {
        "model/end_logits/dense_0/kernel": (2 * wide, wide),
        "model/end_logits/dense_0/bias": (wide,),
        "model/end_logits/layer_norm/beta": (wide,),
        "model/end_logits/layer_norm/gamma": (wide,),
        "model/end_logits/dense_1/kernel": (wide, 1),
        "model/end_logits/dense_1/bias": (1,),
    }
    start = {"model/start_logits/dense/kernel": (wide, 1), "model/start_logits/dense/bias": (1,)}
    answer = {
        "model/answer_class/dense_0/kernel": (2 * wide, wide),
        "model/answer_class/dense_0/bias": (wide,),
        "model/answer_class/dense_1/kernel": (wide, 1),
    }
    plain_end = {"model/end_logits/dense/kernel": (wide, 1), "model/end_logits/dense/bias": (1,)}
    return {
        "classification": summary
        | {
            "model/classification/logit/kernel": (wide, classes),
            "model/classification/logit/bias": (classes,),
        },
        "race": summary | {"model/race/logits/kernel": (wide, 1), "model/race/logits/bias": (1,)},
        "mlm": {
            "model/lm_proj/dense/kernel": (wide, embed),
            "model/lm_proj/dense/bias": (embed,),
            "model/lm_proj/layer_norm/beta": (embed,),
            "model/lm_proj/layer_norm/gamma": (embed,),
            "model/lm_loss/bias": (config.vocab_size,),
        },
        "discriminator": {
            "model/binary_proj/dense/kernel": (wide, wide),
            "model/binary_proj/dense/bias": (wide,),
            "model/binary_loss/weight": (wide,),
            "model/binary_loss/bias": (1,),
        },
        "token_classification": {
            "model/token_classification/logits/kernel": (wide, classes),
            "model/token_classification/logits/bias": (classes,),
        },
        "squad": start | end | answer,
        "squad_plain": start | plain_end,
    }[head]


def summary(params: Params, encoder: Tensor) -> Tensor:
    """tanh(W h[0] + b): [B, T, D] -> [B, D]."""
    return torch.tanh(dense(params, "model/sequnece_summary/summary", encoder[:, 0]))


def classification_logits(params: Params, encoder: Tensor, scope: str = "classification") -> Tensor:
    """Class logits, or one score for a regression: [B, T, D] -> [B, classes]."""
    return dense(params, f"model/{scope}/logit", summary(params, encoder))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax at the target, one value a row."""
    return -torch.log_softmax(logits, dim=-1).gather(-1, target[..., None])[..., 0]


def sigmoid_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-[t log p + (1 - t) log(1 - p)] for p = sigmoid(logits)."""
    log_p, log_not_p = -torch.log1p(torch.exp(-logits)), -torch.log1p(torch.exp(logits))
    return -(target * log_p + (1 - target) * log_not_p)


def mlm_logits(config: Any, params: Params, decoder: Tensor) -> Tensor:
    """Vocabulary logits of any hidden states: [..., D] -> [..., vocab]."""
    hidden = activate(config.ff_activation, dense(params, "model/lm_proj/dense", decoder))
    hidden = layer_norm(params, "model/lm_proj/layer_norm", hidden, config.layer_norm_eps)
    table = params["model/input/word_embedding/lookup_table"]
    return hidden @ table.T + params["model/lm_loss/bias"]


def mlm_loss(
    config: Any, params: Params, decoder: Tensor, slots: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Mean cross entropy over the filled slots: positions, targets and mask, each [B, K]."""
    positions, targets, mask = slots
    picked = torch.stack([row[index] for row, index in zip(decoder, positions, strict=True)])
    loss = cross_entropy(mlm_logits(config, params, picked), targets)
    return (loss * mask).sum() / mask.sum()


def discriminator_logits(params: Params, decoder: Tensor) -> Tensor:
    """One logit a token, positive for *original*: [B, T, D] -> [B, T]."""
    hidden = gelu(dense(params, "model/binary_proj/dense", decoder))
    return hidden @ params["model/binary_loss/weight"] + params["model/binary_loss/bias"]


def discriminator_loss(logits: Tensor, is_original: Tensor, real: Tensor) -> Tensor:
    """Sigmoid cross entropy averaged over the real tokens."""
    loss = sigmoid_cross_entropy(logits, is_original.to(logits.dtype))
    return (loss * real).sum() / real.sum()


def token_logits(params: Params, decoder: Tensor) -> Tensor:
    """Class logits of every token: [B, T, D] -> [B, T, classes]."""
    return dense(params, "model/token_classification/logits", decoder)


def race_logits(params: Params, encoder: Tensor, options: int = 4) -> Tensor:
    """One logit an option, from [B * options, T, D]: [B, options]."""
    return dense(params, "model/race/logits", summary(params, encoder)).reshape(-1, options)


# --- pretraining -------------------------------------------------------------------------------


class ElectraLosses(NamedTuple):
    """Both losses, and what the discriminator read and said: ids and logits [B, T]."""

    mlm_loss: Tensor
    disc_loss: Tensor
    disc_input: Tensor
    disc_logits: Tensor


def generator_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a generator of this config: a language model without an input table."""
    shapes = parameter_shapes(config) | head_shapes(config, "mlm")
    return {
        name.replace("model/", "generator/", 1): shape
        for name, shape in shapes.items()
        if not name.startswith("model/input/")
    }


def generator_params(params: Params) -> dict[str, Tensor]:
    """The generator as a model of its own, which reads the discriminator's input variables."""
    shared = {name: value for name, value in params.items() if name.startswith("model/input/")}
    own = {
        name.replace("generator/", "model/", 1): value
        for name, value in params.items()
        if name.startswith("generator/")
    }
    return shared | own


def electra_losses(
    configs: tuple[Any, Any], params: Params, batch: Any, noise: Tensor
) -> ElectraLosses:
    """ELECTRA's step for ``configs`` = (discriminator, generator), sampling by Gumbel ``noise``."""
    real = batch.attention_mask.to(torch.float64)
    small = generator_params(params)
    proposed = run_model(configs[1], small, batch.masked_input, real, batch.token_type_ids).decoder
    slots = (batch.target_positions, batch.target, batch.target_mask)
    mlm = mlm_loss(configs[1], small, proposed, slots)
    disc_input = batch.origin_input.clone()
    for row, slot in batch.target_mask.nonzero().tolist():
        position = batch.target_positions[row, slot]
        scores = mlm_logits(configs[1], small, proposed[row, position]) + noise[row, slot]
        disc_input[row, position] = scores.argmax()
    judged = run_model(configs[0], params, disc_input, real, batch.token_type_ids).decoder
    logits = discriminator_logits(params, judged)
    disc = discriminator_loss(logits, disc_input == batch.origin_input, real)
    return ElectraLosses(mlm, disc, disc_input, logits)


# --- SQuAD -------------------------------------------------------------------------------------


class SquadBeam(NamedTuple):
    """Best starts [B, S] and ends [B, S * E] (or [B, E]), and the no-answer logit [B]."""

    start_log_probs: Tensor
    start_index: Tensor
    end_log_probs: Tensor
    end_index: Tensor
    cls_logits: Tensor


def start_logits(params: Params, hidden: Tensor, p_mask: Tensor | None) -> Tensor:
    """Masked start logits [B, T]; ``p_mask`` 1 = cannot be an answer, None = no mask."""
    return _mask(dense(params, "model/start_logits/dense", hidden)[..., 0], p_mask)


def end_logits(
    config: Any, params: Params, hidden: Tensor, start: Tensor | None, p_mask: Tensor | None
) -> Tensor:
    """Masked end logits [B, T], given one start position a row (None: unconditional)."""
    if start is None:
        return _mask(dense(params, "model/end_logits/dense", hidden)[..., 0], p_mask)
    chosen = torch.stack([row[index] for row, index in zip(hidden, start, strict=True)])
    both = torch.cat([hidden, chosen[:, None].expand_as(hidden)], dim=-1)
    x = torch.tanh(dense(params, "model/end_logits/dense_0", both))
    x = layer_norm(params, "model/end_logits/layer_norm", x, config.layer_norm_eps)
    return _mask(dense(params, "model/end_logits/dense_1", x)[..., 0], p_mask)


def answer_logits(params: Params, hidden: Tensor, start: Tensor, cls_index: Tensor) -> Tensor:
    """The logit of *no answer* [B] from masked start logits [B, T]."""
    expected = (torch.softmax(start, dim=-1)[..., None] * hidden).sum(1)
    cls = torch.stack([row[index] for row, index in zip(hidden, cls_index, strict=True)])
    x = torch.tanh(dense(params, "model/answer_class/dense_0", torch.cat([expected, cls], -1)))
    return dense(params, "model/answer_class/dense_1", x)[..., 0]


def squad_cls_logits(params: Params, hidden: Tensor, start: Tensor, cls_index: Tensor) -> Tensor:
    """``cls_logits`` [B]: the answer class if there is one, else the start log-prob of [CLS]."""
    if "model/answer_class/dense_0/kernel" in params:
        return answer_logits(params, hidden, start, cls_index)
    return torch.log_softmax(start, dim=-1).gather(1, cls_index[:, None])[:, 0]


def squad_loss(
    config: Any,
    params: Params,
    hidden: Tensor,
    gold: tuple[Tensor, Tensor, Tensor],
    cls_index: Tensor,
    p_mask: Tensor | None,
) -> Tensor:
    """Span loss plus, with an answer class, its loss; ``gold``: start, end, is_impossible."""
    begin, end, impossible = gold
    conditional = "model/end_logits/dense_0/kernel" in params
    start = start_logits(params, hidden, p_mask)
    stop = end_logits(config, params, hidden, begin if conditional else None, p_mask)
    loss = 0.5 * (cross_entropy(start, begin).mean() + cross_entropy(stop, end).mean())
    if "model/answer_class/dense_0/kernel" in params:
        logits = answer_logits(params, hidden, start, cls_index)
        loss = loss + 0.5 * sigmoid_cross_entropy(logits, impossible.to(logits.dtype)).mean()
    return loss


def squad_beam(
    config: Any,
    params: Params,
    hidden: Tensor,
    cls_index: Tensor,
    p_mask: Tensor | None,
    tops: tuple[int, int] = (5, 5),
) -> SquadBeam:
    """The ``tops`` = (start_n_top, end_n_top) best starts, and the best ends of each."""
    start = start_logits(params, hidden, p_mask)
    start_top, start_index = torch.log_softmax(start, dim=-1).topk(tops[0], dim=-1)
    starts = [None]
    if "model/end_logits/dense_0/kernel" in params:
        starts = [start_index[:, i] for i in range(tops[0])]
    ends = [
        torch.log_softmax(end_logits(config, params, hidden, begin, p_mask), dim=-1).topk(tops[1])
        for begin in starts
    ]
    return SquadBeam(
        start_top,
        start_index,
        torch.cat([end.values for end in ends], dim=-1),
        torch.cat([end.indices for end in ends], dim=-1),
        squad_cls_logits(params, hidden, start, cls_index),
    )


def _mask(logits: Tensor, p_mask: Tensor | None) -> Tensor:
    if p_mask is None:
        return logits
    return logits * (1 - p_mask.to(logits.dtype)) + MASKED * p_mask.to(logits.dtype)
