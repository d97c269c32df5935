"""The settings of every TensorFlow program: its flags, in the order of ``--help``.

Each field is a group of flags; values that differ from the defaults of a class are given here.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.absl_logging import AbslLogging
from funnel.cli.create_pretrain_data import CreateDataSettings, VocabularyCheck
from funnel.cli.feature_extraction import ExtractionSettings
from funnel.cli.predict import PredictSettings
from funnel.config.heads import AnswerConfig, PretrainingConfig
from funnel.config.inputs import (
    SEGMENT_FLAGS,
    CustomTaskSettings,
    RaceConfig,
    SegmentIds,
    TokenizerSettings,
)
from funnel.config.model_settings import ModelSettings
from funnel.config.predictions import PredictionSettings
from funnel.config.pretraining import TargetSettings
from funnel.config.settings import group, setting
from funnel.config.squad import AnswerSettings, EnsembleSettings, SquadFiles, WindowConfig
from funnel.config.tagging import DecoderSettings, TaggingFiles, TaggingWindows
from funnel.config.training.economy import EconomySettings
from funnel.config.training.losses import LossSettings
from funnel.config.training.optimizer import OPTIMIZER_FLAGS, OptimizerConfig
from funnel.config.training.series import SeriesSettings
from funnel_tf.cli.options import (
    ClassifierOptions,
    ClassifierTask,
    DeviceOptions,
    EvaluationOptions,
    InputOptions,
    LogOptions,
    ModelOptions,
    PretrainEvaluation,
    PretrainTask,
    RaceOptions,
    RaceTask,
    RecordFileOptions,
    RunOptions,
    SquadOptions,
    SquadTask,
    SweepOptions,
    TaggerOptions,
    TaggerTask,
    TrainingOptions,
    UpdateOptions,
)

_TASK = "task"
_QUESTIONS = "questions and answers"
_OPTIMIZER = "optimizer, in detail"
_MASKING = "masking and objective"
_MODEL = "model (without --model_config, or named in --overwrite_keys)"
_MESSAGES = "messages"
_COLUMNS = "own data (--task_name=tsv|csv|jsonl|json|parquet); all new"

_TOKENIZER = {"tokenizer_path": ""}
# The original's default model is smaller than the released ones.
_SIZES = {
    "block_size": "3_3_3",
    "decoder_size": "2",
    "d_model": 512,
    "d_embed": 512,
    "n_head": 8,
    "d_inner": 2048,
}
# The update rule is the original's, whichever defaults the optimizer has elsewhere.
_ADAM = {"name": "funnel_adamw", "weight_decay": 0.0}


@dataclass(frozen=True)
class ProgramSettings:
    """Settings of any program; ``given`` are the names of the flags set on the command line."""

    given: frozenset[str] = frozenset()

    @property
    def verbose(self) -> bool:
        """Whether TensorFlow's own messages are shown."""
        raise NotImplementedError


class TrainingSettings(ProgramSettings):
    """Groups that all training programs have; each declares them with its own defaults."""

    run: RunOptions
    training: TrainingOptions
    tokenizer: TokenizerSettings
    vocabulary: VocabularyCheck
    devices: DeviceOptions
    optimizer: OptimizerConfig
    update: UpdateOptions
    sizes: ModelSettings
    model: ModelOptions
    absl: AbslLogging

    @property
    def verbose(self) -> bool:
        """Whether TensorFlow's own messages are shown."""
        return self.run.verbose or self.absl.verbose

    @property
    def evaluated_paths(self) -> tuple[str, ...]:
        """Checkpoints to evaluate that are not in the run directory, or their directories."""
        return ()


class FineTuningSettings(TrainingSettings):
    """Groups that all fine-tuning programs have."""

    records: RecordFileOptions
    sweep: SweepOptions
    series: SeriesSettings
    economy: EconomySettings

    @property
    def eval_model_dir(self) -> str:
        """Directory of the checkpoints to evaluate, if it is not the run directory."""
        return ""

    @property
    def evaluated_paths(self) -> tuple[str, ...]:
        """Checkpoints to evaluate that are not in the run directory, or their directories."""
        return (self.eval_model_dir,)


