"""Settings of SQuAD: files, windows, choice of answers, ensembles."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.heads import AnswerConfig
from funnel.config.inputs import SEGMENT_FLAGS, SegmentIds
from funnel.config.settings import group, like, setting
from funnel.utils.errors import ConfigError

VERSIONS = ("v1", "v2")


@dataclass(frozen=True)
class SquadFiles:
    """The files to train on and to answer, and the score that chooses a model."""

    train_file: str = setting("", "SQuAD JSON to train on", is_path=True)
    predict_file: str = setting("", "SQuAD JSON to answer", is_path=True)
    train_version: str = setting("v2", "v1: no unanswerable questions", choices=VERSIONS)
    eval_version: str = setting("v2", "version of predict_file and its metrics", choices=VERSIONS)
    predict_dir: str = setting(
        "", "directory of the answers; default: model_dir", affects_result=False
    )
    save_logits: bool = setting(
        False, "also write the scores of every window, logits.json", affects_result=False
    )
    target_eval_key: str = setting("best_f1", "score that chooses the best model; v1: f1")

    @property
    def target(self) -> str:
        """The score by which the best model is chosen."""
        return "f1" if self.eval_version == "v1" else self.target_eval_key


@dataclass(frozen=True)
class WindowConfig:
    """Windows of a question (segment ``b``) and a part of a paragraph (segment ``a``)."""

    max_seq_length: int = setting(512, "tokens per window, special symbols included")
    max_query_length: int = setting(64, "first tokens of a question kept")
    doc_stride: int = setting(128, "tokens between the starts of two windows of a paragraph")
    segments: SegmentIds = group("", SegmentIds, names=SEGMENT_FLAGS)

    def __post_init__(self) -> None:
        for key in ("max_query_length", "doc_stride"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 1")
        least = self.max_query_length + 4
        if self.max_seq_length < least:
            raise ConfigError(
                f"max_seq_length={self.max_seq_length}: at least {least} is needed for a question "
                f"of max_query_length={self.max_query_length}, three special symbols and a token "
                "of the paragraph"
            )


@dataclass(frozen=True)
class AnswerSettings:
    """Choice of answers from the outputs of the head (:class:`AnswerConfig`)."""

    n_best_size: int = setting(5, "answers kept per question")
    max_answer_length: int = setting(64, "tokens of the longest answer")
    conditional_end: bool = like(AnswerConfig, "conditional_end")
    use_answer_class: bool = like(AnswerConfig, "use_answer_class")


@dataclass(frozen=True)
class EnsembleSettings:
    """Several checkpoints that answer together."""

    do_ensemble: bool = setting(
        False, "average the answers of several checkpoints", affects_result=False
    )
    ensemble_ckpts: str | None = setting(None, "comma list of checkpoints", affects_result=False)
    ensemble_output_file: str = setting("", "JSON file of the answers", affects_result=False)
    na_threshold: float = setting(
        0.0, "no answer where the null odds exceed it", affects_result=False
    )
    search_threshold: bool = setting(
        False, "use the threshold that is best for F1 instead", affects_result=False
    )
