"""The command lines of the TensorFlow programs, and the settings they stand for.

Flags follow absl's conventions (``--name=value``, ``--name``, ``--noname``, ``--flagfile=FILE``);
what a program parsed becomes small configuration objects, which is all the library ever sees.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags as absl_flags

from funnel.checkpoints.base import find_vocabulary
from funnel.config.model import ModelConfig
from funnel.config.optimizer import OptimizerConfig, ScheduleConfig
from funnel.features.classification import SegmentIds
from funnel.tasks import CustomTaskConfig, CustomTaskSettings
from funnel.tokenization import Tokenizer, get_tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.files import sha256_file
from funnel_tf.cli.flag_groups import PROGRAMS, FlagSet

logger = logging.getLogger(__name__)

Flags = SimpleNamespace

_HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")
# Flags that change how or where a run happens, but not what comes out: they may differ when a
# killed run goes on.
RUNTIME_FLAGS = frozenset(
    (
        *("model_dir", "output_dir", "overwrite_data", "submit_dir", "tokenizer_path", "verbose"),
        *("do_train", "do_eval", "do_predict", "do_submit", "overwrite", "overwrite_run"),
        *("save_steps", "max_save", "log_freq", "iterations", "retain_all", "retain_best"),
        *("eval_split", "eval_batch_size", "predict_batch_size", "eval_model_dir"),
        *("eval_all_ckpt", "eval_start_step", "eval_end_step", "start_eval_steps"),
        "max_eval_batch",
        *("eval_ckpt_path", "use_tpu", "num_hosts", "num_core_per_host", "tpu", "tpu_zone"),
        *("gcp_project", "tpu_job_name", "master", "debug_mode", "predict_dir", "predict_file"),
        *("do_ensemble", "ensemble_ckpts", "ensemble_output_file", "na_threshold"),
        *("search_threshold", "target_eval_key", "prepro_split", "num_proc", "proc_id", "seed"),
    )
)
_PATHS = ("data_dir", "init_checkpoint", "model_config", "train_file", "eval_model_dir")


def flag_set(program: str) -> FlagSet:
    """The flags of a program by its name without ``.py``."""
    flags = FlagSet()
    PROGRAMS[program](flags)
    return flags


def parse(program: str, description: str, arguments: Sequence[str] | None = None) -> Flags:
    """Read the command line of a program; its flags by name, and in ``given`` the names used.

    ``--help`` prints the flags by topic and ends the program.

    Raises:
        ConfigError: an unknown flag, a wrong value or an argument that is no flag.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = flag_set(program)
    if any(argument in _HELP for argument in arguments):
        print(help_text(program, description, flags))
        sys.exit(0)
    values = flags.values
    try:
        rest = values([program, *arguments])[1:]
    except absl_flags.Error as error:
        raise ConfigError(f"{str(error).strip()} (--help lists all flags)") from None
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag; values are given as --name=value")
    names = [name for _, group in flags.groups for name in group]
    found = Flags(**{name: values[name].value for name in names})
    found.given = frozenset(name for name in names if values[name].present)
    return found


def help_text(program: str, description: str, flags: FlagSet) -> str:
    """The description and all flags, common ones first."""
    lines = [f"usage: {program}.py [--flag=value ...]", "", description.strip()]
    for title, names in flags.groups:
        lines += ["", f"{title}:"]
        for name in names:
            flag = flags.values[name]
            choices = f" ({', '.join(flag.parser.enum_values)})" if _has_choices(flag) else ""
            shown = "" if flag.value in (None, "") else f" [{flag.value}]"
            lines.append(f"  --{name:<22} {flag.help}{choices}{shown}")
    return "\n".join(lines)


def _has_choices(flag: Any) -> bool:
    return isinstance(flag, absl_flags.EnumFlag)


def check_given(flags: Flags, *names: str) -> None:
    """Refuse to go on without these flags."""
    for name in names:
        if not getattr(flags, name):
            raise ConfigError(f"--{name} is needed")


def load_tokenizer(flags: Flags, **options: Any) -> Tokenizer:
    """The tokenizer named, else of the vocabulary beside the weights to start from.

    Raises:
        ConfigError: there is none, or a special id given is another than the tokenizer's.
    """
    path = flags.tokenizer_path
    if not path:
        places = (getattr(flags, "init_checkpoint", ""), getattr(flags, "model_dir", ""))
        found = [find_vocabulary(_folder(place)) for place in places if place]
        path = next((str(vocabulary) for vocabulary in found if vocabulary), "")
    if not path:
        raise ConfigError("--tokenizer_path is needed: no vocabulary lies beside the weights")
    tokenizer = get_tokenizer(flags.tokenizer_type, path, uncased=flags.uncased, **options)
    for name in ("bos", "cls", "eod", "eop", "eos", "mask", "pad", "sep", "unk"):
        given, known = getattr(flags, f"{name}_id"), getattr(tokenizer.special, f"{name}_id")
        if given is not None and given != known:
            raise ConfigError(f"--{name}_id={given}: in {path} it is {known}")
    return tokenizer


def _folder(place: str) -> Path:
    return Path(place) if os.path.isdir(place) else Path(place).parent


