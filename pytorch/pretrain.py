r"""Pretrain a Funnel-Transformer on records: masked language modelling or ELECTRA.

    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512
    python pytorch/pretrain.py --config=configs/B4-4-4H768.json --record_dir=records \
        --tokenizer_path=vocab.txt --loss_type=electra --seq_len=512 --train_bsz=32 \
        --train_steps=100000 --warmup_steps=10000 --model_dir=runs/electra --bf16

The same command goes on where a killed run stopped. Go on with released weights (of a FULL release
with generator, Adam moments and step): --init_ckpt=B4-4-4H768-ELEC-FULL-TF. Several GPUs, also on
several nodes: torchrun --nproc_per_node=8 pytorch/pretrain.py ..., with --fsdp if one model does
not fit. Every checkpoint (model_dir/last, model_dir/best) loads in all other programs:
--init_ckpt=runs/electra/last.
"""

from __future__ import annotations

import argparse
import json
import logging
from functools import partial

import _paths  # noqa: F401

from funnel.checkpoints import load_checkpoint
from funnel.pretraining.masking import Masker
from funnel.pretraining.record_index import RecordCollection, find_records
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch.cli import flags, pretrain_flags, runs
from funnel_torch.data.pretraining_loader import PretrainBatches, evaluation_batches
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining
from funnel_torch.models.layers import recompute_layers
from funnel_torch.tasks.pretrain import (
    PretrainingModel,
    evaluate,
    make_meter,
    make_trainer,
)
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.fsdp import ShardedModel
from funnel_torch.training.mfu import peak_tflops
from funnel_torch.training.optimizer_import import AdamState, global_step, read_adam_state
from funnel_torch.training.trainer import Scores

logger = logging.getLogger("funnel_torch.pretrain")

HEADS = {"mlm": MLMPretraining, "electra": ElectraPretraining}


def open_records(
    args: argparse.Namespace, split: str, world: DistributedContext
) -> RecordCollection:
    """The record files of a split, found and checked."""
    found = (args.record_dir, split, args.max_length, not args.cased)
    passes = args.num_passes if split == "train" else 1
    records = world.rank_zero_first(find_records, *found, num_passes=passes)
    count = len(records.files)
    logger.info("%s: %d records of %d tokens, %d files", split, *_sizes(records, args), count)
    return records


def _sizes(records: RecordCollection, args: argparse.Namespace) -> tuple[int, int]:
    return records.num_examples, args.max_length


class Evaluator:
    """Scores a model on the held-out records."""

    def __init__(
        self, args: argparse.Namespace, masker: Masker, seed: int, world: DistributedContext
    ) -> None:
        self.split, self._masker, self._world = args.eval_split, masker, world
        self._records = open_records(args, args.eval_split, world)
        on_gpu = world.device.type == "cuda"
        config = pretrain_flags.batch_config(args, seed, pin_memory=on_gpu)
        self._batches = pretrain_flags.for_evaluation(config, args.valid_bsz)
        self._precision = flags.precision(args)

    def __call__(self, model: PretrainingModel) -> Scores:
        """The metrics of the split, in every process."""
        world = self._world
        batches = evaluation_batches(
            self._records, self._masker, self._batches, world.rank, world.size
        )
        return {self.split: evaluate(model, batches, world, self._precision)}


def find_adam_state(args: argparse.Namespace, model: PretrainingModel) -> AdamState | None:
    """Return the Adam state of --init_ckpt, if it has one and it should be used.

    Raises:
        ConfigError: all requested steps have been made already.
    """
    if not (args.init_ckpt and args.init_global_vars):
        return None
    source = load_checkpoint(
        args.init_ckpt, config_path=args.init_ckpt_config or None, with_optimizer=True
    )
    if not source.optimizer:
        logger.info("%s: no Adam moments in it: they start at zero", args.init_ckpt)
        return None
    if args.optimizer != "funnel_adamw":
        logger.info("--optimizer=%s does not take Adam moments over", args.optimizer)
        return None
    step = global_step(source.optimizer)
    if step >= args.train_steps:
        raise ConfigError(
            f"--train_steps={args.train_steps}: {args.init_ckpt} has made {step} already; ask for "
            "more, or start to count anew with --no-init_global_vars"
        )
    logger.info("%s: going on after its step %d, with its Adam moments", args.init_ckpt, step)
    return read_adam_state(model, source.optimizer)


def train(
    args: argparse.Namespace,
    run_context: runs.RunContext,
    plan: runs.ModelFactory,
    model: PretrainingModel,
    world: DistributedContext,
) -> None:
    """Train to the last step, from the first or where the run's newest checkpoint stands."""
    resumes = run_context.directory is not None and run_context.directory.can_resume
    adam_state = None if resumes else find_adam_state(args, model)
    model.to(world.device)
    if args.recompute_layers:
        recompute_layers(model)
    sharded = ShardedModel(model, world) if args.fsdp else None

    masker = Masker(
        pretrain_flags.masking_config(args, model.config),
        plan.tokenizer.special,
        plan.tokenizer.vocab_size,
    )
    on_gpu = world.device.type == "cuda"
    batches = PretrainBatches(
        open_records(args, "train", world),
        masker,
        pretrain_flags.batch_config(args, run_context.seed, pin_memory=on_gpu),
        world.rank,
        world.size,
    )
    evaluator = Evaluator(args, masker, run_context.seed, world) if args.eval_split else None

    precision = flags.precision(args)
    peak = args.peak_tflops or peak_tflops(world.device, precision)
    lengths = (args.max_length, args.num_predict)
    output = runs.open_output(
        run_context,
        model.config,
        plan.saver(model, sharded),
        world,
        meter=make_meter(model, batches, world, lengths, peak),
    )
    config = pretrain_flags.pretrain_config(args, run_context.seed)
    trainer = make_trainer(model, batches, config, world, output, adam_state)
    if resumes:
        trainer.restore(run_context.directory.load_state())
        logger.info("resumed at step %d", trainer.progress.step)
    logger.info(
        "%d steps of %d records (%.1f epochs) in %d processes on %s, %s",
        *(args.train_steps, batches.examples_per_step),
        args.train_steps / batches.steps_per_epoch,
        *(world.size, world.device, precision),
    )
    trainer.train(None if evaluator is None else partial(evaluator, model))
    output.log.close()


def work(args: argparse.Namespace, world: DistributedContext) -> None:
    """The run, in this process of perhaps several."""
    pretrain_flags.check_flags(args)
    trains = not args.eval_only
    tokenizer = runs.load_tokenizer(args, trains=trains)
    settings = flags.result_affecting_config(args)
    run_context = runs.open_run(args, settings, runs.common_seed(args, world), trains=trains)
    arguments = {"pretraining": pretrain_flags.pretraining_config(args)}
    plan = runs.ModelFactory(HEADS[args.loss_type], tokenizer, arguments)
    model = plan.load(args, run_context.checkpoint)
    if trains:
        train(args, run_context, plan, model, world)
        return
    masking = pretrain_flags.masking_config(args, model.config)
    masker = Masker(masking, tokenizer.special, tokenizer.vocab_size)
    scores = Evaluator(args, masker, run_context.seed, world)(model.to(world.device))
    if world.is_rank_zero:
        print(json.dumps(scores))


def main() -> None:
    runs.start_program(pretrain_flags.pretrain_parser(__doc__), work)


if __name__ == "__main__":
    run_main(main)
