"""SQuAD, from settings to answers and scores: what ``squad.py`` runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from funnel.cli.squad import build_source
from funnel.cli.sweep import run_seeds
from funnel.features.squad import SquadWindows
from funnel.features.squad_cache import find_train_windows, load_or_build_windows
from funnel.features.squad_predictions import SquadAnswers, write_answers
from funnel.features.squad_scoring import BEAM_FIELDS, score_ensemble
from funnel.inference.task_files import write_answer_rows
from funnel.tasks.squad import SquadData
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import check_same_ids
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel_torch.cli import model_factory, processes, runs
from funnel_torch.cli.settings.squad import SquadSettings
from funnel_torch.data.batching import PaddedSource
from funnel_torch.tasks.finetune import Outputs, predict
from funnel_torch.tasks.squad import SquadScorer, TrainableQuestionAnswering
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

logger = logging.getLogger(__name__)

_NEXT = {"answer the questions of a file with this model": ("--do_predict", "--predict_file=FILE")}

Factory = model_factory.ModelFactory[TrainableQuestionAnswering]


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    train: SquadWindows | None
    scorer: SquadScorer | None
    run: runs.RunContext
    factory: Factory
    model: TrainableQuestionAnswering


def run(settings: SquadSettings) -> None:
    """Fill the cache, let an ensemble answer, or train and predict, in this process."""
    if settings.series.seeds:
        run_seeds(settings.series, settings.run.model_dir)
        return
    with processes.start_processes(settings) as world:
        if split := settings.cache.prepro_split:
            world.on_rank_zero(preprocess, settings, split)
        elif settings.ensemble.do_ensemble:
            ensemble(settings, world)
        else:
            train_and_predict(settings, world)


def train_and_predict(settings: SquadSettings, world: DistributedContext) -> None:
    """Train if asked to, and predict if asked to."""
    seed = processes.common_seed(settings, world)
    inputs = world.rank_zero_first(prepare, settings, world, seed)
    model = inputs.model.to(world.device)
    scores: Scores = {}
    if inputs.train is not None:
        model, scores = train(settings, inputs, inputs.train, world)
    finish(settings, inputs, model, scores, world)
    runs.close_run(inputs.run, world, _NEXT)


def make_factory(settings: SquadSettings) -> Factory:
    """Return the tokenizer and the head that the settings describe."""
    trains = settings.task.do_train or bool(settings.cache.prepro_split)
    accents, segments = settings.cache.keep_accents, settings.windows.segments
    tokenizer = runs.load_tokenizer(
        settings, trains=trains, segments=segments, keep_accents=accents
    )
    length, arguments = settings.windows.max_seq_length, {"answers": settings.head}
    return model_factory.make_factory(
        settings, TrainableQuestionAnswering, tokenizer, length, arguments
    )


def load_questions(
    settings: SquadSettings, split: str, tokenizer: Tokenizer
) -> tuple[SquadData, SquadWindows]:
    """Return the questions to train on, or to answer (``eval``), and their windows."""
    cache = settings.cache
    debug, overwrite = cache.debug_mode, cache.overwrite_data
    windows = replace(settings.windows, segments=tokenizer.segments)
    source = build_source(settings.files, split, windows, debug_mode=debug, overwrite=overwrite)
    found = load_or_build_windows(source, tokenizer, cache.output_dir, split, cache.num_proc)
    return found.data, found.windows


def load_train_windows(settings: SquadSettings, tokenizer: Tokenizer) -> SquadWindows:
    """Return the windows to train on; without --train_file they must be in the cache."""
    files, cache = settings.files, settings.cache
    if Path(files.train_file).is_file():
        return load_questions(settings, "train", tokenizer)[1]
    source = build_source(files, "train", settings.windows, debug_mode=cache.debug_mode)
    return find_train_windows(source, tokenizer, cache.output_dir)


def make_scorer(settings: SquadSettings, tokenizer: Tokenizer) -> SquadScorer:
    """Return the questions of --predict_file, ready to be answered and scored."""
    data, windows = load_questions(settings, "eval", tokenizer)
    files = settings.files
    return SquadScorer(data, windows, settings.answers, files.eval_version, files.target)


def prepare(settings: SquadSettings, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; write nothing but the cache of tokenized files."""
    settings.check()
    factory, trains, path = (
        make_factory(settings),
        settings.task.do_train,
        settings.files.predict_file,
    )
    config = settings.result_affecting_config()
    config |= {"processes": world.size, "vocabulary": factory.tokenizer.fingerprint}
    run_context = runs.open_run(settings, config, seed, world, trains=trains)
    predict_dir, model_dir = settings.files.predict_dir, settings.run.model_dir
    folders = {"predict_dir": predict_dir} if predict_dir else {"model_dir": model_dir}
    runs.check_results(settings, run_context, **folders)
    model = factory.load(run_context.checkpoint)
    scorer = make_scorer(settings, factory.tokenizer) if path else None
    train = None
    if trains:
        train = load_train_windows(settings, factory.tokenizer)
        if scorer is not None and not scorer.has_gold:
            raise DataError(
                f"{path}: has no answers to choose the best model by; "
                "train without it, then --do_predict"
            )
    return RunInputs(train, scorer, run_context, factory, model)


