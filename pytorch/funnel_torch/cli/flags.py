"""The command-line flags of the PyTorch fine-tuning programs, and the settings they stand for.

Every flag has its default here and nowhere else. Groups are shared by several programs; what a
program parsed becomes small configuration objects, which is all the library ever sees.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from funnel.cli.flags import FlagParser
from funnel.config.model import ModelConfig
from funnel.features.classification import SegmentIds
from funnel.tasks import CustomTaskConfig, CustomTaskSettings
from funnel.utils.errors import ConfigError
from funnel_torch.data.batching import BatchConfig
from funnel_torch.models.initial_model import InitConfig
from funnel_torch.tasks.classification import DataConfig
from funnel_torch.tasks.finetune import FineTuneConfig
from funnel_torch.training.distributed import DistributedConfig
from funnel_torch.training.optimizer import DECAY_METHODS, LAYER_DECAYS, OPTIMIZERS, OptimizerConfig

logger = logging.getLogger(__name__)

# Flags that change how or where a run happens, but not what comes out: they may differ on resuming.
RUNTIME_FLAGS = frozenset(
    (
        *("model_dir", "output_dir", "overwrite_data", "submit_dir", "log_path", "tokenizer_path"),
        *("resume", "overwrite", "test_only", "write_prediction", "do_submit", "debug", "verbose"),
        *("device_id", "num_workers", "valid_bsz", "test_bsz", "n_log_epoch", "save_steps"),
        *("log_all_processes", "ddp_backend", "amp_opt", "distributed_rank", "distributed_port"),
        *("distributed_init_method", "distributed_backend", "distributed_world_size"),
        *("do_train", "do_eval", "do_predict", "eval_split", "predict_dir"),
        *("do_ensemble", "ensemble_ckpts", "ensemble_output_file"),
        *("na_threshold", "search_threshold"),
        *("eval_only", "log_steps", "recompute_layers", "fsdp", "peak_tflops", "skip_corrupt"),
    )
)


def classifier_parser(description: str) -> FlagParser:
    """All flags of ``classifier.py`` and ``multigpu_classifier.py``, common ones first."""
    parser = FlagParser(description)
    flag = parser.add_argument_group("what to run").add_argument
    flag("--dataset", "--task_name", help="task, e.g. CoLA; or tsv, csv, jsonl for own files")
    flag("--data_dir", default="", help="directory with the task's files")
    flag("--test_only", action="store_true", help="no training: evaluate model_dir or init_ckpt")
    flag("--write_prediction", action="store_true", help="write {test,valid}_results.txt")
    flag("--do_submit", action="store_true", help="write the GLUE submission file(s)")
    flag("--submit_dir", default="", help="where to; default model_dir/submit")
    add_run_flags(flag)
    group = parser.add_argument_group("text to tokens")
    group.add_argument("--max_length", type=int, default=128, help="tokens per example")
    add_token_flags(group.add_argument)
    group.add_argument("--output_dir", default="", help="cache of encoded examples; empty: none")
    group.add_argument("--overwrite_data", action="store_true", help="rebuild that cache")
    add_common_flags(parser)
    add_custom_task_flags(parser)
    return parser


def add_uncached_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add what RACE does with text: it keeps no cache."""
    flag = parser.add_argument_group("text to tokens").add_argument
    flag("--max_length", "--max_seq_length", type=int, default=512, help="tokens per sequence")
    add_token_flags(flag)
    flag("--output_dir", default="", help="accepted and unused: texts are encoded anew each time")
    flag("--overwrite_data", action="store_true", help="accepted and unused, as output_dir")


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add everything that does not depend on the task."""
    add_training_flags(parser)
    add_start_flags(parser)
    speed = add_speed_flags(parser)
    speed("--int8", action="store_true", help="8-bit products; evaluation on a CPU")
    add_model_flags(parser)
    add_optimizer_flags(parser)
    add_distributed_flags(parser)


def add_run_flags(flag: Callable[..., Any]) -> None:
    """Add where a run goes; ``flag`` is ``add_argument`` of the group they join."""
    flag("--model_dir", default="", help="output directory of the run")
    flag("--resume", action="store_true", help="continue (or, if finished, evaluate) model_dir")
    flag("--overwrite", action="store_true", help="delete the run that model_dir holds")
    flag("--debug", action="store_true", help="leave no directory and no log files")
    flag("--log_path", default="", help="accepted and unused: logs are in model_dir")
    flag("--verbose", action="store_true", help="also show debug messages")


def add_token_flags(flag: Callable[..., Any]) -> None:
    """Add how text becomes tokens; ``flag`` as above."""
    kinds = ["word_piece", "sent_piece"]
    flag("--tokenizer_type", default="word_piece", choices=kinds, help="kind")
    flag("--tokenizer_path", help="vocab.txt or SentencePiece model; default: init_ckpt's")
    flag("--cased", action="store_true", help="do not lower-case")
    flag("--seg_id_a", type=int, default=0, help="segment id of the first text")
    flag("--seg_id_b", type=int, default=1, help="segment id of the second text")
    flag("--seg_id_cls", type=int, default=2, help="segment id of [CLS]")
    flag("--seg_id_pad", type=int, default=0, help="segment id of padding")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("training").add_argument
    flag("--lr", type=float, default=1e-5, help="peak learning rate")
    flag("--train_bsz", type=int, default=16, help="examples per device and step")
    flag("--grad_accum", type=int, default=1, help="such batches per optimizer step")
    flag("--epochs", type=int, default=10, help="passes over the training data")
    flag("--train_steps", type=int, help="optimizer steps, instead of epochs")
    flag("--warmup_prop", type=float, default=0.10, help="share of the steps to warm up")
    flag("--warmup_steps", type=int, help="steps to warm up, instead of that share")
    flag("--min_lr", type=float, default=0.0, help="final learning rate")
    flag("--weight_decay", type=float, default=0.01, help="decoupled weight decay")
    flag("--clip", type=float, default=1.0, help="bound on the gradient norm; 0 or less: none")
    flag("--seed", type=int, help="random seed; drawn (and recorded) if not given")
    flag("--valid_bsz", type=int, default=32, help="examples per step on the dev data")
    flag("--test_bsz", type=int, default=32, help="examples per step on the test data")
    flag("--n_log_epoch", type=int, default=20, help="log lines per epoch")
    flag("--eval_steps", type=int, help="steps between evaluations; default one epoch")
    flag("--save_steps", type=int, help="steps between checkpoints; default one epoch")


def add_start_flags(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_flags(parser).add_argument(
        "--new_head", action="store_true", help="ignore the head of a task in init_ckpt"
    )


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add where weights and sizes come from; returns the group."""
    group = parser.add_argument_group("starting point")
    flag = group.add_argument
    flag("--init_ckpt", default="", help="checkpoint of any kind; empty: random weights")
    flag(
        *("--init_ckpt_config", "--config", "--model_config", "--model_config_path"),
        default="",
        help="net_config.json or config.json; default: the one beside init_ckpt",
    )
    flag("--overwrite_keys", default="", help="comma list of settings taken from flags, not file")
    flag("--attn_type", default="rel_shift", choices=["rel_shift", "factorized"], help="form")
    flag(
        "--truncate_seq",
        action=argparse.BooleanOptionalAction,
        help="drop the last position before pooling; default: the config's, else yes",
    )
    return group


