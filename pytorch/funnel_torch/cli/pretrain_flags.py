"""The flags of ``pretrain.py`` besides those of every program, and the settings they stand for."""

from __future__ import annotations

import argparse
from dataclasses import replace

from funnel.config.model import ModelConfig
from funnel.pretraining.dataset import DatasetConfig
from funnel.pretraining.masking import SAMPLE_STRATEGIES, MaskingConfig, truncation_stride
from funnel.tokenization import TOKENIZER_KINDS
from funnel.utils.errors import ConfigError
from funnel_torch.cli import flags
from funnel_torch.data.pretraining_loader import PretrainBatchConfig
from funnel_torch.models.electra import PretrainingConfig
from funnel_torch.tasks.pretrain import PretrainConfig
from funnel_torch.training.optimizer import ScheduleConfig
from funnel_torch.training.trainer import TrainerConfig

LOSS_TYPES = ("mlm", "electra")
SPLITS = ("train", "dev", "test")
# The reference masks 85 tokens of 512.
_TARGET_SHARE = 85 / 512


def pretrain_parser(description: str) -> flags.FlagParser:
    """All flags, common ones first."""
    parser = flags.FlagParser(description)
    flag = parser.add_argument_group("what to run").add_argument
    flag("--loss_type", type=str.lower, default="mlm", choices=LOSS_TYPES, help="objective")
    flag("--record_dir", default="", help="folder(s) of records, with commas between them")
    flag("--eval_split", default="", choices=["", *SPLITS], help="records to evaluate on; none")
    flag("--eval_only", action="store_true", help="no training: evaluate model_dir or init_ckpt")
    flags.add_run_flags(flag)
    _add_record_flags(parser)
    _add_masking_flags(parser)
    _add_training_flags(parser)
    group = flags.add_checkpoint_flags(parser)
    group.add_argument(
        "--init_global_vars",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="init_ckpt's Adam moments and step too, where it has them",
    )
    flags.add_speed_flags(parser)
    _add_scale_flags(parser)
    flags.add_model_flags(parser)
    _add_size_flags(parser)
    flags.add_optimizer_flags(parser)
    flags.add_distributed_flags(parser)
    # What TensorFlow's pretraining does unless told otherwise.
    parser.set_defaults(optimizer="funnel_adamw", pool_q_only=True, separate_cls=True, int8=False)
    return parser


def _add_record_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("records").add_argument
    flag("--seq_len", "--max_length", dest="max_length", type=int, default=512, help="tokens each")
    flag("--num_passes", type=int, default=1, help="read the passes 0 to this minus 1")
    flag("--tokenizer_type", default="word_piece", choices=TOKENIZER_KINDS, help="kind")
    flag("--tokenizer_path", help="vocab.txt or SentencePiece model; default: init_ckpt's")
    flag("--cased", action="store_true", help="the records were made from cased text")
    flag(
        "--shuffle_buffer",
        "--shuffle_window",
        type=int,
        default=8192,
        help="records among which order is random",
    )
    flag(
        "--skip_corrupt",
        "--skip_damaged",
        action="store_true",
        help="skip corrupt records, with a warning",
    )


def _add_masking_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("targets").add_argument
    flag("--num_predict", type=int, help="targets of a record; default 85 of 512 tokens")
    flag("--sample_strategy", default="single_token", choices=SAMPLE_STRATEGIES, help="how")
    flag("--leak_ratio", type=float, default=0.1, help="share of targets left as they are")
    flag("--rand_ratio", type=float, default=0.1, help="share replaced by a random token")
    for unit, name in (("tok", "tokens"), ("word", "words")):
        flag(f"--min_{unit}", type=int, default=1, help=f"shortest span of {name}")
        flag(f"--max_{unit}", type=int, default=5, help=f"longest span of {name}")
    flag(
        "--hide_masked",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="MLM: masked positions are hidden from attention, as the original does",
    )
    flag("--width_shrink", type=float, default=0.25, help="width of ELECTRA's generator")
    flag("--disc_coeff", type=float, default=50.0, help="factor on the discriminator's loss")


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("training").add_argument
    flag("--lr", "--learning_rate", type=float, default=1e-4, help="peak learning rate")
    flag("--train_bsz", type=int, default=32, help="records per device and step")
    flag("--grad_accum", type=int, default=1, help="such batches per optimizer step")
    flag("--train_steps", type=int, default=100_000, help="optimizer steps")
    flag("--warmup_steps", type=int, help="steps to warm up; default one in a hundred")
    flag("--min_lr", type=float, default=0.0, help="final learning rate")
    flag("--weight_decay", type=float, default=0.01, help="decoupled weight decay")
    flag("--clip", type=float, default=1.0, help="bound on the gradient norm; 0 or less: none")
    flag("--seed", type=int, help="random seed; drawn (and recorded) if not given")
    flag("--valid_bsz", type=int, default=64, help="records per step in evaluation")
    flag("--log_steps", "--log_freq", type=int, default=100, help="steps between log lines")
    flag("--eval_steps", type=int, default=1000, help="steps between evaluations")
    flag("--save_steps", type=int, default=1000, help="steps between checkpoints")


