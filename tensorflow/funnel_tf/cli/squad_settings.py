"""What the flags of ``squad.py`` mean: files, windows, answers, members of an ensemble."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from funnel.config.heads import AnswerConfig
from funnel.config.model import NET_CONFIG
from funnel.features.squad import WindowConfig
from funnel.features.squad_cache import SquadSource
from funnel.features.squad_predictions import AnswerSettings
from funnel.features.squad_settings import EnsembleSettings, SquadSettings
from funnel.formats.tensor_bundle import resolve_prefix
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli.flags import Flags


def check(flags: Flags) -> None:
    """Refuse what cannot work, before any file is read."""
    settings = squad_settings(flags)
    settings.check(answer_config(flags), answer_settings(flags))
    required = settings.required_flags(ensemble_settings(flags))
    # Only a run of training or prediction has a directory of its own.
    is_run = not (flags.prepro_split or flags.do_ensemble)
    tf_flags.check_given(flags, "output_dir", *(["model_dir"] if is_run else []), *required)


def squad_settings(flags: Flags) -> SquadSettings:
    """Return the files of the run and the work to do."""
    return SquadSettings(**_named(flags, SquadSettings))


def ensemble_settings(flags: Flags) -> EnsembleSettings:
    """Return the members of an ensemble and its threshold."""
    return EnsembleSettings(**_named(flags, EnsembleSettings))


def source(flags: Flags, split: str) -> SquadSource:
    """The questions of ``train`` or ``eval`` and how they are cut."""
    windows = WindowConfig(
        *(flags.max_seq_length, flags.max_query_length, flags.doc_stride),
        tf_flags.segment_ids(flags),
    )
    return squad_settings(flags).build_source(split, windows)


def answer_config(flags: Flags) -> AnswerConfig:
    """How the model finds answers."""
    return AnswerConfig(**_named(flags, AnswerConfig))


def answer_settings(flags: Flags) -> AnswerSettings:
    """How answers are chosen from what it finds."""
    return AnswerSettings(**_named(flags, AnswerSettings))


def _named(flags: Flags, kind: type) -> dict[str, object]:
    """The flags that bear the names of a configuration's fields."""
    return {field.name: getattr(flags, field.name) for field in fields(kind)}


def members(flags: Flags) -> list[tuple[Flags, Path]]:
    """The checkpoints of an ensemble, each with flags that describe its model.

    Without --model_config that is the net_config.json beside it.

    Raises:
        ConfigError: the list names no checkpoint.
    """
    found = []
    for prefix in map(resolve_prefix, ensemble_settings(flags).checkpoints()):
        changes = {"init_checkpoint": str(prefix)}
        beside = prefix.parent / NET_CONFIG
        if not flags.model_config and beside.is_file():
            changes["model_config"] = str(beside)
        found.append((Flags(**vars(flags) | changes), prefix))
    return found