def add_speed_flags(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    group = parser.add_argument_group("device and speed")
    flag = group.add_argument
    flag("--device_id", type=int, default=0, help="GPU; -1: CPU")
    precision = group.add_mutually_exclusive_group()
    precision.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    precision.add_argument("--fp16", action="store_true", help="float16 autocast, scaled loss")
    flag("--amp_opt", default="O2", choices=["O1", "O2"], help="of apex; means native AMP here")
    flag("--compile", action="store_true", help="torch.compile the training step")
    flag("--num_workers", type=int, default=0, help="processes that prepare batches")
    return flag


def add_custom_task_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("own data (--dataset=tsv|csv|jsonl)").add_argument
    flag("--text_column", default="text", help="name or 0-based position")
    flag("--text_b_column", help="second text of pairs")
    flag("--label_column", default="label", help="name or 0-based position")
    flag("--labels", help="comma list in the order of ids; default: read from the data")
    flag("--regression", action="store_true", help="the label is a number")
    flag("--train_file", help="default train.<format> in data_dir")
    flag("--dev_file", help="default dev.<format>")
    flag("--test_file", help="default test.<format>")
    flag("--no_header", action="store_true", help="columns have positions, not names")
    flag("--delimiter", help="one character; default tab or comma")
    flag("--metric", help="main metric; default accuracy, or pearson_spearman")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model sizes", "used without a config file, and for what --overwrite_keys names"
    )
    flag, switch = group.add_argument, argparse.BooleanOptionalAction
    flag("--model_size", default="", help="H<d>: d_model=d_embed=d, heads of 64, d_inner=4d")
    flag("--block_size", default="4_4_4", help="encoder layout, e.g. 6_3x2_3x2")
    flag("--d_model", type=int, default=768, help="hidden width")
    flag("--d_embed", type=int, default=768, help="embedding width")
    flag("--n_head", type=int, default=12, help="attention heads")
    flag("--d_head", type=int, default=64, help="width of a head")
    flag("--d_inner", type=int, default=3072, help="feed-forward width")
    flag("--vocab_size", type=int, default=-1, help="replaced by the tokenizer's size")
    flag("--dropout", type=float, default=0.1, help="hidden dropout")
    flag("--dropatt", type=float, default=0.1, help="attention dropout")
    flag("--dropact", type=float, default=0.0, help="activation dropout")
    flag("--pooling_type", default="mean", choices=["mean", "max"], help="kind")
    flag("--pooling_size", type=int, default=2, help="pooling window and stride")
    flag("--pool_q_only", action=switch, default=False, help="a block pools its query alone")
    flag("--separate_cls", action=switch, default=False, help="[CLS] is never pooled")