@dataclass(frozen=True)
class ClassifierSettings(FineTuningSettings):
    """Settings of ``classifier.py``."""

    task: ClassifierTask = group(_TASK, ClassifierTask)
    predictions: PredictionSettings = group(_TASK, PredictionSettings)
    run: RunOptions = group("run", RunOptions)
    series: SeriesSettings = group("run", SeriesSettings)
    evaluation: EvaluationOptions = group("evaluation", EvaluationOptions)
    training: TrainingOptions = group("training", TrainingOptions)
    economy: EconomySettings = group("training", EconomySettings)
    records: RecordFileOptions = group("record files", RecordFileOptions)
    sweep: SweepOptions = group("checkpoints to evaluate", SweepOptions)
    classification: ClassifierOptions = group("classification", ClassifierOptions)
    losses: LossSettings = group("training", LossSettings)
    columns: CustomTaskSettings = group(_COLUMNS, CustomTaskSettings)
    tokenizer: TokenizerSettings = group("tokens", TokenizerSettings, defaults=_TOKENIZER)
    segments: SegmentIds = group("tokens", SegmentIds, names=SEGMENT_FLAGS)
    vocabulary: VocabularyCheck = group("tokens", VocabularyCheck)
    devices: DeviceOptions = group("devices", DeviceOptions)
    optimizer: OptimizerConfig = group(
        _OPTIMIZER, OptimizerConfig, names=OPTIMIZER_FLAGS, defaults=_ADAM, omit=("name",)
    )
    update: UpdateOptions = group(_OPTIMIZER, UpdateOptions)
    sizes: ModelSettings = group(_MODEL, ModelSettings, defaults=_SIZES, omit=("model_size",))
    model: ModelOptions = group(_MODEL, ModelOptions)
    absl: AbslLogging = group(_MESSAGES, AbslLogging)

    @property
    def eval_model_dir(self) -> str:
        """Directory of the checkpoints to evaluate, if it is not the run directory."""
        return self.evaluation.eval_model_dir


@dataclass(frozen=True)
class RaceSettings(FineTuningSettings):
    """Settings of ``race.py``."""

    task: RaceTask = group(_TASK, RaceTask)
    predictions: PredictionSettings = group(_TASK, PredictionSettings)
    run: RunOptions = group("run", RunOptions)
    series: SeriesSettings = group("run", SeriesSettings)
    evaluation: EvaluationOptions = group(
        "evaluation", EvaluationOptions, defaults={"eval_batch_size": 128}
    )
    training: TrainingOptions = group("training", TrainingOptions)
    economy: EconomySettings = group("training", EconomySettings, omit=("dev_fraction",))
    records: RecordFileOptions = group("record files", RecordFileOptions)
    sweep: SweepOptions = group("checkpoints to evaluate", SweepOptions)
    sequences: RaceConfig = group("race", RaceConfig)
    race: RaceOptions = group("race", RaceOptions)
    tokenizer: TokenizerSettings = group("tokens", TokenizerSettings, defaults=_TOKENIZER)
    vocabulary: VocabularyCheck = group("tokens", VocabularyCheck)
    devices: DeviceOptions = group("devices", DeviceOptions)
    optimizer: OptimizerConfig = group(
        _OPTIMIZER, OptimizerConfig, names=OPTIMIZER_FLAGS, defaults=_ADAM, omit=("name",)
    )
    update: UpdateOptions = group(_OPTIMIZER, UpdateOptions)
    sizes: ModelSettings = group(_MODEL, ModelSettings, defaults=_SIZES, omit=("model_size",))
    model: ModelOptions = group(_MODEL, ModelOptions)
    absl: AbslLogging = group(_MESSAGES, AbslLogging)

    @property
    def eval_model_dir(self) -> str:
        """Directory of the checkpoints to evaluate, if it is not the run directory."""
        return self.evaluation.eval_model_dir


