"""What the flags of ``squad.py`` mean: files, windows, answers, members of an ensemble."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from funnel.config.heads import AnswerConfig
from funnel.config.model import NET_CONFIG
from funnel.features.squad import WindowConfig
from funnel.features.squad_predictions import AnswerSettings
from funnel.features.squad_tfrecords import SquadSource
from funnel.formats.tensor_bundle import resolve_prefix
from funnel.tasks.squad import VERSIONS
from funnel.utils.errors import ConfigError
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli.flags import Flags

_DEBUG_EXAMPLES = 100
_AT_LEAST_1 = ("start_n_top", "end_n_top", "n_best_size", "max_answer_length", "num_proc")


def check(flags: Flags) -> None:
    """Refuse what cannot work, before any file is read."""
    for name in _AT_LEAST_1:
        if getattr(flags, name) < 1:
            raise ConfigError(f"--{name}={getattr(flags, name)}: must be at least 1")
    for name in ("train_version", "eval_version"):
        if getattr(flags, name) not in VERSIONS:
            allowed = " or ".join(VERSIONS)
            raise ConfigError(f"--{name}={getattr(flags, name)}: should be {allowed}")
    if flags.prepro_split not in (None, "", "train", "eval"):
        raise ConfigError(f"--prepro_split={flags.prepro_split}: should be train or eval")
    tf_flags.check_given(flags, "output_dir", *_needed(flags))


def _needed(flags: Flags) -> list[str]:
    """The flags that must be given for what is to be done."""
    if flags.prepro_split:
        return ["train_file" if flags.prepro_split == "train" else "predict_file"]
    if flags.do_ensemble:
        if flags.do_train or flags.do_predict:
            raise ConfigError("--do_ensemble goes without --do_train and --do_predict")
        return ["ensemble_ckpts", "predict_file", "ensemble_output_file"]
    if not (flags.do_train or flags.do_predict):
        raise ConfigError(
            "nothing to do: --do_train, --do_predict or both, --do_ensemble or --prepro_split"
        )
    files = [("train_file", flags.do_train), ("predict_file", flags.do_predict)]
    return ["model_dir", *(name for name, is_needed in files if is_needed)]


def source(flags: Flags, split: str) -> SquadSource:
    """The questions of ``train`` or ``eval`` and how they are cut."""
    windows = WindowConfig(
        *(flags.max_seq_length, flags.max_query_length, flags.doc_stride),
        tf_flags.segment_ids(flags),
    )
    is_train = split == "train"
    return SquadSource(
        flags.train_file if is_train else flags.predict_file,
        flags.train_version if is_train else flags.eval_version,
        windows,
        limit=_DEBUG_EXAMPLES if flags.debug_mode else None,
    )


def answer_config(flags: Flags) -> AnswerConfig:
    """How the model finds answers."""
    return AnswerConfig(**_named(flags, AnswerConfig))


def answer_settings(flags: Flags) -> AnswerSettings:
    """How answers are chosen from what it finds."""
    return AnswerSettings(**_named(flags, AnswerSettings))


def _named(flags: Flags, kind: type) -> dict[str, object]:
    """The flags that bear the names of a configuration's fields."""
    return {field.name: getattr(flags, field.name) for field in fields(kind)}


def target(flags: Flags) -> str:
    """The score by which the best checkpoint is chosen."""
    return "f1" if flags.eval_version == "v1" else flags.target_eval_key


def members(flags: Flags) -> list[tuple[Flags, Path]]:
    """The checkpoints of an ensemble, each with flags that describe its model.

    Without --model_config that is the net_config.json beside it.

    Raises:
        ConfigError: the list names no checkpoint.
    """
    paths = [path.strip() for path in flags.ensemble_ckpts.split(",") if path.strip()]
    if not paths:
        raise ConfigError(f"--ensemble_ckpts={flags.ensemble_ckpts}: names no checkpoint")
    found = []
    for prefix in map(resolve_prefix, paths):
        changes = {"init_checkpoint": str(prefix)}
        beside = prefix.parent / NET_CONFIG
        if not flags.model_config and beside.is_file():
            changes["model_config"] = str(beside)
        found.append((Flags(**vars(flags) | changes), prefix))
    return found