def add_optimizer_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("optimizer, in detail").add_argument
    flag("--optimizer", default="adamw", choices=OPTIMIZERS, help="torch's, or TensorFlow tree's")
    flag("--adam_beta1", type=float, default=0.9, help="decay of the first moment")
    flag("--adam_beta2", type=float, default=0.99, help="decay of the second moment")
    flag("--adam_epsilon", type=float, default=1e-6, help="added to the root of the second")
    flag("--decay_method", default="poly", choices=DECAY_METHODS, help="linear or cosine")
    flag("--use_wd_exclusion", action="store_true", help="no decay for norms and biases")
    flag("--lr_layer_decay_rate", type=float, default=1.0, help="factor per layer downwards")
    flag("--layer_decay", default="gradient", choices=LAYER_DECAYS, help="what it is applied to")


def add_distributed_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("several processes (torchrun sets these itself)").add_argument
    flag("--distributed_world_size", type=int, help="processes; default all GPUs")
    flag("--distributed_rank", type=int, default=0, help="number of this process")
    flag("--distributed_init_method", help="tcp://host:port where they meet")
    flag("--distributed_port", type=int, default=11111, help="port, without init_method")
    flag("--distributed_backend", default="nccl", help="CPU processes always use gloo")
    flag("--ddp_backend", default="apex", choices=["pytorch", "apex"], help="both: torch's DDP")
    flag("--log_all_processes", action="store_true", help="console log of every process")


def distributed_config(
    args: argparse.Namespace, environment: Mapping[str, str]
) -> DistributedConfig:
    """Which process this is: from the launcher's ``environment``, else from the flags.

    Raises:
        ConfigError: the launcher's variables are no numbers.
    """
    common = {"backend": args.distributed_backend}
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        address = args.distributed_init_method or f"tcp://127.0.0.1:{args.distributed_port}"
        size = args.distributed_world_size or 1
        return DistributedConfig(
            args.distributed_rank, size, args.device_id, init_method=address, **common
        )
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE, LOCAL_RANK: {error}") from None
    device_id = args.device_id if args.device_id < 0 or size == 1 else local_rank
    return DistributedConfig(rank, size, device_id, **common)


def notices(args: argparse.Namespace, processes: int) -> None:
    """Say once which flags mean something newer than they did."""
    if args.fp16:
        logger.info("--fp16: native mixed precision; --amp_opt=%s of apex is ignored", args.amp_opt)
    if processes > 1 and args.ddp_backend == "apex":
        logger.info("--ddp_backend=apex: torch's DistributedDataParallel is used")
    if args.log_path:
        logger.info("--log_path is unused: logs are in --model_dir")


def check_classifier_flags(args: argparse.Namespace) -> None:
    """Refuse what cannot work, before any file is read."""
    check_given(args, "dataset", "data_dir")
    if not args.model_dir and (args.do_submit or args.write_prediction):
        raise ConfigError("--model_dir is needed: predictions are written there")
    check_run_flags(args, trains=not args.test_only, only="--test_only")


def check_given(args: argparse.Namespace, *names: str) -> None:
    """Refuse to go on without these flags."""
    for name in names:
        if not getattr(args, name):
            raise ConfigError(f"--{name} is needed")


def check_run_flags(args: argparse.Namespace, *, trains: bool, only: str) -> None:
    """Refuse what no fine-tuning can do; ``only`` is the flag of a run that does not train."""
    check_directory(args, trains=trains, only=only)
    if args.int8 and (trains or args.bf16 or args.fp16):
        raise ConfigError(f"--int8 goes with {only}, without --bf16, --fp16 and training")
    for name in ("valid_bsz", "test_bsz"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}={getattr(args, name)}: must be at least 1")
    fine_tune_config(args, seed=0)


