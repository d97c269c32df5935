"""The flags of ``squad.py`` besides those of every program, and the settings they stand for."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from funnel.features.squad import WindowConfig
from funnel.features.squad_cache import SquadSource
from funnel.features.squad_predictions import AnswerSettings
from funnel.features.squad_settings import EnsembleSettings, SquadSettings
from funnel.tasks.squad import VERSIONS
from funnel.utils.errors import ConfigError
from funnel_torch.cli import flags
from funnel_torch.models.question_answering import AnswerConfig

# Flags of this program that may differ when a run is resumed.
RUNTIME_FLAGS = ("prepro_split", "num_proc")
_FILES = {"train": "train_file", "eval": "predict_file"}


def squad_parser(description: str) -> flags.FlagParser:
    """All flags, common ones first."""
    parser = flags.FlagParser(description)
    flag = parser.add_argument_group("what to run").add_argument
    flag("--do_train", action="store_true", help="train; scored on predict_file, if given")
    flag("--do_predict", action="store_true", help="write the answers to predict_file")
    flag("--train_file", default="", help="SQuAD JSON to train on")
    flag("--predict_file", default="", help="SQuAD JSON to answer")
    flag("--train_version", default="v2", choices=VERSIONS, help="v1: no unanswerable questions")
    flag("--eval_version", default="v2", choices=VERSIONS, help="the same of predict_file; metrics")
    flag("--predict_dir", default="", help="where answers go; default model_dir")
    flag("--target_eval_key", default="best_f1", help="score of the best model; with v1 always f1")
    same = {"type": int, "dest": "valid_bsz", "default": argparse.SUPPRESS}
    flag("--predict_batch_size", "--eval_batch_size", **same, help="other names of valid_bsz")
    flags.add_run_flags(flag)
    _add_data_flags(parser)
    _add_answer_flags(parser)
    _add_ensemble_flags(parser)
    flags.add_common_flags(parser)
    return parser


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("text to tokens").add_argument
    flag("--max_length", "--max_seq_length", type=int, default=512, help="tokens per window")
    flags.add_token_flags(flag)
    flag("--output_dir", default="", help="cache of tokenized files; empty: none")
    flag("--overwrite_data", action="store_true", help="rebuild that cache")
    flag("--prepro_split", choices=["train", "eval"], help="only put this file into the cache")
    flag("--num_proc", type=int, default=1, help="processes that tokenize; pays for huge files")
    flag("--debug_mode", action="store_true", help="only the first 100 questions of a file")


def _add_answer_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("windows and answers").add_argument
    switch = {"action": argparse.BooleanOptionalAction, "default": True}
    flag("--max_query_length", type=int, default=64, help="first tokens of a question kept")
    flag("--doc_stride", type=int, default=128, help="tokens between windows of a paragraph")
    flag("--keep_accents", action="store_true", help="SentencePiece: leave accents in the text")
    flag("--conditional_end", **switch, help="ends depend on the start")
    flag("--use_answer_class", **switch, help="an output of its own for: no answer")
    flag("--use_masked_loss", **switch, help="answers can be in the paragraph only")
    flag("--ans_loss_weight", type=float, default=0.5, help="factor on start plus end loss")
    flag("--cls_loss_weight", type=float, default=0.5, help="factor on the no-answer loss")
    flag("--start_n_top", type=int, default=5, help="starts kept")
    flag("--end_n_top", type=int, default=5, help="ends kept, for each start if they depend on it")
    flag("--n_best_size", type=int, default=5, help="answers kept for each question")
    flag("--max_answer_length", type=int, default=64, help="longest answer in tokens")


def _add_ensemble_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("several models together").add_argument
    flag("--do_ensemble", action="store_true", help="average the answers of checkpoints")
    flag("--ensemble_ckpts", help="comma list of them")
    flag("--ensemble_output_file", default="", help="JSON for the answers")
    flag("--na_threshold", type=float, default=0.0, help="null odds above this: no answer")
    flag("--search_threshold", action="store_true", help="the threshold best for F1 instead")


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot work, before any file is read."""
    settings = squad_settings(args)
    settings.check(answer_config(args), answer_settings(args))
    window_config(args)
    required = settings.required_flags(ensemble_settings(args))
    if settings.prepro_split:
        flags.check_given(args, "output_dir", *required)
        return
    flags.check_given(args, *required)
    if args.do_ensemble:
        flags.check_run_flags(members(args)[0], trains=False, only="--do_ensemble")
        return
    if args.do_predict and not (args.predict_dir or args.model_dir):
        raise ConfigError("--predict_dir or --model_dir is needed: answers are written there")
    flags.check_run_flags(args, trains=args.do_train, only="--do_predict")


def squad_settings(args: argparse.Namespace) -> SquadSettings:
    """Return the files of the run and the work to do."""
    return SquadSettings(**_named(args, SquadSettings))


def ensemble_settings(args: argparse.Namespace) -> EnsembleSettings:
    """Return the members of an ensemble and its threshold."""
    return EnsembleSettings(**_named(args, EnsembleSettings))


def _named(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Return the flags with the names of a settings class's fields."""
    return {field.name: getattr(args, field.name) for field in fields(kind)}


def members(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The same flags for every checkpoint of an ensemble.

    Raises:
        ConfigError: there is no checkpoint in the list.
    """
    paths = ensemble_settings(args).checkpoints()
    return [argparse.Namespace(**vars(args) | {"init_ckpt": path}) for path in paths]


def run_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the result of a run."""
    settings = flags.result_affecting_config(args, tuple(_FILES.values()))
    return {name: value for name, value in settings.items() if name not in RUNTIME_FLAGS}


def window_config(args: argparse.Namespace) -> WindowConfig:
    segments = flags.segment_ids(args)
    return WindowConfig(args.max_length, args.max_query_length, args.doc_stride, segments)


def source(args: argparse.Namespace, split: str) -> SquadSource:
    """The file of ``split`` (train or eval) and how it is cut."""
    settings = squad_settings(args)
    return settings.build_source(split, window_config(args), overwrite=args.overwrite_data)


def answer_config(args: argparse.Namespace) -> AnswerConfig:
    return AnswerConfig(**_named(args, AnswerConfig))


def answer_settings(args: argparse.Namespace) -> AnswerSettings:
    return AnswerSettings(**_named(args, AnswerSettings))
