"""``funnel_torch.finetune``: from texts in Python to a trained classifier, in one call."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funnel.checkpoints import Checkpoint, load_checkpoint
from funnel.checkpoints.saved_head import describe_heads
from funnel.config.model import ModelConfig
from funnel.features.classification import encode_examples
from funnel.tasks import Example, Task
from funnel.tasks.saved_labels import take_labels
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import load_tokenizer
from funnel.utils.errors import ConfigError
from funnel_torch.data.batching import SequenceSource
from funnel_torch.models.heads import FunnelForSequenceClassification
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.weight_mapping import export_tensors
from funnel_torch.tasks import in_memory
from funnel_torch.tasks.api_config import FinetuneOptions, named_as_arguments, show_options
from funnel_torch.tasks.api_run import FinetuneRun, InitialModel
from funnel_torch.tasks.classification import decisions, score
from funnel_torch.tasks.finetune import predict
from funnel_torch.tasks.in_memory import ColumnNames, LabelRequest, Rows
from funnel_torch.training.devices import check_precision, choose_device
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.lora import has_adapters, merged_copy
from funnel_torch.training.saving import ModelSaver

Start = str | os.PathLike[str] | ModelConfig | PretrainedModel


@dataclass(frozen=True)
class FinetunedModel:
    """A trained classifier (or regressor) of texts or pairs; :func:`finetune` returns one.

    Attributes:
        model: the model, in evaluation mode: the best one on the dev data, else the last one.
        tokenizer: its tokenizer.
        labels: the classes in the order of the logits, as the training data gave them; empty for
            regression.
        scores: metrics of the dev data, the main one first; empty without dev data.
        history: what was logged, one dictionary per line: ``step``, ``split`` and metrics.
        task: labels, problem type and metrics.
        options: those of the call.
        pairs: whether the training data were pairs of texts.
    """

    model: FunnelForSequenceClassification
    tokenizer: Tokenizer
    labels: tuple[Any, ...]
    scores: Mapping[str, float]
    history: list[dict[str, Any]]
    task: Task
    options: FinetuneOptions
    pairs: bool

    def logits(self, texts: Any) -> np.ndarray:
        """Return the outputs of the model, float32 [n, number of labels], by text.

        Args:
            texts: strings, pairs of strings, or a table with the columns of the training data.

        Raises:
            DataError: a text is missing or no string, or these are pairs and the training data were
                not, or the other way round.
        """
        columns = ColumnNames(**self.options.columns())
        rows = in_memory.read_rows("texts", texts, columns, labelled=False)
        rows.check_form(self.pairs)
        examples = [Example(row.text, row.text_b, None) for row in rows.rows]
        source = _encode(examples, self.model, self.tokenizer, self.options.max_length)
        return self._outputs(source)["logits"]

    def predict(self, texts: Any) -> list[Any]:
        """Return the label of every text (regression: the number); see :meth:`logits`."""
        found = decisions(self.task, self.logits(texts))
        if self.task.is_regression:
            return found.tolist()
        return [self.labels[index] for index in found]

    def probabilities(self, texts: Any) -> np.ndarray:
        """Return the probability of every label, float32 [n, labels]; see :meth:`logits`.

        Raises:
            ConfigError: the model predicts numbers, which have no probabilities.
        """
        if self.task.is_regression:
            raise ConfigError("probabilities: this model predicts numbers; use predict")
        return torch.from_numpy(self.logits(texts)).softmax(-1).numpy()

    def evaluate(self, data: Any) -> dict[str, float]:
        """Return the metrics of labelled data in any form that :func:`finetune` takes.

        Raises:
            DataError: a text or label is missing or unknown, or the texts are of another form, see
                :meth:`logits`.
        """
        rows = in_memory.read_rows("data", data, ColumnNames(**self.options.columns()))
        rows.check_form(self.pairs)
        examples, _ = in_memory.read_examples(rows, self.task)
        source = _encode(examples, self.model, self.tokenizer, self.options.max_length)
        assert source.features.labels is not None
        return score(self.task, source.features.labels, self._outputs(source))

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write model, vocabulary and labels as ``save_pretrained`` does; return the directory."""
        ModelSaver(self.model, self.tokenizer, self.task.labels).save(Path(directory))
        return Path(directory)

    def _outputs(self, source: SequenceSource) -> dict[str, np.ndarray]:
        options = self.options
        device = next(self.model.parameters()).device
        world = DistributedContext(0, 1, device)
        size = options.eval_batch_size
        return predict(
            self.model, source, ["logits"], world, batch_size=size, precision=options.precision
        )