@dataclass(frozen=True)
class TaggerSettings(FineTuningSettings):
    """Settings of ``tagger.py``."""

    task: TaggerTask = group(_TASK, TaggerTask)
    predictions: PredictionSettings = group(_TASK, PredictionSettings)
    files: TaggingFiles = group("tagged sentences", TaggingFiles)
    run: RunOptions = group("run", RunOptions)
    series: SeriesSettings = group("run", SeriesSettings)
    evaluation: EvaluationOptions = group("evaluation", EvaluationOptions)
    training: TrainingOptions = group("training", TrainingOptions)
    economy: EconomySettings = group("training", EconomySettings, omit=("dev_fraction",))
    records: RecordFileOptions = group("record files", RecordFileOptions)
    sweep: SweepOptions = group("checkpoints to evaluate", SweepOptions)
    tagger: TaggerOptions = group("tagging", TaggerOptions)
    windows: TaggingWindows = group(
        "tagging", TaggingWindows, names={"max_length": "max_seq_length"}
    )
    decoder: DecoderSettings = group("tagging", DecoderSettings)
    tokenizer: TokenizerSettings = group("tokens", TokenizerSettings, defaults=_TOKENIZER)
    vocabulary: VocabularyCheck = group("tokens", VocabularyCheck)
    devices: DeviceOptions = group("devices", DeviceOptions)
    optimizer: OptimizerConfig = group(
        _OPTIMIZER, OptimizerConfig, names=OPTIMIZER_FLAGS, defaults=_ADAM, omit=("name",)
    )
    update: UpdateOptions = group(_OPTIMIZER, UpdateOptions)
    sizes: ModelSettings = group(_MODEL, ModelSettings, defaults=_SIZES, omit=("model_size",))
    model: ModelOptions = group(_MODEL, ModelOptions)
    absl: AbslLogging = group(_MESSAGES, AbslLogging)

    @property
    def eval_model_dir(self) -> str:
        """Directory of the checkpoints to evaluate, if it is not the run directory."""
        return self.evaluation.eval_model_dir


