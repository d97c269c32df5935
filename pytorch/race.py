"""Fine-tune and evaluate a Funnel-Transformer on RACE: four options a question, one of them right.

    python pytorch/race.py --do_train --do_eval --data_dir=RACE --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt \\
        --train_bsz=16 --lr=2e-5 --train_steps=24000 --warmup_steps=2400
    torchrun --nproc_per_node=8 pytorch/race.py ...              # --train_bsz counts per process

--data_dir holds {train,dev,test}/{middle,high}/*.txt. A run that was killed continues when the same
command is given again; --do_eval alone evaluates model_dir/best, --eval_model_dir/best or
--init_ckpt. The scores go to final_scores.json in model_dir.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.features.race import RaceConfig, RaceFeatures, encode_race
from funnel.tasks.race import read_race
from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from funnel_torch import FunnelForMultipleChoice
from funnel_torch.cli import flags, runs
from funnel_torch.data.batching import PaddedSource
from funnel_torch.tasks.finetune import Evaluation, evaluate
from funnel_torch.tasks.race import build_evaluation
from funnel_torch.training.distributed import DistributedContext


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    features: dict[str, RaceFeatures]
    run: runs.RunContext
    plan: runs.ModelFactory[FunnelForMultipleChoice]
    model: FunnelForMultipleChoice


class _BothSizes(argparse.Action):
    """One batch size for the dev data and the test data."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: int, *_: Any
    ) -> None:
        namespace.valid_bsz = namespace.test_bsz = values


def race_parser(description: str) -> flags.FlagParser:
    """All flags, common ones first."""
    parser = flags.FlagParser(description)
    flag = parser.add_argument_group("what to run").add_argument
    flag("--do_train", action="store_true", help="train, with evaluations on the dev data")
    flag("--do_eval", action="store_true", help="evaluate the best model on eval_split")
    flag("--eval_split", default="dev", choices=["dev", "test"], help="what do_eval looks at")
    flag("--data_dir", default="", help="directory with train/, dev/ and test/")
    flag("--eval_model_dir", default="", help="run to evaluate, instead of the one in model_dir")
    sizes = {"type": int, "action": _BothSizes, "dest": "valid_bsz", "default": argparse.SUPPRESS}
    flag("--eval_batch_size", **sizes, help="sets valid_bsz and test_bsz")
    flag("--max_qa_length", type=int, default=128, help="last tokens of question and option kept")
    flags.add_run_flags(flag)
    flags.add_uncached_data_flags(parser)
    flags.add_common_flags(parser)
    return parser


def with_evaluated_run(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with the best model of --eval_model_dir as the checkpoint that they name.

    Raises:
        ConfigError: there is no such model, or another one is asked for too.
    """
    if not args.eval_model_dir:
        return args
    if args.do_train or args.init_ckpt:
        raise ConfigError("--eval_model_dir goes without --do_train and --init_ckpt")
    best = Path(args.eval_model_dir) / "best"
    if not best.is_dir():
        raise ConfigError(f"--eval_model_dir={args.eval_model_dir}: no model in {best}")
    return argparse.Namespace(**vars(args) | {"init_ckpt": str(best)})


def check_flags(args: argparse.Namespace) -> RaceConfig:
    """Refuse what cannot work, before any file is read; returns how sequences are cut."""
    if not (args.do_train or args.do_eval):
        raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
    flags.check_given(args, "data_dir")
    flags.check_run_flags(args, trains=args.do_train, only="--do_eval")
    return RaceConfig(args.max_length, args.max_qa_length, flags.segment_ids(args))


def prepare(args: argparse.Namespace, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; writes nothing."""
    args = with_evaluated_run(args)
    config = check_flags(args)
    tokenizer = runs.load_tokenizer(args, trains=args.do_train)
    settings = flags.result_affecting_config(args)
    settings |= {"processes": world.size, "vocabulary": tokenizer.fingerprint}
    run = runs.open_run(args, settings, seed, trains=args.do_train)
    plan = runs.ModelFactory(FunnelForMultipleChoice, tokenizer, {})
    model = plan.load(args, run.checkpoint)
    splits = {"train", "dev"} if args.do_train else set()
    splits |= {args.eval_split} if args.do_eval else set()
    features = {
        split: encode_race(read_race(args.data_dir, split), tokenizer, config)
        for split in sorted(splits)
    }
    return RunInputs(features, run, plan, model)


def source_of(args: argparse.Namespace, inputs: RunInputs, split: str) -> PaddedSource:
    """The batches of a split."""
    return PaddedSource(
        inputs.features[split],
        inputs.model.config,
        args.max_length,
        inputs.plan.tokenizer.special.pad_id,
        flags.length_step(args),
    )


def evaluation(args: argparse.Namespace, inputs: RunInputs, split: str) -> Evaluation:
    size = args.valid_bsz if split == "dev" else args.test_bsz
    return build_evaluation(inputs.features[split], source_of(args, inputs, split), split, size)


def work(args: argparse.Namespace, world: DistributedContext) -> None:
    """The whole program in one process of ``world``."""
    seed = runs.common_seed(args, world)
    inputs = world.rank_zero_first(lambda: prepare(args, world, seed))
    model, scores = inputs.model.to(world.device), {}
    if args.do_train:
        source, evaluations = source_of(args, inputs, "train"), [evaluation(args, inputs, "dev")]
        known = runs.train(args, inputs.run, inputs.plan, model, source, evaluations, world)
        model, scores = known[0], dict(known[1])
    if args.do_eval and args.eval_split not in scores:
        split = args.eval_split
        scores[split] = evaluate(
            model, evaluation(args, inputs, split), world, flags.precision(args)
        )
    for split, values in scores.items():
        runs.log_scores(split, values)
    if args.model_dir and not args.debug:
        path = Path(args.model_dir) / "final_scores.json"
        world.on_rank_zero(lambda: atomic_write_json(path, scores))


def main() -> None:
    runs.start_program(race_parser(__doc__), work)


if __name__ == "__main__":
    run_main(main)
