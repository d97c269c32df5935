"""Settings that only the TensorFlow programs have, topic by topic.

Flag names, defaults and meanings are those of the original programs (a test holds them); flags
marked "new" are not in the original. :mod:`funnel_tf.cli.programs` composes these classes, and
those that both backends share, into the settings of each program.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.flags import check_at_least_one
from funnel.config.pretraining import SPLITS
from funnel.config.settings import like, setting
from funnel.config.training.optimizer import ScheduleConfig
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class RunOptions:
    """Actions, directory and initial weights of a run."""

    do_train: bool = setting(False, "train", affects_result=False)
    do_eval: bool = setting(False, "evaluate checkpoints", affects_result=False)
    model_dir: str | None = setting("", "output directory of the run", affects_result=False)
    init_checkpoint: str | None = setting(
        None, "checkpoint to start from; DIR/latest: its newest", is_path=True
    )
    model_config: str = setting(
        "",
        "net_config.json; empty: the model flags below",
        aliases=("model_config_path",),
        is_path=True,
    )
    seed: int | None = setting(
        None, "new: random seed; drawn (and recorded) if not given", affects_result=False
    )
    overwrite_run: bool = setting(
        False, "new: delete the run that model_dir holds", affects_result=False
    )
    verbose: bool = setting(False, "TensorFlow's own messages too", affects_result=False)

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"--seed={self.seed}: must not be negative")


@dataclass(frozen=True)
class TrainingOptions:
    """Batch size, schedule and intervals of training, in steps."""

    train_batch_size: int = setting(128, "examples per step, over all devices")
    learning_rate: float = setting(1e-5, "peak learning rate")
    train_steps: int = setting(40000, "steps in total")
    warmup_steps: int = setting(0, "steps of linear warm-up")
    save_steps: int | None = setting(
        None, "steps between checkpoints; none (or 0): the last step only", affects_result=False
    )
    save_minutes: float = setting(
        15.0,
        "new: minutes between further checkpoints, which only serve to resume; 0: none",
        affects_result=False,
    )
    max_save: int = setting(0, "checkpoints kept while training; 0: all", affects_result=False)
    log_freq: int = setting(100, "steps between log lines and summaries", affects_result=False)
    init_global_vars: bool = setting(
        False, "take optimizer state from init_checkpoint too; fine-tuning ignores it"
    )
    deterministic: bool = setting(True, "new: one seed, one order of the data; no: a little faster")


@dataclass(frozen=True)
class UpdateOptions:
    """Details of the update and the schedule that only these programs have."""

    per_core_clip: bool = setting(True, "clip each replica's gradient; no: their average")
    skip_nan_grad: bool = setting(False, "skip (and count) steps whose gradients are not finite")
    decay_method: str = like(ScheduleConfig, "decay_method")
    min_lr_ratio: float = setting(0.0, "final (and first warm-up) learning rate / peak")

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_lr_ratio <= 1.0:
            raise ConfigError(f"--min_lr_ratio={self.min_lr_ratio}: must be from 0 to 1")


@dataclass(frozen=True)
class DeviceOptions:
    """Devices the graph runs on."""

    use_tpu: bool = setting(False, "TPU; no: CPU or GPU", affects_result=False)
    num_hosts: int = setting(1, "TPU hosts", affects_result=False)
    num_core_per_host: int = setting(
        8, "TPU cores per host; off TPUs: devices at most", affects_result=False
    )
    tpu: str | None = setting(None, "TPU name; on a TPU VM: local", affects_result=False)
    tpu_zone: str | None = setting(None, "zone of the TPU", affects_result=False)
    gcp_project: str | None = setting(None, "project of the TPU", affects_result=False)
    tpu_job_name: str | None = setting(None, "job name of the TPU", affects_result=False)
    master: str | None = setting(
        None, "address of the TPU, instead of its name", affects_result=False
    )
    iterations: int = setting(1000, "TPU steps per session call of the host", affects_result=False)
    use_bfloat16: bool = setting(False, "matrix products in bfloat16")


@dataclass(frozen=True)
class ModelOptions:
    """Keys of the model's configuration that are no sizes, and how files and flags combine."""

    overwrite_keys: str = setting("", "comma list of settings taken from flags, not from the file")
    truncate_seq: bool = setting(True, "drop the last position before pooling")
    rel_attn_type: str = setting("factorized", "factorized, rel_shift or null")