@dataclass(frozen=True)
class SquadSettings(FineTuningSettings):
    """Settings of ``squad.py``."""

    task: SquadTask = group(_TASK, SquadTask)
    files: SquadFiles = group(_TASK, SquadFiles, runtime=("predict_file", "target_eval_key"))
    predictions: PredictionSettings = group(_TASK, PredictionSettings)
    run: RunOptions = group("run", RunOptions, omit=("do_eval",))
    series: SeriesSettings = group("run", SeriesSettings)
    training: TrainingOptions = group("training", TrainingOptions, defaults={"train_steps": 5500})
    economy: EconomySettings = group("training", EconomySettings, omit=("dev_fraction",))
    records: RecordFileOptions = group("record files", RecordFileOptions)
    sweep: SweepOptions = group("checkpoints to evaluate", SweepOptions)
    windows: WindowConfig = group(_QUESTIONS, WindowConfig)
    head: AnswerConfig = group(_QUESTIONS, AnswerConfig)
    answers: AnswerSettings = group(_QUESTIONS, AnswerSettings)
    squad: SquadOptions = group(_QUESTIONS, SquadOptions)
    ensemble: EnsembleSettings = group("ensemble", EnsembleSettings)
    tokenizer: TokenizerSettings = group("tokens", TokenizerSettings, defaults=_TOKENIZER)
    vocabulary: VocabularyCheck = group("tokens", VocabularyCheck)
    devices: DeviceOptions = group("devices", DeviceOptions, defaults={"use_tpu": True})
    optimizer: OptimizerConfig = group(
        _OPTIMIZER, OptimizerConfig, names=OPTIMIZER_FLAGS, defaults=_ADAM, omit=("name",)
    )
    update: UpdateOptions = group(_OPTIMIZER, UpdateOptions)
    sizes: ModelSettings = group(_MODEL, ModelSettings, defaults=_SIZES, omit=("model_size",))
    model: ModelOptions = group(_MODEL, ModelOptions)
    absl: AbslLogging = group(_MESSAGES, AbslLogging)


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    """Settings of ``pretrain.py``."""

    task: PretrainTask = group(_TASK, PretrainTask)
    run: RunOptions = group("run", RunOptions, defaults={"do_train": True, "model_dir": None})
    evaluation: PretrainEvaluation = group("evaluation", PretrainEvaluation)
    training: TrainingOptions = group(
        "training",
        TrainingOptions,
        defaults={
            "train_batch_size": 60,
            "train_steps": 100000,
            "save_steps": 10000,
            "max_save": 100000,
            "init_global_vars": True,
        },
    )
    targets: TargetSettings = group(_MASKING, TargetSettings)
    objective: PretrainingConfig = group(_MASKING, PretrainingConfig)
    input: InputOptions = group(_MASKING, InputOptions)
    tokenizer: TokenizerSettings = group("tokens", TokenizerSettings, defaults=_TOKENIZER)
    segments: SegmentIds = group("tokens", SegmentIds, names=SEGMENT_FLAGS)
    vocabulary: VocabularyCheck = group("tokens", VocabularyCheck)
    devices: DeviceOptions = group(
        "devices", DeviceOptions, defaults={"use_tpu": True, "num_core_per_host": 16}
    )
    optimizer: OptimizerConfig = group(
        _OPTIMIZER, OptimizerConfig, names=OPTIMIZER_FLAGS, defaults=_ADAM, omit=("name",)
    )
    update: UpdateOptions = group(_OPTIMIZER, UpdateOptions)
    sizes: ModelSettings = group(_MODEL, ModelSettings, defaults=_SIZES, omit=("model_size",))
    model: ModelOptions = group(_MODEL, ModelOptions)
    absl: AbslLogging = group(_MESSAGES, AbslLogging)

    @property
    def evaluated_paths(self) -> tuple[str, ...]:
        """Checkpoints to evaluate that are not in the run directory, or their directories."""
        return (self.evaluation.eval_ckpt_path or "",)


@dataclass(frozen=True)
class CorpusSettings(CreateDataSettings, ProgramSettings):
    """Settings of ``create_pretrain_data.py``: those of the PyTorch program, and verbosity."""

    log: LogOptions = group("text to records", LogOptions)

    @property
    def verbose(self) -> bool:
        """Whether debug messages are shown."""
        return self.log.verbose or self.absl.verbose


@dataclass(frozen=True)
class ExtractSettings(ExtractionSettings):
    """Settings of ``extract_features.py``: those of the PyTorch program, and verbosity.

    Its flags are spelled as in that program, by argparse.
    """

    log: LogOptions = group("run", LogOptions)


@dataclass(frozen=True)
class PredictComputeOptions:
    """Device of ``predict.py``."""

    device_id: int = setting(0, "GPU to use, if there is one; -1 for the CPU")


@dataclass(frozen=True)
class FilePredictionSettings(PredictSettings):
    """Settings of ``predict.py``: those of the PyTorch program that apply, and verbosity.

    Its flags are spelled as in that program, by argparse.
    """

    compute: PredictComputeOptions = group("run", PredictComputeOptions)
    log: LogOptions = group("run", LogOptions)


@dataclass(frozen=True)
class ModifySettings:
    """Settings of ``modify_ckpt.py``, whose flags argparse parses: it needs no absl."""

    src_ckpt: str = setting("", "input checkpoint prefix")
    tgt_ckpt: str = setting("", "output checkpoint prefix")
    finetune_only: bool = setting(True, "drop global_step, Adam slots and generator variables")
    absl: AbslLogging = group(_MESSAGES, AbslLogging)


# Programs whose flags absl parses.
PROGRAMS: dict[str, type[ProgramSettings]] = {
    "pretrain": PretrainSettings,
    "classifier": ClassifierSettings,
    "squad": SquadSettings,
    "race": RaceSettings,
    "tagger": TaggerSettings,
    "create_pretrain_data": CorpusSettings,
}