def model_config(flags: Flags, tokenizer: Tokenizer) -> ModelConfig:
    """The model's configuration: the file given (or, to look at a run, its own), else the flags.

    Off TPUs ``factorized`` attention becomes ``rel_shift``, the same function, unless asked for.

    Raises:
        ConfigError: a key is unknown, or the vocabulary does not fit.
    """
    if flags.vocab_size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"--vocab_size={flags.vocab_size}: {tokenizer.path} holds {tokenizer.vocab_size} tokens"
        )
    path = flags.model_config
    own = Path(flags.model_dir or "") / "net_config.json"
    if not path and not flags.do_train and own.is_file():
        path = str(own)
    config, asked = _config_of(flags, path, tokenizer.vocab_size)
    if config.rel_attn_type == "factorized" and not flags.use_tpu and not asked:
        config = config.replace(rel_attn_type="rel_shift")
    check_vocabulary(config, tokenizer, flags.init_checkpoint)
    return config


def _config_of(flags: Flags, path: str, vocab_size: int) -> tuple[ModelConfig, bool]:
    """The configuration, and whether its form of attention was asked for on the command line."""
    keys = ModelConfig(vocab_size).to_dict().keys() & vars(flags).keys()
    values = {key: getattr(flags, key) for key in keys} | {"vocab_size": vocab_size}
    overwrite = [key.strip() for key in flags.overwrite_keys.split(",") if key.strip()]
    if unknown := [key for key in overwrite if key not in values]:
        raise ConfigError(f"--overwrite_keys: {unknown[0]!r} is no setting of a model")
    if not path:
        return ModelConfig(**values), "rel_attn_type" in flags.given
    config = ModelConfig.load(path).replace(**{key: values[key] for key in overwrite})
    if "truncate_seq" in flags.given:
        config = config.replace(truncate_seq=flags.truncate_seq)
    return config, "rel_attn_type" in overwrite


def check_vocabulary(
    config: ModelConfig, tokenizer: Tokenizer, init_checkpoint: str | None
) -> None:
    """Refuse a vocabulary whose ids mean something else to the model.

    A fresh model may have room for more tokens than there are; a trained one may only if it was
    trained with this very file, which then lies beside it.
    """
    size, room = tokenizer.vocab_size, config.vocab_size
    if size == room:
        return
    told = f"{tokenizer.path}: {size} tokens, but the model's vocab_size is {room}"
    if size > room:
        hint = "" if init_checkpoint else "; --overwrite_keys=vocab_size makes it fit"
        raise ConfigError(told + hint)
    if init_checkpoint:
        beside = find_vocabulary(_folder(init_checkpoint))
        if beside is None or sha256_file(beside) != sha256_file(tokenizer.path):
            raise ConfigError(f"{told}; use the vocabulary of the checkpoint")
    logger.info("%s: the other rows of the table stay unused", told)


def segment_ids(flags: Flags) -> SegmentIds:
    """Segment id of each part of a sequence."""
    return SegmentIds(flags.seg_id_cls, flags.seg_id_a, flags.seg_id_b, flags.seg_id_pad)


def custom_task_config(flags: Flags) -> CustomTaskConfig | None:
    """Return the layout of the user's own files; None for a known task."""
    names = {field.name for field in fields(CustomTaskSettings)} & vars(flags).keys()
    settings = CustomTaskSettings(**{name: getattr(flags, name) for name in names})
    return settings.build_config(flags.task_name)


def optimizer_config(flags: Flags) -> OptimizerConfig:
    """How parameters are updated."""
    return OptimizerConfig(
        name="funnel_adamw",
        beta1=flags.adam_beta1,
        beta2=flags.adam_beta2,
        epsilon=flags.adam_epsilon,
        weight_decay=flags.weight_decay,
        use_wd_exclusion=flags.use_wd_exclusion,
        adam_correction=flags.adam_correction,
        layer_decay_rate=flags.lr_layer_decay_rate,
        layer_decay=flags.layer_decay,
        clip=flags.clip,
    )


def schedule_config(flags: Flags) -> ScheduleConfig:
    """The learning rate over steps."""
    if not 0.0 <= flags.min_lr_ratio <= 1.0:
        raise ConfigError(f"--min_lr_ratio={flags.min_lr_ratio}: must be from 0 to 1")
    return ScheduleConfig(
        lr=flags.learning_rate,
        total_steps=flags.train_steps,
        warmup_steps=flags.warmup_steps,
        min_lr=flags.min_lr_ratio * flags.learning_rate,
        decay_method=flags.decay_method,
    )


def result_affecting_config(flags: Flags) -> dict[str, Any]:
    """The flags that decide what comes out of a run: two runs are the same if these are."""
    skipped = RUNTIME_FLAGS | {"given"}
    settings = {key: value for key, value in vars(flags).items() if key not in skipped}
    for key in _PATHS:
        if settings.get(key):
            settings[key] = os.path.abspath(settings[key])
    if settings.get("record_dir"):
        settings["record_dir"] = [os.path.abspath(d) for d in settings["record_dir"].split(",")]
    return settings


def new_seed(flags: Flags, recorded: int | None = None) -> int:
    """The seed of a run: the one it began with, else the one given, else a drawn one."""
    drawn = secrets.randbelow(2**31) if flags.seed is None else flags.seed
    return drawn if recorded is None else recorded