def make_source(
    settings: SquadSettings,
    model: TrainableQuestionAnswering,
    windows: SquadWindows,
    pad_id: int,
) -> PaddedSource:
    """Return the batches of windows."""
    # The beam needs as many positions as it is wide.
    least = max(settings.head.start_n_top, settings.head.end_n_top)
    length = settings.windows.max_seq_length
    step = settings.device.length_step(length)
    return PaddedSource(windows, model.config, length, pad_id, step, min_length=least)


def train(
    settings: SquadSettings, inputs: RunInputs, windows: SquadWindows, world: DistributedContext
) -> tuple[TrainableQuestionAnswering, Scores]:
    """Fine-tune; return the best model (without --predict_file: the last one) and its scores."""
    model, pad_id = inputs.model, inputs.factory.tokenizer.special.pad_id
    evaluations = []
    if inputs.scorer is not None:
        source = make_source(settings, model, inputs.scorer.windows, pad_id)
        evaluations = [inputs.scorer.evaluation(source, settings.evaluation.valid_bsz)]
    source = make_source(settings, model, windows, pad_id)
    return runs.train(settings, inputs.run, inputs.factory, model, source, evaluations, world)


def predict_windows(
    settings: SquadSettings,
    model: TrainableQuestionAnswering,
    scorer: SquadScorer,
    pad_id: int,
    world: DistributedContext,
) -> Outputs:
    """Return the outputs of a model for all windows, in every process."""
    source = make_source(settings, model, scorer.windows, pad_id)
    size, precision = settings.evaluation.valid_bsz, settings.device.precision
    return predict(model, source, BEAM_FIELDS, world, batch_size=size, precision=precision)


def finish(
    settings: SquadSettings,
    inputs: RunInputs,
    model: TrainableQuestionAnswering,
    known: Scores,
    world: DistributedContext,
) -> None:
    """Predict if asked to; write answers and scores."""
    scores, answers, scorer = dict(known), None, inputs.scorer
    model_dir = "" if settings.run.debug else settings.run.model_dir
    folder = settings.files.predict_dir or model_dir
    if settings.task.do_predict and scorer is not None:
        pad_id = inputs.factory.tokenizer.special.pad_id
        outputs = predict_windows(settings, model, scorer, pad_id, world)
        answers = scorer.answers(outputs)
        if folder and settings.files.save_logits:
            world.on_rank_zero(scorer.write_logits, outputs, folder)
        if scorer.has_gold:
            scores["dev"] = scorer.score(answers)
        else:
            logger.info("%s: has no answers, so there are no scores", settings.files.predict_file)
    for split, values in scores.items():
        if values != known.get(split):
            runs.log_scores(split, values)
    if folder and folder != model_dir:
        logger.info("answers and scores are in %s", folder)
    if folder:
        world.on_rank_zero(write_results, settings, folder, answers, scores)


def write_results(
    settings: SquadSettings, folder: str, answers: SquadAnswers | None, scores: Scores
) -> None:
    """Write the answers and scores that there are."""
    if answers is not None:
        write_answers(answers, folder)
        write_answer_rows(folder, answers, settings.predictions)
    if scores:
        atomic_write_json(Path(folder) / "final_scores.json", scores)


def prepare_ensemble(settings: SquadSettings) -> tuple[Factory, SquadScorer]:
    """Read and check everything that the members of an ensemble share."""
    settings.check()
    factory = make_factory(settings.with_checkpoint(settings.members[0]))
    return factory, make_scorer(settings, factory.tokenizer)


def ensemble(settings: SquadSettings, world: DistributedContext) -> None:
    """Average the answers of several checkpoints; write those above the threshold."""
    factory, scorer = world.rank_zero_first(prepare_ensemble, settings)
    flags, members = settings.ensemble, []
    for path in settings.members:
        member = replace(factory, init=replace(factory.init, checkpoint=path))
        own = make_factory(settings.with_checkpoint(path)).tokenizer
        check_same_ids(own, factory.tokenizer)
        model, pad_id = member.load().to(world.device), factory.tokenizer.special.pad_id
        outputs = predict_windows(settings, model, scorer, pad_id, world)
        members.append(scorer.answers(outputs))
    predictions, scores = score_ensemble(scorer, members, flags)
    if scores:
        runs.log_scores("dev", scores)
    output = Path(flags.ensemble_output_file)
    world.on_rank_zero(atomic_write_json, output, predictions)


def preprocess(settings: SquadSettings, split: str) -> None:
    """Put one file into the cache."""
    settings.check()
    data, windows = load_questions(settings, split, make_factory(settings).tokenizer)
    logger.info("%s: %d questions, %d windows", data.path, len(data.questions), len(windows))