@show_options
def finetune(model: Start, train: Any, dev: Any = None, **options: Any) -> FinetunedModel:
    """Fine-tune a model on texts, or pairs of texts, with a label or number each.

    Training is that of ``classifier.py``: AdamW, linear warm-up and decay, an evaluation per epoch,
    of which the best model is kept. The random generators of Python, NumPy and PyTorch are seeded.

    Args:
        model: path or hub name of a checkpoint of any kind; a model, which is not changed; or a
            :class:`~funnel.ModelConfig`, for random weights.
        train: a list of tuples (text, label) or (text, second text, label), a list of dictionaries,
            a dictionary of columns, a pandas data frame or a ``datasets.Dataset``.
        dev: the same, for scores and the choice of the best model.
        **options: see :class:`~funnel_torch.tasks.api_config.FinetuneOptions`.

    Raises:
        FunnelError: data, options or checkpoint do not fit; training diverged.
    """
    with named_as_arguments():
        return _finetune(model, train, dev, FinetuneOptions.build(options))


def _finetune(model: Start, train: Any, dev: Any, chosen: FinetuneOptions) -> FinetunedModel:
    device = choose_device(0, chosen.device)
    check_precision(device, chosen.precision)
    columns = ColumnNames(**chosen.columns())
    splits = {"train": in_memory.read_rows("train", train, columns)}
    if dev is not None:
        splits["dev"] = in_memory.read_rows("dev", dev, columns)
        splits["dev"].check_form(splits["train"].are_pairs)
    start = _read_start(model, chosen)
    task = _choose_task(splits["train"], start, chosen)
    examples = {name: in_memory.read_examples(rows, task) for name, rows in splits.items()}
    run = FinetuneRun(chosen, start, task, DistributedContext(0, 1, device))
    initial = run.load()
    sources = {}
    for name, (found, report) in examples.items():
        source = _encode(found, initial, start.tokenizer, chosen.max_length)
        report = replace(report, texts=source.features.texts)
        report.log(name, f"{len(found)} examples", start.tokenizer.path)
        sources[name] = source
    trained, progress, history = run.train(initial, sources, _fingerprint(splits))
    originals = in_memory.original_labels(splits["train"], task)
    labels = tuple(originals[label] for label in task.known_labels())
    scores = dict(progress.best.get("dev", {}))
    trained.label_names = tuple(task.labels or ())
    pairs = splits["train"].are_pairs
    return FinetunedModel(trained, start.tokenizer, labels, scores, history, task, chosen, pairs)


def _read_start(model: Start, options: FinetuneOptions) -> InitialModel:
    """Read the initial checkpoint and the tokenizer.

    Raises:
        FunnelError: there is no checkpoint, or no vocabulary that fits it.
    """
    if isinstance(model, ModelConfig):
        return InitialModel("random weights", None, model, _open_tokenizer(options, None))
    if isinstance(model, PretrainedModel):
        metadata: dict[str, Any] = {
            "path": type(model).__name__,
            "vocab_path": model.vocab_path or None,
        }
        if has_adapters(model):
            model = merged_copy(model)
        if model.label_names:
            metadata["labels"] = list(model.label_names)
        tensors = {name: array.copy() for name, array in export_tensors(model).items()}
        checkpoint = Checkpoint(model.config, tensors, metadata | model.head_metadata())
    elif isinstance(model, str | os.PathLike):
        checkpoint = load_checkpoint(os.fspath(model))
    else:
        raise ConfigError(
            f"finetune: a {type(model).__name__} is no model; give a path, a hub name, a model of "
            "funnel_torch or a ModelConfig"
        )
    tokenizer = _open_tokenizer(options, checkpoint.metadata.get("vocab_path"))
    name, is_object = str(checkpoint.metadata.get("path")), isinstance(model, PretrainedModel)
    return InitialModel(name, checkpoint, None, tokenizer, is_object)


def _open_tokenizer(options: FinetuneOptions, vocab_path: str | None) -> Tokenizer:
    given = options.tokenizer
    if isinstance(given, Tokenizer):
        return given
    if given is not None:
        return load_tokenizer(given)
    if not vocab_path:
        raise ConfigError("finetune: the model has no vocabulary with it; tokenizer=... names one")
    return load_tokenizer(Path(vocab_path).parent)


def _choose_task(train: Rows, start: InitialModel, options: FinetuneOptions) -> Task:
    """Return the task of the training data, with its labels in the order of the model's head."""
    request = LabelRequest(options.labels, options.regression, options.metric)
    task = in_memory.build_task(train, request)
    if start.checkpoint is None or options.new_head:
        return task
    heads = describe_heads(start.checkpoint)
    head = heads.get(task.name) or (next(iter(heads.values())) if len(heads) == 1 else None)
    return task if head is None else take_labels(task, head, "", "new_head=True starts a fresh one")


def _encode(
    examples: list[Example],
    model: FunnelForSequenceClassification,
    tokenizer: Tokenizer,
    max_length: int,
) -> SequenceSource:
    features = encode_examples(examples, tokenizer, max_length, tokenizer.segments)
    pad_id, segment_pad = tokenizer.special.pad_id, tokenizer.segments.pad
    return SequenceSource(features, model.config, max_length, pad_id, segment_pad)


def _fingerprint(splits: Mapping[str, Rows]) -> str:
    """Return a hash of all texts and labels."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        for row in rows.rows:
            digest.update(json.dumps([name, row.text, row.text_b, str(row.label)]).encode())
    return digest.hexdigest()
