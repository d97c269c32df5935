"""A finished model: which head it has, its labels, and the lengths it was trained with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import RACE_LOGITS, START_LOGITS, TOKEN_LOGITS
from funnel.checkpoints.saved_head import describe_heads
from funnel.config.geometry import check_length
from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.config.model import MAX_ABSOLUTE_POSITIONS, NET_CONFIG, ModelConfig
from funnel.config.predictions import PredictorConfig
from funnel.config.squad import AnswerSettings
from funnel.inference.encoding import EncodingConfig
from funnel.inference.rows import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
    RowFormat,
)
from funnel.tasks.labels import name_unnamed
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import warn_of_length, weights_directory
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import RUN_CONFIG

logger = logging.getLogger(__name__)

_DEFAULT_LENGTH = 512
_KERNELS = {
    MULTIPLE_CHOICE: f"{RACE_LOGITS}/kernel",
    TOKEN_CLASSIFICATION: f"{TOKEN_LOGITS}/kernel",
    QUESTION_ANSWERING: f"{START_LOGITS}/kernel",
}
_ARCHITECTURES = {
    "FunnelForMultipleChoice": MULTIPLE_CHOICE,
    "FunnelForTokenClassification": TOKEN_CLASSIFICATION,
    "FunnelForQuestionAnswering": QUESTION_ANSWERING,
}
# Names under which programs record a length, in the order in which they are looked for.
_RECORDED = {
    "max_length": ("max_length", "max_seq_length"),
    "max_query_length": ("max_query_length",),
    "max_qa_length": ("max_qa_length",),
    "doc_stride": ("doc_stride",),
    "overlap": ("overlap",),
}


@dataclass(frozen=True)
class ModelHead:
    """The head of a model.

    Attributes:
        problem_type: a key of :data:`funnel.inference.rows.ROW_MAKERS`.
        labels: names of the outputs; empty for numbers, choices and answers.
        num_outputs: outputs of a classification or regression.
        scope: that of a classification or regression in TensorFlow's variables.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    num_outputs: int = 1
    scope: str = ""


def find_head(checkpoint: Checkpoint) -> ModelHead:
    """Return the head of a checkpoint: the one it was saved as, or its only one.

    Raises:
        ConfigError: it has no head, or several of which none is recorded.
        CheckpointError: it records labels that do not fit its head.
    """
    path, metadata = checkpoint.metadata.get("path", "checkpoint"), checkpoint.metadata
    heads = {
        kind: _describe(kind, checkpoint)
        for kind, name in _KERNELS.items()
        if name in checkpoint.tensors
    }
    for scope, saved in describe_heads(checkpoint).items():
        kind = saved.problem_type or (REGRESSION if saved.is_regression else SINGLE_LABEL)
        labels = () if kind == REGRESSION else _name(saved.labels, saved.num_outputs, path)
        heads[scope] = ModelHead(kind, labels, saved.num_outputs, scope)
    recorded = _ARCHITECTURES.get(str(metadata.get("architecture")), metadata.get("cls_scope"))
    if recorded in heads:
        return heads[recorded]
    if len(heads) == 1:
        return next(iter(heads.values()))
    if heads:
        raise ConfigError(f"{path}: has several heads: {', '.join(heads)}; save the one you need")
    raise ConfigError(
        f"{path}: has no head that predicts; name a model that classifier.py, squad.py, race.py "
        "or transformers fine-tuned"
    )


def _describe(kind: str, checkpoint: Checkpoint) -> ModelHead:
    if kind != TOKEN_CLASSIFICATION:
        return ModelHead(kind)
    count, metadata = checkpoint.tensors[_KERNELS[kind]].shape[-1], checkpoint.metadata
    return ModelHead(kind, _name(metadata.get("labels"), count, metadata.get("path")), count)


def _name(labels: Any, count: int, path: object) -> tuple[str, ...]:
    if labels is None:
        logger.warning("%s: does not name its labels: they are LABEL_0, LABEL_1, ...", path)
        return name_unnamed(count)
    if len(labels) != count or len(set(labels)) != count:
        raise CheckpointError(
            f"{path}: names {len(labels)} labels; a head of {count} outputs needs as many "
            "different names"
        )
    return tuple(labels)


def row_format(head: ModelHead, config: PredictorConfig) -> RowFormat:
    """Return how the outputs of a head become rows.

    Raises:
        ConfigError: a setting is for another head.
    """
    _check_head(head.problem_type, config)
    return RowFormat(head.problem_type, head.labels, config.write_logits, config.threshold)


def _check_head(problem_type: str, config: PredictorConfig) -> None:
    answering = ("na_threshold", "max_query_length", "doc_stride")
    given = {name: QUESTION_ANSWERING for name in answering if getattr(config, name) is not None}
    if config.threshold != PredictorConfig.threshold:
        given["threshold"] = MULTI_LABEL
    for name, wanted in given.items():
        if problem_type != wanted:
            raise ConfigError(f"{name} is for models of {wanted}; this one is of {problem_type}")


def encoding_config(
    checkpoint: Checkpoint, tokenizer: Tokenizer, model: ModelConfig, config: PredictorConfig
) -> EncodingConfig:
    """Return how inputs become sequences for a model, as in its training.

    Raises:
        ConfigError: the lengths do not fit the model.
    """
    directory = weights_directory(str(checkpoint.metadata.get("path", "")))
    recorded, where = recorded_lengths(directory)
    most = MAX_ABSOLUTE_POSITIONS if model.rel_attn_type == "null" else _DEFAULT_LENGTH
    chosen = {
        "max_length": most,
        **recorded,
        **{key: value for key in _RECORDED if (value := getattr(config, key, None)) is not None},
    }
    check_length(model, chosen["max_length"])
    warn_of_length(tokenizer, chosen["max_length"])
    if "max_length" in recorded and config.max_length is None:
        logger.info("%s: sequences of %d tokens, as in training", where, recorded["max_length"])
    tensors = checkpoint.tensors
    answers = AnswerSettings(
        conditional_end="model/end_logits/dense_0/kernel" in tensors,
        use_answer_class="model/answer_class/dense_0/kernel" in tensors,
    )
    return EncodingConfig(
        tokenizer,
        answers=answers,
        na_threshold=config.na_threshold,
        text_first=_is_of_transformers(checkpoint),
        **chosen,
    )


def recorded_lengths(directory: Path) -> tuple[dict[str, int], Path]:
    """Return the lengths that the run of a model recorded, and the file of that record.

    Args:
        directory: that of the weights.
    """
    for folder in (directory, directory.parent):
        path = folder / RUN_CONFIG
        if not path.is_file():
            continue
        settings: Mapping[str, Any] = read_json_object(path).get("settings", {})
        found = {
            key: settings[name]
            for key, names in _RECORDED.items()
            for name in names
            if isinstance(settings.get(name), int)
        }
        return found, path
    return {}, directory


def _is_of_transformers(checkpoint: Checkpoint) -> bool:
    """Return whether transformers wrote the model: this package also writes its own config."""
    directory = weights_directory(str(checkpoint.metadata.get("path", "")))
    is_ours = any((directory / name).is_file() for name in (NET_CONFIG, RUN_CONFIG))
    return checkpoint.metadata.get("kind") == "hf" and not is_ours
