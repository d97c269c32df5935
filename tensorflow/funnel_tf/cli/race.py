"""``race.py``: records, training and evaluation on RACE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from funnel.cli.flags import check_given
from funnel.config.model import ModelConfig
from funnel.features.record_files import ExampleFile
from funnel.features.tfrecords import RecordOptions, race_records
from funnel.inference.task_files import write_race_predictions
from funnel.tasks.race import race_accuracy, read_race
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import RaceSettings
from funnel_tf.models.heads import race_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.estimator import BuildGraph, Features, Graph
from funnel_tf.training.evaluation import Scores
from funnel_tf.training.patience import CachedScores
from funnel_tf.training.prediction import Predictions
from funnel_tf.training.run_directory import RunDirectory

_NEXT = {"evaluate this model on the test data": ("--do_eval=True", "--eval_split=test")}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything but record files is written."""

    tokenizer: Tokenizer
    config: ModelConfig
    files: dict[str, ExampleFile]
    directory: RunDirectory | None

    @property
    def graph(self) -> BuildGraph:
        """The multiple-choice model as a graph."""
        return partial(_build_graph, self.config)


def run(settings: RaceSettings) -> None:
    """Train, evaluate or both."""
    inputs, step = prepare(settings), 0
    score = CachedScores(partial(_score, settings, inputs))
    if inputs.directory is not None:
        metadata = {"tokenizer": inputs.tokenizer}
        files = [inputs.files["train"]]
        step = runs.fine_tune(
            settings, inputs.directory, files, inputs.config, inputs.graph, metadata, evaluate=score
        )
    best = runs.evaluate_if_asked(settings, score)
    if settings.task.do_predict:
        write_results(settings, inputs, runs.chosen_checkpoint(settings, best))
    if inputs.directory is not None:
        runs.close_run(settings, inputs.directory, step, best, _NEXT)


def prepare(settings: RaceSettings) -> RunInputs:
    """Read and check everything; write nothing but the record files.

    Raises:
        ConfigError: flags are missing or contradict each other.
    """
    wanted = settings.run
    do_predict = settings.task.do_predict
    if not (wanted.do_train or wanted.do_eval or do_predict):
        raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
    settings.predictions.check(writes=do_predict, flag="do_predict")
    configs.check_model_dir(settings)
    configs.check_eval_split(settings, settings.evaluation.eval_split, wanted.do_eval or do_predict)
    check_given(data_dir=settings.task.data_dir, output_dir=settings.records.output_dir)
    tokenizer = configs.open_tokenizer(settings, settings.sequences.segments)
    config = configs.model_config(settings, tokenizer)
    directory = None
    if wanted.do_train:
        configs.schedule_config(settings)  # refuses values out of range
        directory = runs.open_run(settings, tokenizer)
    return RunInputs(tokenizer, config, load_records(settings, tokenizer), directory)


def load_records(settings: RaceSettings, tokenizer: Tokenizer) -> dict[str, ExampleFile]:
    """Return the record files of this run by split; those that do not fit are rebuilt."""
    evaluation = settings.evaluation
    sequences = replace(settings.sequences, segments=tokenizer.segments)
    options = RecordOptions(settings.race.overwrite_data, segments=tokenizer.segments)
    wanted = {}
    if settings.run.do_train:
        wanted["train"] = replace(options, shuffle_seed=settings.run.seed or 0)
    if settings.run.do_eval or settings.task.do_predict:
        wanted[evaluation.eval_split] = replace(options, multiple=evaluation.eval_batch_size)
    place = (settings.records.output_dir, settings.task.data_dir)
    return {
        split: race_records(*place, split, tokenizer, sequences, chosen)
        for split, chosen in wanted.items()
    }


def write_results(settings: RaceSettings, inputs: RunInputs, checkpoint: Path) -> None:
    """Write the options that a checkpoint chooses for --eval_split."""
    split, chosen = settings.evaluation.eval_split, settings.predictions
    run = runs.evaluation_settings(settings, settings.evaluation.eval_batch_size)
    found = runs.predict_examples(run, inputs.graph, inputs.files[split], checkpoint)
    folder = Path(settings.run.model_dir or settings.eval_model_dir)
    name = "valid" if split == "dev" else split
    is_named = chosen.row_format is not None  # the ids are in the data only
    data = read_race(settings.task.data_dir, split) if is_named else None
    write_race_predictions(folder / f"{name}_results", found["logits"], chosen, data)


def _build_graph(
    config: ModelConfig, features: Features, options: GraphOptions, mode: str
) -> Graph:
    inputs = ModelInputs.from_features(features)
    labels, weights = features["label_ids"], features["is_real_example"]
    head = race_head(config, inputs, labels, weights, options)
    kept = {name: features[name] for name in ("label_ids", "is_high_example")}
    return Graph(head.loss, {**head.predictions, "loss": head.per_example_loss, **kept})


def _score(
    settings: RaceSettings, inputs: RunInputs, predictions: Predictions, checkpoint: Path
) -> Scores:
    """Return accuracy (all, middle, high) and loss of a checkpoint on --eval_split."""
    evaluation = settings.evaluation
    run = runs.evaluation_settings(settings, evaluation.eval_batch_size)
    file = inputs.files[evaluation.eval_split]
    found = predictions.predict(run, inputs.graph, file, checkpoint)
    metrics = race_accuracy(found["predictions"], found["label_ids"], found["is_high_example"])
    loss = float(np.mean(found["loss"], dtype=np.float64))
    return {evaluation.eval_split: {**metrics, "loss": loss}}