@dataclass(frozen=True)
class RecordFileOptions:
    """Record files of a fine-tuning program."""

    output_dir: str = setting("", "directory of the TFRecord files", affects_result=False)
    shuffle_buffer: int = setting(2048, "records held to draw the next one from while training")


@dataclass(frozen=True)
class SweepOptions:
    """Checkpoints that are evaluated, and those that are kept."""

    eval_all_ckpt: bool = setting(True, "new: all of them; no: the last one", affects_result=False)
    eval_start_step: int = setting(
        -1, "leave out checkpoints of this step and before", affects_result=False
    )
    eval_end_step: int = setting(
        10000000, "leave out checkpoints after this step", affects_result=False
    )
    eval_wait: float = setting(
        0.0,
        "new: seconds to wait for the next checkpoint of a run that trains elsewhere",
        affects_result=False,
    )
    retain_all: bool = setting(
        False, "keep every checkpoint after training and evaluation", affects_result=False
    )
    retain_best: bool = setting(
        False, "keep the best only; default: the best and the last", affects_result=False
    )


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation of ``classifier.py`` and ``race.py``."""

    eval_split: str = setting("dev", "split to evaluate", affects_result=False)
    eval_batch_size: int = setting(8, "examples per step of evaluation", affects_result=False)
    eval_model_dir: str = setting(
        "", "evaluate the checkpoints there, not those of model_dir", affects_result=False
    )
    overwrite: bool = setting(
        False, "accepted; evaluation keeps no directory of its own", affects_result=False
    )

    def __post_init__(self) -> None:
        check_at_least_one(eval_batch_size=self.eval_batch_size)


@dataclass(frozen=True)
class ClassifierTask:
    """Task and outputs of ``classifier.py``."""

    task_name: str | None = setting(
        None, "task, e.g. RTE; or tsv, csv, jsonl, json, parquet for own files"
    )
    data_dir: str = setting("", "directory with the files of the task", is_path=True)
    task_module: str | None = setting(
        None,
        "new: Python file that registers a task of your own, see docs/extending.md",
        affects_result=False,
    )
    do_submit: bool = setting(False, "write the GLUE submission file(s)", affects_result=False)
    submit_dir: str | None = setting(
        None, "directory of submissions; default model_dir/submit", affects_result=False
    )
    do_predict: bool = setting(
        False,
        "write test_results.txt: the predicted label of every test example",
        affects_result=False,
    )
    indexed_predictions: bool = setting(
        False, "new: in test_results.txt, a header and index<tab>label", affects_result=False
    )


@dataclass(frozen=True)
class ClassifierOptions:
    """Details of ``classifier.py``."""

    cls_scope: str | None = setting(
        None, "scope of the head's variables; default: the name of the task"
    )
    predict_batch_size: int = setting(8, "examples per step of prediction", affects_result=False)
    max_seq_length: int = setting(128, "tokens per sequence")
    num_passes: int = setting(1, "how often the training examples are written")
    shuffle_examples: bool = setting(True, "shuffle them before writing")
    overwrite_data: bool = setting(False, "write the TFRecord files again", affects_result=False)
    debug_mode: bool = setting(
        False, "accepted and unused, as in the original", affects_result=False
    )

    def __post_init__(self) -> None:
        check_at_least_one(predict_batch_size=self.predict_batch_size)


@dataclass(frozen=True)
class TaggerTask:
    """Files and outputs of ``tagger.py``."""

    task_name: str | None = setting(None, "format of the files: conll or jsonl")
    data_dir: str = setting("", "directory with the files", is_path=True)
    do_predict: bool = setting(
        False,
        "write test_results.conll and .jsonl, the tags of the test data",
        affects_result=False,
    )


@dataclass(frozen=True)
class TaggerOptions:
    """Details of ``tagger.py``."""

    predict_batch_size: int = like(ClassifierOptions, "predict_batch_size")
    overwrite_data: bool = like(ClassifierOptions, "overwrite_data")

    def __post_init__(self) -> None:
        check_at_least_one(predict_batch_size=self.predict_batch_size)


@dataclass(frozen=True)
class RaceTask:
    """Data of ``race.py``."""

    data_dir: str = setting("", "directory of RACE, with train, dev and test", is_path=True)
    do_predict: bool = setting(
        False,
        "new: write {test,valid}_results.txt: the chosen option of every question of eval_split",
        affects_result=False,
    )


@dataclass(frozen=True)
class RaceOptions:
    """Details of ``race.py``."""

    overwrite_data: bool = setting(False, "write the TFRecord files again", affects_result=False)


@dataclass(frozen=True)
class SquadTask:
    """Actions of ``squad.py`` other than training."""

    prepro_split: str | None = setting(
        None, "train or eval: write that file of records and stop", affects_result=False
    )
    do_predict: bool = setting(
        False, "predict with the checkpoints and evaluate them", affects_result=False
    )


@dataclass(frozen=True)
class SquadOptions:
    """Details of ``squad.py``."""

    predict_batch_size: int = setting(
        128,
        "windows per step of prediction",
        aliases=("eval_batch_size",),
        affects_result=False,
    )
    keep_accents: bool = setting(False, "SentencePiece: keep accents")
    num_proc: int = setting(1, "shards of the training file", affects_result=False)
    proc_id: int = setting(0, "shard that this process writes", affects_result=False)
    debug_mode: bool = setting(False, "only the first 100 examples", affects_result=False)

    def __post_init__(self) -> None:
        check_at_least_one(predict_batch_size=self.predict_batch_size, num_proc=self.num_proc)


@dataclass(frozen=True)
class PretrainTask:
    """Objective and records of ``pretrain.py``."""

    loss_type: str = setting("mlm", "objective", choices=("mlm", "electra"))
    record_dir: str | None = setting(None, "comma list of directories with pretraining records")
    seq_len: int = setting(0, "tokens per sequence, as in the records")
    num_passes: int = setting(1, "records of passes below this number")


@dataclass(frozen=True)
class PretrainEvaluation:
    """Evaluation of ``pretrain.py``."""

    eval_split: str = setting("dev", "split to evaluate", choices=SPLITS, affects_result=False)
    eval_batch_size: int = setting(60, "sequences per step of evaluation", affects_result=False)
    max_eval_batch: int = setting(
        -1, "steps of evaluation at most; below 0: all", affects_result=False
    )
    eval_ckpt_path: str | None = setting(
        None, "evaluate this checkpoint alone; DIR/latest: the newest", affects_result=False
    )
    start_eval_steps: int = setting(
        200000, "first step to evaluate; without one so late, the last", affects_result=False
    )
    eval_wait: float = like(SweepOptions, "eval_wait")
    overwrite: bool = setting(
        False, "accepted and unused, as in the original", affects_result=False
    )

    def __post_init__(self) -> None:
        check_at_least_one(eval_batch_size=self.eval_batch_size)


@dataclass(frozen=True)
class InputOptions:
    """Division of the pretraining records among hosts."""

    shard_across_host: bool = setting(True, "every host reads its share of the files")


@dataclass(frozen=True)
class LogOptions:
    """Messages of the programs that are no runs."""

    verbose: bool = setting(False, "new: debug messages too")