def _add_scale_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("large models").add_argument
    flag(
        *("--recompute_layers", "--gradient_checkpointing"),
        action="store_true",
        help="keep less for the backward pass and compute it again",
    )
    flag("--fsdp", action="store_true", help="share weights and Adam moments among processes")
    flag("--peak_tflops", type=float, help="of a device, for the MFU; default: known GPUs'")


def _add_size_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("more model sizes, as above").add_argument
    families = ["normal", "uniform", "truncated_normal"]
    flag("--decoder_size", default="2", help="decoder layout, e.g. 2 or 1x2")
    flag("--init", default="truncated_normal", choices=families, help="fresh weights' family")
    flag("--init_std", type=float, default=0.02, help="deviation of the normal ones")
    flag("--init_range", type=float, default=0.1, help="bound of the uniform ones")


def check_flags(args: argparse.Namespace) -> None:
    """Refuse what cannot work, before any file is read."""
    flags.check_given(args, "record_dir", *(("eval_split",) if args.eval_only else ()))
    flags.check_directory(args, trains=not args.eval_only, only="--eval_only")
    for name in ("valid_bsz", "log_steps", "eval_steps", "save_steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}={getattr(args, name)}: must be at least 1")
    if args.num_predict is None:
        args.num_predict = max(1, round(args.max_length * _TARGET_SHARE))
    MaskingConfig(args.max_length, args.num_predict)
    pretraining_config(args)
    batch_config(args, seed=0, pin_memory=False)
    pretrain_config(args, seed=0)


def masking_config(args: argparse.Namespace, model: ModelConfig) -> MaskingConfig:
    """How the records of a run are masked."""
    names = ("num_predict", "sample_strategy", "leak_ratio", "rand_ratio")
    spans = ("min_tok", "max_tok", "min_word", "max_word")
    return MaskingConfig(
        seq_len=args.max_length,
        truncate_stride=truncation_stride(model),
        **{name: getattr(args, name) for name in (*names, *spans)},
    )


def pretraining_config(args: argparse.Namespace) -> PretrainingConfig:
    return PretrainingConfig(args.hide_masked, args.width_shrink, args.disc_coeff)


def batch_config(args: argparse.Namespace, seed: int, pin_memory: bool) -> PretrainBatchConfig:
    """The grouping and order of training records."""
    dataset = DatasetConfig(
        seed=seed, shuffle_buffer=args.shuffle_buffer, skip_corrupt=args.skip_corrupt
    )
    return PretrainBatchConfig(
        args.train_bsz, args.grad_accum, args.num_workers, pin_memory=pin_memory, dataset=dataset
    )


def for_evaluation(config: PretrainBatchConfig, batch_size: int) -> PretrainBatchConfig:
    """The same records' settings for batches of another size."""
    return replace(config, batch_size=batch_size, grad_accum=1)


def pretrain_config(args: argparse.Namespace, seed: int) -> PretrainConfig:
    """Optimizer, schedule and intervals."""
    warmup = args.train_steps // 100 if args.warmup_steps is None else args.warmup_steps
    schedule = ScheduleConfig(
        lr=args.lr,
        total_steps=args.train_steps,
        warmup_steps=warmup,
        min_lr=args.min_lr,
        decay_method=args.decay_method,
    )
    trainer = TrainerConfig(
        total_steps=args.train_steps,
        precision=flags.precision(args),
        clip=args.clip,
        log_steps=args.log_steps,
        eval_steps=args.eval_steps,
        save_steps=args.save_steps,
        higher_is_better=False,
    )
    optimizer = flags.optimizer_config(args)
    return PretrainConfig(trainer, optimizer, schedule, seed, args.compile)
