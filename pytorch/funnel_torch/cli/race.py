"""RACE, from settings to scores: what ``race.py`` runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from funnel.cli.sweep import run_seeds
from funnel.features.race import RaceFeatures, encode_race
from funnel.inference.task_files import write_race_predictions
from funnel.tasks.race import read_race
from funnel.utils.files import atomic_write_json
from funnel_torch.cli import model_factory, processes, runs
from funnel_torch.cli.settings.race import RaceSettings
from funnel_torch.data.batching import PaddedSource
from funnel_torch.models.heads import FunnelForMultipleChoice
from funnel_torch.tasks.finetune import Evaluation, predict
from funnel_torch.tasks.race import build_evaluation
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

_NEXT = {"evaluate this model on the test data": ("--do_eval", "--eval_split=test")}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    features: dict[str, RaceFeatures]
    run: runs.RunContext
    factory: model_factory.ModelFactory[FunnelForMultipleChoice]
    model: FunnelForMultipleChoice


def run(settings: RaceSettings) -> None:
    """Train and evaluate in this process, one of several perhaps."""
    if settings.series.seeds:
        run_seeds(settings.series, settings.run.model_dir)
        return
    with processes.start_processes(settings) as world:
        task, seed = settings.task, processes.common_seed(settings, world)
        inputs = world.rank_zero_first(prepare, settings, world, seed)
        model = inputs.model.to(world.device)
        known: Scores = {}
        if task.do_train:
            model, known = train(settings, inputs, world)
        scores = dict(known)
        if task.do_eval and (task.eval_split not in scores or task.write_prediction):
            scores[task.eval_split] = evaluate_split(settings, inputs, model, world)
        for split in scores.keys() - known.keys():
            runs.log_scores(split, scores[split])
        if settings.run.model_dir and not settings.run.debug:
            path = Path(settings.run.model_dir) / "final_scores.json"
            world.on_rank_zero(atomic_write_json, path, scores)
        runs.close_run(inputs.run, world, _NEXT)


def train(
    settings: RaceSettings, inputs: RunInputs, world: DistributedContext
) -> tuple[FunnelForMultipleChoice, Scores]:
    """Fine-tune; return the best model (with --debug: the last one) and its dev scores."""
    source = make_source(settings, inputs, "train")
    evaluations = [make_evaluation(settings, inputs, "dev")]
    return runs.train(
        settings, inputs.run, inputs.factory, inputs.model, source, evaluations, world
    )


def evaluate_split(
    settings: RaceSettings,
    inputs: RunInputs,
    model: FunnelForMultipleChoice,
    world: DistributedContext,
) -> dict[str, float]:
    """Return the scores of --eval_split; write the chosen options if asked to."""
    split, precision = settings.task.eval_split, settings.device.precision
    one = make_evaluation(settings, inputs, split)
    outputs = predict(
        model, one.source, one.outputs, world, batch_size=one.batch_size, precision=precision
    )
    if settings.task.write_prediction and not settings.run.debug:
        world.on_rank_zero(write_predictions, settings, outputs["logits"])
    return one.score(outputs)


def write_predictions(settings: RaceSettings, logits: np.ndarray) -> None:
    """Write the options chosen for --eval_split to model_dir."""
    task, name = settings.task, "test" if settings.task.eval_split == "test" else "valid"
    path, data = Path(settings.run.model_dir) / f"{name}_results", None
    if settings.predictions.row_format is not None:
        data = read_race(task.data_dir, task.eval_split)  # only its encoded form is in memory
    write_race_predictions(path, logits, settings.predictions, data)


def prepare(settings: RaceSettings, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; write nothing."""
    settings.check()
    task = settings.task
    segments = settings.sequences.segments
    tokenizer = runs.load_tokenizer(settings, trains=task.do_train, segments=segments)
    sequences = replace(settings.sequences, segments=tokenizer.segments)
    config = settings.result_affecting_config()
    config |= {"processes": world.size, "vocabulary": tokenizer.fingerprint}
    run_context = runs.open_run(settings, config, seed, world, trains=task.do_train)
    runs.check_results(settings, run_context, model_dir=settings.run.model_dir)
    length = settings.sequences.max_seq_length
    factory = model_factory.make_factory(settings, FunnelForMultipleChoice, tokenizer, length, {})
    model = factory.load(run_context.checkpoint)
    splits = {"train", "dev"} if task.do_train else set()
    splits |= {task.eval_split} if task.do_eval else set()
    features = {
        split: encode_race(read_race(task.data_dir, split), tokenizer, sequences)
        for split in sorted(splits)
    }
    for split, encoded in features.items():
        encoded.report().log(split, task.data_dir, tokenizer.path)
    return RunInputs(features, run_context, factory, model)


def make_source(settings: RaceSettings, inputs: RunInputs, split: str) -> PaddedSource:
    """Return the batches of a split."""
    length = settings.sequences.max_seq_length
    return PaddedSource(
        inputs.features[split],
        inputs.model.config,
        length,
        inputs.factory.tokenizer.special.pad_id,
        settings.device.length_step(length),
    )


def make_evaluation(settings: RaceSettings, inputs: RunInputs, split: str) -> Evaluation:
    """Return the evaluation of a split."""
    sizes = settings.evaluation
    size = sizes.valid_bsz if split == "dev" else sizes.test_bsz
    source = make_source(settings, inputs, split)
    return build_evaluation(inputs.features[split], source, split, size)
