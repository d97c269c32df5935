"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

    python pytorch/squad.py --do_train --do_predict --train_file=train-v2.0.json \\
        --predict_file=dev-v2.0.json --model_dir=EXP --init_ckpt=CKPT \\
        --tokenizer_path=CKPT/vocab.uncased.txt --train_bsz=48 --lr=3e-5 --train_steps=8000 \\
        --warmup_steps=1000 --lr_layer_decay_rate=0.75
    python pytorch/squad.py --do_predict --predict_file=dev-v2.0.json --model_dir=EXP
    python pytorch/squad.py --do_ensemble --ensemble_ckpts=EXP1/best,EXP2/best \\
        --predict_file=dev-v2.0.json --ensemble_output_file=predictions.json --search_threshold
    python pytorch/squad.py --prepro_split=train --train_file=train-v2.0.json --output_dir=PROC \
        --tokenizer_path=CKPT/vocab.uncased.txt                  # then pass --output_dir above
    torchrun --nproc_per_node=8 pytorch/squad.py ...             # --train_bsz counts per process

Answers go to predictions.json, nbest_predictions.json and null_odds.json in --predict_dir (default
model_dir), metrics to final_scores.json there. A run that was killed continues when the same
command is given again.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401

from funnel.features.squad import SquadWindows
from funnel.features.squad_cache import load_or_build_windows
from funnel.features.squad_predictions import SquadAnswers, write_answers
from funnel.features.squad_scoring import BEAM_FIELDS, score_ensemble
from funnel.tasks.squad import SquadData
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from funnel_torch.cli import flags, runs, squad_flags
from funnel_torch.data.batching import PaddedSource
from funnel_torch.tasks.finetune import predict
from funnel_torch.tasks.squad import SquadScorer, TrainableQuestionAnswering
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

logger = logging.getLogger(__name__)

Plan = runs.ModelFactory[TrainableQuestionAnswering]


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    train: SquadWindows | None
    scorer: SquadScorer | None
    run: runs.RunContext
    plan: Plan
    model: TrainableQuestionAnswering


def plan_of(args: argparse.Namespace) -> Plan:
    """The tokenizer and the head that the flags ask for."""
    trains = args.do_train or bool(args.prepro_split)
    tokenizer = runs.load_tokenizer(args, trains=trains, keep_accents=args.keep_accents)
    arguments = {"answers": squad_flags.answer_config(args)}
    return runs.ModelFactory(TrainableQuestionAnswering, tokenizer, arguments)


def questions_of(
    args: argparse.Namespace, split: str, tokenizer: Tokenizer
) -> tuple[SquadData, SquadWindows]:
    """The questions to train on, or to answer (``eval``), and their windows."""
    source = squad_flags.source(args, split)
    found = load_or_build_windows(source, tokenizer, args.output_dir, split, args.num_proc)
    return found.data, found.windows


def scorer_of(args: argparse.Namespace, tokenizer: Tokenizer) -> SquadScorer:
    """The questions of --predict_file, ready to be answered and scored."""
    data, windows = questions_of(args, "eval", tokenizer)
    settings = squad_flags.answer_settings(args)
    target = squad_flags.squad_settings(args).target
    return SquadScorer(data, windows, settings, args.eval_version, target)


