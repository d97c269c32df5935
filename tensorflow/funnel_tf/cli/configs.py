"""Build tokenizer, model configuration and recorded settings from the settings of a program.

Nothing here imports TensorFlow; :mod:`funnel_tf.cli.runs` does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funnel.checkpoints.locate import require_checkpoint
from funnel.checkpoints.vocabulary import check_vocabulary, find_vocabulary, fit_vocabulary
from funnel.cli.flags import split_list
from funnel.config import hub
from funnel.config.geometry import check_length
from funnel.config.inputs import SegmentIds
from funnel.config.model import NET_CONFIG, ModelConfig, find_config
from funnel.config.model_settings import ARCHITECTURE_FLAGS
from funnel.config.settings import result_affecting_config
from funnel.config.training.optimizer import ScheduleConfig
from funnel.formats.tensor_bundle import STATE_FILE
from funnel.tokenization import Tokenizer, choice
from funnel.tokenization.choice import weights_directory
from funnel.utils.errors import ConfigError
from funnel.utils.run_directory import is_inside, refuse_foreign_results
from funnel_tf.cli.programs import (
    ClassifierSettings,
    FineTuningSettings,
    PretrainSettings,
    ProgramSettings,
    RaceSettings,
    SquadSettings,
    TaggerSettings,
    TrainingSettings,
)

logger = logging.getLogger(__name__)


def check_model_dir(settings: FineTuningSettings) -> None:
    """Check the run directory, and that another one's results do not replace its own.

    Raises:
        ConfigError: there is none, and no checkpoints of another are evaluated either.
        RunError: see :func:`check_evaluated`.
    """
    run = settings.run
    if not (run.model_dir or (settings.eval_model_dir and not run.do_train)):
        raise ConfigError("--model_dir is needed")
    check_evaluated(settings, "eval_model_dir", settings.eval_model_dir)


def check_eval_split(settings: TrainingSettings, split: str, is_used: bool) -> None:
    """Refuse to evaluate on the training data while training.

    Both read one file of records, which training wants shuffled, and evaluation in order.

    Raises:
        ConfigError: says how to do it.
    """
    if settings.run.do_train and is_used and split == "train":
        raise ConfigError(
            "--eval_split=train: its records are shuffled to train on; evaluate on them "
            "afterwards, with --do_train=False"
        )


def check_patience(settings: TrainingSettings) -> None:
    """Refuse early stopping without evaluations.

    Raises:
        ConfigError: names the flag that is missing.
    """
    if not isinstance(settings, FineTuningSettings) or settings.economy.patience is None:
        return
    is_squad = isinstance(settings, SquadSettings)
    flag = "do_predict" if is_squad else "do_eval"
    evaluates = settings.task.do_predict if is_squad else settings.run.do_eval
    if not evaluates or not settings.training.save_steps:
        raise ConfigError(f"--patience: needs --{flag}, and --save_steps between the evaluations")


def check_evaluated(settings: TrainingSettings, flag: str, checkpoints: str | None) -> None:
    """Check that the results of checkpoints elsewhere do not replace those of the run.

    Args:
        settings: those of a program that writes results to --model_dir.
        flag: flag that names ``checkpoints``.
        checkpoints: the checkpoint or directory to evaluate; empty for those of the run.

    Raises:
        ConfigError: the run in --model_dir is trained now.
        RunError: --model_dir holds another run.
    """
    model_dir = settings.run.model_dir
    if not (checkpoints and model_dir):
        return
    if settings.run.do_train and not is_inside(checkpoints, model_dir):
        raise ConfigError(
            f"--{flag}={checkpoints}: goes without --do_train; its results would replace those of "
            "the run in --model_dir"
        )
    refuse_foreign_results(model_dir, checkpoints, "--model_dir")


def check_paths(settings: ProgramSettings) -> None:
    """Refuse checkpoints and configs that do not exist, before anything else is read.

    Raises:
        FunnelError: names the path, and where to get the checkpoint if that is known.
    """
    if isinstance(settings, SquadSettings) and settings.ensemble.do_ensemble:
        for member in split_list(settings.ensemble.ensemble_ckpts):
            require_checkpoint(member)
    if isinstance(settings, PretrainSettings) and settings.run.do_eval:
        require_checkpoint(settings.evaluation.eval_ckpt_path)
    if not isinstance(settings, TrainingSettings):
        return
    run = settings.run
    require_checkpoint(None, run.model_config)
    # A run that resumes has its own model: the initial one may be gone.
    resumes = (Path(run.model_dir or "") / STATE_FILE).is_file() and not run.overwrite_run
    if run.do_train and not resumes:
        require_checkpoint(run.init_checkpoint)


def open_tokenizer(
    settings: TrainingSettings,
    segments: SegmentIds | None = None,
    keep_accents: bool = False,
    weights: Sequence[str] = (),
) -> Tokenizer:
    """Open the tokenizer in a checkpoint's directory, or that of --tokenizer_path.

    What is recorded next to the weights (case, symbols, segment ids) precedes the defaults.

    Args:
        settings: those of a training program.
        segments: the program's segment ids.
        keep_accents: the program's flag.
        weights: checkpoints in use; default: the initial one of a training, else those of the run.

    Raises:
        ConfigError: there is no vocabulary, or a flag contradicts what is recorded.
    """
    run, path = settings.run, settings.tokenizer.tokenizer_path
    evaluated, start = (*settings.evaluated_paths, run.model_dir), _initial_weights(settings)
    places = (start,) if run.do_train else (*evaluated, start)
    if run.do_train and not path:
        places = (start, run.model_dir)
    directories = [weights_directory(place) for place in weights or places if place]
    request = settings.tokenizer.request(settings.given, segments, keep_accents)
    tokenizer = choice.open_tokenizer(request, directories)
    settings.vocabulary.check(tokenizer)
    return tokenizer


def _initial_weights(settings: TrainingSettings) -> str:
    """Return the initial checkpoint, a hub name as the directory of its download; may be empty."""
    path = settings.run.init_checkpoint
    return str(hub.resolve(path)) if path else ""


def model_config(settings: TrainingSettings, tokenizer: Tokenizer) -> ModelConfig:
    """Return the configuration of the model.

    It is read from --model_config, else from the directory of the weights (the initial ones;
    without training those of the run or to evaluate); without a file it consists of the model
    flags, as it does if these give the sizes of a model to train. The table of random weights fits
    the vocabulary. Off TPUs ``factorized`` attention becomes ``rel_shift``, which computes the same
    function faster there, unless it was requested.

    Raises:
        ConfigError: a key is unknown, or the vocabulary does not fit.
    """
    run = settings.run
    path = run.model_config or _find_config(settings)
    config, is_requested = _read_config(settings, path, tokenizer.vocab_size)
    if run.do_train and not run.init_checkpoint:
        config = _fit_vocabulary(settings, config, tokenizer)
    if config.rel_attn_type == "factorized" and not settings.devices.use_tpu and not is_requested:
        config = config.replace(rel_attn_type="rel_shift")
    check_length(config, max_length(settings))
    choice.warn_of_length(tokenizer, max_length(settings))
    start = _initial_weights(settings)
    check_vocabulary(
        config,
        tokenizer.path,
        tokenizer.vocab_size,
        pretrained=bool(start),
        pretrained_vocab=find_vocabulary(weights_directory(start)) if start else None,
    )
    return config


def _find_config(settings: TrainingSettings) -> str:
    """Return the config file in the directory of the weights, empty if there is none."""
    run = settings.run
    if not run.do_train:
        places = [place for place in (*settings.evaluated_paths, run.model_dir) if place]
        recorded = [weights_directory(place) / NET_CONFIG for place in places]
        return next((str(file) for file in recorded if file.is_file()), "")
    # Sizes on the command line say what the model is, as in the original.
    if not run.init_checkpoint or settings.given & set(ARCHITECTURE_FLAGS):
        return ""
    # The initial checkpoint of a run that resumes may be gone.
    for place in (weights_directory(_initial_weights(settings)), Path(run.model_dir or "")):
        with contextlib.suppress(ConfigError):
            found = find_config(place)
            logger.info("%s: configuration of the model", found)
            return str(found)
    return ""


def _fit_vocabulary(
    settings: TrainingSettings, config: ModelConfig, tokenizer: Tokenizer
) -> ModelConfig:
    """Return the configuration of a model that starts from random weights."""
    recorded = Path(settings.run.model_dir or "") / NET_CONFIG
    if (recorded.parent / STATE_FILE).is_file() and recorded.is_file():
        # A run that resumes keeps its table.
        return config.replace(vocab_size=ModelConfig.load(recorded).vocab_size)
    return fit_vocabulary(config, tokenizer.vocab_size, tokenizer.path)


def max_length(settings: TrainingSettings) -> int:
    """Return the length in tokens of the sequences of a program."""
    if isinstance(settings, PretrainSettings):
        return settings.task.seq_len
    if isinstance(settings, SquadSettings):
        return settings.windows.max_seq_length
    if isinstance(settings, RaceSettings):
        return settings.sequences.max_seq_length
    if isinstance(settings, TaggerSettings):
        return settings.windows.max_length
    assert isinstance(settings, ClassifierSettings)
    return settings.classification.max_seq_length


def _read_config(
    settings: TrainingSettings, path: str, vocab_size: int
) -> tuple[ModelConfig, bool]:
    """Return the configuration, and whether its attention type was set on the command line."""
    model = settings.model
    values = settings.sizes.sizes() | {
        "rel_attn_type": model.rel_attn_type,
        "truncate_seq": model.truncate_seq,
        "vocab_size": vocab_size,
    }
    keys = split_list(model.overwrite_keys)
    if unknown := [key for key in keys if key not in values]:
        raise ConfigError(f"--overwrite_keys: {unknown[0]!r} is no setting of a model")
    if not path:
        return ModelConfig(**values), "rel_attn_type" in settings.given
    unused = settings.given & set(values) - {*keys, "truncate_seq", "vocab_size"}
    if unused:
        logger.warning(
            "%s decides the model: --%s is not used (--overwrite_keys=%s makes it count)",
            *(path, ", --".join(sorted(unused)), ",".join(sorted(unused))),
        )
    config = ModelConfig.load(path).replace(**{key: values[key] for key in keys})
    # A run-time switch that no net_config.json holds: a flag given changes it without being listed.
    if "truncate_seq" in settings.given:
        config = config.replace(truncate_seq=model.truncate_seq)
    return config, "rel_attn_type" in keys


def schedule_config(settings: TrainingSettings) -> ScheduleConfig:
    """Return the learning rate over steps; the final one is given relative to the peak.

    Raises:
        ConfigError: a value is out of range.
    """
    training, update = settings.training, settings.update
    return ScheduleConfig(
        lr=training.learning_rate,
        total_steps=training.train_steps,
        warmup_steps=training.warmup_steps,
        min_lr=update.min_lr_ratio * training.learning_rate,
        decay_method=update.decay_method,
    )


def recorded_settings(settings: ProgramSettings) -> dict[str, Any]:
    """Return the flags that decide the result of a run: two runs are the same if these are."""
    found = result_affecting_config(settings, os.path.abspath)
    # The training file of a custom task may also be an absolute path, which stays one.
    if found.get("train_file"):
        found["train_file"] = os.path.abspath(found["train_file"])
    if isinstance(settings, PretrainSettings):
        found["num_predict"] = settings.targets.count(settings.task.seq_len)
    if found.get("record_dir"):
        found["record_dir"] = [os.path.abspath(d) for d in found["record_dir"].split(",")]
    return found


def choose_seed(seed: int | None, recorded: int | None = None) -> int:
    """Return the seed a run was started with, else the one given, else a random one."""
    drawn = secrets.randbelow(2**31) if seed is None else seed
    return drawn if recorded is None else recorded
