"""``pretrain.py``: training and evaluation of masked language modelling and ELECTRA."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from funnel.cli.flags import check_given
from funnel.config.model import ModelConfig
from funnel.features.record_schema import pretraining_schema
from funnel.formats.tensor_bundle import resolve_prefix
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.pretraining.record_index import RecordCollection, find_records
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import PretrainSettings
from funnel_tf.data.input_pipeline import (
    PRETRAIN_SHUFFLE,
    InputConfig,
    num_batches,
    pretrain_input_fn,
    report_corrupt_records,
)
from funnel_tf.models.electra import electra_graph, mlm_graph
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.estimator import (
    BuildGraph,
    Features,
    Graph,
    InputFn,
    build_estimator,
    evaluate_graph,
    make_model_fn,
)
from funnel_tf.training.evaluation import (
    BestCheckpoint,
    Scores,
    evaluate_all,
    open_evaluation_log,
    write_best,
)
from funnel_tf.training.run_directory import (
    RunDirectory,
    SavedStep,
    wait_for_steps,
)

logger = logging.getLogger(__name__)

OBJECTIVES = {"mlm": mlm_graph, "electra": electra_graph}
_NEXT = {
    "score this model on other records": ("--do_train=False", "--do_eval=True", "--eval_split=test")
}


@dataclass(frozen=True)
class RunInputs:
    """Vocabulary, model and choice of targets of a run."""

    tokenizer: Tokenizer
    config: ModelConfig
    masker: Masker


def run(settings: PretrainSettings) -> None:
    """Train, evaluate or both."""
    inputs, step = prepare(settings), 0
    directory = runs.open_run(settings, inputs.tokenizer) if settings.run.do_train else None
    if directory is not None:
        step = train(settings, inputs, directory)
    best = evaluate(settings, inputs) if settings.run.do_eval else None
    if directory is not None:
        runs.close_run(settings, directory, step, best, _NEXT)


def prepare(settings: PretrainSettings) -> RunInputs:
    """Check the flags, and read vocabulary and configuration.

    Raises:
        ConfigError: flags are missing or contradict each other.
    """
    task, wanted = settings.task, settings.run
    if not (wanted.do_train or wanted.do_eval):
        raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
    check_given(record_dir=task.record_dir, seq_len=task.seq_len, model_dir=wanted.model_dir)
    configs.check_evaluated(settings, "eval_ckpt_path", settings.evaluation.eval_ckpt_path)
    tokenizer = configs.open_tokenizer(settings, settings.segments)
    config = configs.model_config(settings, tokenizer)
    masking = MaskingConfig(
        seq_len=task.seq_len,
        truncate_stride=truncation_stride(config),
        **asdict(settings.targets) | {"num_predict": settings.targets.count(task.seq_len)},
    )
    return RunInputs(tokenizer, config, Masker(masking, tokenizer.special, tokenizer.vocab_size))


def load_collection(
    settings: PretrainSettings, tokenizer: Tokenizer, split: str
) -> RecordCollection:
    """Return the records of a split."""
    task = settings.task
    place = (task.record_dir, split, task.seq_len, tokenizer.uncased, task.num_passes)
    found = find_records(*place, tokenizer)
    logger.info(
        "%s: %d records of %d tokens in %d files",
        *(split, found.num_examples, found.seq_len, len(found.files)),
    )
    return found


def train(settings: PretrainSettings, inputs: RunInputs, directory: RunDirectory) -> int:
    """Train up to --train_steps from the last checkpoint of the run; return the last step."""
    collection = load_collection(settings, inputs.tokenizer, "train")
    job = runs.TrainingJob(
        inputs.config,
        make_graph(settings, inputs.config),
        partial(pretrain_input_fn, collection, inputs.masker),
        metadata={"tokenizer": inputs.tokenizer},
        order=InputConfig(
            is_training=True,
            shuffle_buffer=PRETRAIN_SHUFFLE,
            shard_files=settings.input.shard_across_host,
        ),
        with_optimizer=settings.training.init_global_vars,
    )
    with _report_corrupt(collection, inputs):
        return runs.train_model(settings, directory, job)


def evaluate(settings: PretrainSettings, inputs: RunInputs) -> BestCheckpoint:
    """Score the checkpoints on --eval_split; return the one with the lowest loss."""
    evaluation, model_dir = settings.evaluation, settings.run.model_dir
    split, size = evaluation.eval_split, evaluation.eval_batch_size
    collection = load_collection(settings, inputs.tokenizer, split)
    run = runs.evaluation_settings(settings, size)
    graph = make_graph(settings, inputs.config)
    estimator = build_estimator(run, make_model_fn(graph, run))
    input_fn = pretrain_input_fn(collection, inputs.masker, InputConfig(is_training=False))
    count = num_batches(collection.num_examples, size)
    if 0 < evaluation.max_eval_batch < count:
        count = evaluation.max_eval_batch
    score = partial(_score, settings, estimator, input_fn, count)
    is_waiting = evaluation.eval_wait > 0 and not settings.run.do_train
    log = open_evaluation_log(model_dir, is_waiting, replaces=settings.run.do_train)
    with _report_corrupt(collection, inputs):
        best = evaluate_all(find_checkpoints(settings), score, log, higher_is_better=False)
    log.close()
    write_best(best, model_dir)
    return best


def _score(
    settings: PretrainSettings, estimator: Any, input_fn: InputFn, count: int, checkpoint: Path
) -> Scores:
    """Return the losses of a checkpoint over ``count`` batches; the first one selects the best."""
    found = evaluate_graph(estimator, input_fn, checkpoint, count)
    disc_loss = settings.objective.disc_coeff * found.get("disc_loss", 0.0)
    return {settings.evaluation.eval_split: {"loss": found["mlm_loss"] + disc_loss, **found}}


def find_checkpoints(settings: PretrainSettings) -> Iterable[SavedStep]:
    """Return the checkpoints to evaluate, by step."""
    evaluation, model_dir = settings.evaluation, settings.run.model_dir
    if evaluation.eval_ckpt_path:
        prefix = resolve_prefix(evaluation.eval_ckpt_path)
        step = prefix.name.rpartition("-")[2]
        return [SavedStep(int(step) if step.isdigit() else 0, prefix)]
    if evaluation.eval_wait > 0 and not settings.run.do_train:
        first, last = evaluation.start_eval_steps, settings.training.train_steps
        return wait_for_steps(model_dir or "", first - 1, last, last, evaluation.eval_wait)
    every = runs.saved_checkpoints(settings, model_dir)
    found = [saved for saved in every if saved.step >= evaluation.start_eval_steps]
    if not found:
        logger.info(
            "%s: no checkpoint from --start_eval_steps=%d on; scoring the last one, of step %d",
            *(model_dir, evaluation.start_eval_steps, every[-1].step),
        )
    return found or every[-1:]


def make_graph(settings: PretrainSettings, config: ModelConfig) -> BuildGraph:
    """Return the objective as a graph.

    Raises:
        ConfigError: ELECTRA's generator has no valid sizes.
    """
    if settings.task.loss_type == "electra":
        settings.objective.generator(config)
    return partial(_build_graph, settings, config)


def _build_graph(
    settings: PretrainSettings,
    config: ModelConfig,
    features: Features,
    options: GraphOptions,
    mode: str,
) -> Graph:
    objective = OBJECTIVES[settings.task.loss_type]
    output = objective(config, features, options, settings.objective)
    scalars = {"mlm_loss": output.mlm_loss}
    if output.disc_loss is not None:
        scalars["disc_loss"] = output.disc_loss
    return Graph(output.loss, metrics=output.metrics, scalars=scalars)


def _report_corrupt(
    collection: RecordCollection, inputs: RunInputs
) -> AbstractContextManager[None]:
    """Turn TensorFlow's error about a record into one that names its file and number."""
    files = [str(file.path) for file in collection.files]
    schema = pretraining_schema(collection.seq_len, inputs.tokenizer.vocab_size)
    return report_corrupt_records(files, schema, collection.counts.tolist())