def prepare(args: argparse.Namespace, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; writes nothing but the cache of tokenized files."""
    squad_flags.check(args)
    plan = plan_of(args)
    settings = squad_flags.run_settings(args)
    settings |= {"processes": world.size, "vocabulary": plan.tokenizer.fingerprint}
    run = runs.open_run(args, settings, seed, trains=args.do_train)
    model = plan.load(args, run.checkpoint)
    scorer = scorer_of(args, plan.tokenizer) if args.predict_file else None
    train = None
    if args.do_train:
        train = questions_of(args, "train", plan.tokenizer)[1]
        if scorer is not None and not scorer.has_gold:
            raise DataError(
                f"{args.predict_file}: has no answers to choose the best model by; "
                "train without it, then --do_predict"
            )
    return RunInputs(train, scorer, run, plan, model)


def source_of(
    args: argparse.Namespace, model: TrainableQuestionAnswering, windows: SquadWindows, pad_id: int
) -> PaddedSource:
    """The batches of windows."""
    # A window has to have as many positions as the beam is wide.
    least = max(args.start_n_top, args.end_n_top)
    step = flags.length_step(args)
    return PaddedSource(windows, model.config, args.max_length, pad_id, step, min_length=least)


def train(
    args: argparse.Namespace, inputs: RunInputs, windows: SquadWindows, world: DistributedContext
) -> tuple[TrainableQuestionAnswering, Scores]:
    """Fine-tune; returns the best model (without --predict_file: the final one), its scores."""
    model, pad_id = inputs.model.to(world.device), inputs.plan.tokenizer.special.pad_id
    evaluations = []
    if inputs.scorer is not None:
        source = source_of(args, model, inputs.scorer.windows, pad_id)
        evaluations = [inputs.scorer.evaluation(source, args.valid_bsz)]
    source = source_of(args, model, windows, pad_id)
    return runs.train(args, inputs.run, inputs.plan, model, source, evaluations, world)


def answers_of(
    args: argparse.Namespace,
    model: TrainableQuestionAnswering,
    scorer: SquadScorer,
    pad_id: int,
    world: DistributedContext,
) -> SquadAnswers:
    """What a model answers, in every process."""
    source = source_of(args, model, scorer.windows, pad_id)
    size, precision = args.valid_bsz, flags.precision(args)
    return scorer.answers(
        predict(model, source, BEAM_FIELDS, world, batch_size=size, precision=precision)
    )


def finish(
    args: argparse.Namespace,
    inputs: RunInputs,
    model: TrainableQuestionAnswering,
    known: Scores,
    world: DistributedContext,
) -> None:
    """Predict if asked to; write answers and scores."""
    scores, answers = dict(known), None
    if args.do_predict and inputs.scorer is not None:
        answers = answers_of(
            args, model, inputs.scorer, inputs.plan.tokenizer.special.pad_id, world
        )
        if inputs.scorer.has_gold:
            scores["dev"] = inputs.scorer.score(answers)
        else:
            logger.info("%s: has no answers, so there are no scores", args.predict_file)
    for split, values in scores.items():
        runs.log_scores(split, values)
    folder = args.predict_dir or ("" if args.debug else args.model_dir)
    if not folder:
        return

    def write() -> None:
        if answers is not None:
            write_answers(answers, folder)
        if scores:
            atomic_write_json(Path(folder) / "final_scores.json", scores)

    world.on_rank_zero(write)


def ensemble(args: argparse.Namespace, world: DistributedContext) -> None:
    """Let several checkpoints answer together; write their answers above the threshold."""

    def prepare_ensemble() -> tuple[list[argparse.Namespace], Plan, SquadScorer]:
        squad_flags.check(args)
        members = squad_flags.members(args)
        plan = plan_of(members[0])
        return members, plan, scorer_of(args, plan.tokenizer)

    members, plan, scorer = world.rank_zero_first(prepare_ensemble)
    opinions = []
    for member in members:
        model = plan.load(member, None).to(world.device)
        pad_id = plan.tokenizer.special.pad_id
        opinions.append(answers_of(args, model, scorer, pad_id, world))
    predictions, scores = score_ensemble(scorer, opinions, squad_flags.ensemble_settings(args))
    if scores:
        runs.log_scores("dev", scores)
    world.on_rank_zero(lambda: atomic_write_json(Path(args.ensemble_output_file), predictions))


def preprocess(args: argparse.Namespace) -> None:
    """Put one file into the cache."""
    squad_flags.check(args)
    data, windows = questions_of(args, args.prepro_split, plan_of(args).tokenizer)
    logger.info("%s: %d questions, %d windows", data.path, len(data.questions), len(windows))


def work(args: argparse.Namespace, world: DistributedContext) -> None:
    """The whole program in one process of ``world``."""
    if args.prepro_split:
        world.on_rank_zero(lambda: preprocess(args))
        return
    if args.do_ensemble:
        ensemble(args, world)
        return
    seed = runs.common_seed(args, world)
    inputs = world.rank_zero_first(lambda: prepare(args, world, seed))
    model, scores = inputs.model.to(world.device), {}
    if inputs.train is not None:
        model, scores = train(args, inputs, inputs.train, world)
    finish(args, inputs, model, scores, world)


def main() -> None:
    runs.start_program(squad_flags.squad_parser(__doc__), work)


if __name__ == "__main__":
    run_main(main)