def check_directory(args: argparse.Namespace, *, trains: bool, only: str) -> None:
    """Refuse a run with no place for its results or, without training, no model."""
    if trains and not (args.model_dir or args.debug):
        raise ConfigError("--model_dir is needed (or --debug, which keeps nothing)")
    if not trains and not args.init_ckpt and not (Path(args.model_dir) / "best").is_dir():
        raise ConfigError(f"{only}: no model in {args.model_dir}/best and no --init_ckpt")


def result_affecting_config(args: argparse.Namespace, files: Sequence[str] = ()) -> dict[str, Any]:
    """The flags that decide what comes out of a run: two runs are the same if these are.

    ``files`` are flags that name files, besides those of every program.
    """
    settings = {key: value for key, value in vars(args).items() if key not in RUNTIME_FLAGS}
    for key in ("data_dir", "init_ckpt", "init_ckpt_config", *files):
        if key in settings:
            settings[key] = str(Path(settings[key]).resolve()) if settings[key] else ""
    return settings


def segment_ids(args: argparse.Namespace) -> SegmentIds:
    return SegmentIds(args.seg_id_cls, args.seg_id_a, args.seg_id_b, args.seg_id_pad)


def length_step(args: argparse.Namespace) -> int:
    """What padded lengths are a multiple of."""
    # Every shape is compiled anew: four lengths have to do.
    return max(1, args.max_length // 4) if args.compile else 1


def data_config(args: argparse.Namespace) -> DataConfig:
    return DataConfig(
        args.data_dir,
        args.output_dir,
        args.max_length,
        args.overwrite_data,
        segment_ids(args),
        length_step=length_step(args),
    )


def custom_task_config(args: argparse.Namespace) -> CustomTaskConfig | None:
    """Return the layout of the user's own files; None for a known task."""
    names = {field.name for field in fields(CustomTaskSettings)} & vars(args).keys()
    settings = CustomTaskSettings(**{name: getattr(args, name) for name in names})
    return settings.build_config(args.dataset)


def fine_tune_config(args: argparse.Namespace, seed: int) -> FineTuneConfig:
    return FineTuneConfig(
        batches=BatchConfig(
            args.train_bsz, args.grad_accum, seed=seed, num_workers=args.num_workers
        ),
        optimizer=optimizer_config(args),
        lr=args.lr,
        min_lr=args.min_lr,
        decay_method=args.decay_method,
        warmup_prop=args.warmup_prop,
        warmup_steps=args.warmup_steps,
        epochs=args.epochs,
        train_steps=args.train_steps,
        logs_per_epoch=args.n_log_epoch,
        eval_steps=args.eval_steps,
        save_steps=args.save_steps,
        precision=precision(args),
        compile=args.compile,
    )


def optimizer_config(args: argparse.Namespace) -> OptimizerConfig:
    return OptimizerConfig(
        name=args.optimizer,
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epsilon,
        weight_decay=args.weight_decay,
        use_wd_exclusion=args.use_wd_exclusion,
        layer_decay_rate=args.lr_layer_decay_rate,
        layer_decay=args.layer_decay,
        clip=args.clip,
    )


def precision(args: argparse.Namespace) -> str:
    """The name of the arithmetic: fp32, bf16 or fp16."""
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def start_config(args: argparse.Namespace, vocab_size: int) -> InitConfig:
    """Where the model comes from; ``vocab_size`` is the tokenizer's."""
    keys = tuple(key.strip() for key in args.overwrite_keys.split(",") if key.strip())
    return InitConfig(
        checkpoint=args.init_ckpt,
        config_path=args.init_ckpt_config,
        fallback=_model_config(args, vocab_size),
        overwrite=keys,
        attn_type=args.attn_type,
        truncate_seq=args.truncate_seq,
        new_head=getattr(args, "new_head", False),
    )


def _model_config(args: argparse.Namespace, vocab_size: int) -> ModelConfig:
    # truncate_seq unset leaves the choice to a file.
    chosen = {f.name for f in fields(ModelConfig)} - {"vocab_size", "truncate_seq"}
    sizes = {key: value for key, value in vars(args).items() if key in chosen}
    if args.model_size:
        sizes |= _named_size(args.model_size)
    return ModelConfig(vocab_size=vocab_size, **sizes)


def _named_size(name: str) -> dict[str, int]:
    width = name.removeprefix("H")
    if not (name.startswith("H") and width.isdigit() and int(width) >= 64):
        raise ConfigError(f"model_size={name!r}: should be H<width> with a width >= 64, as in H768")
    d_model = int(width)
    n_head = d_model // 64
    sizes = {"d_model": d_model, "d_embed": d_model, "n_head": n_head}
    return sizes | {"d_head": d_model // n_head, "d_inner": 4 * d_model}
