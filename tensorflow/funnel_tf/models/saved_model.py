"""Export to a TensorFlow SavedModel: one signature per length, verified before it is kept.

The graph has a static length, so a file serves the lengths that it was exported with; batches may
have any size. All signatures share their variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.base import write_side_files
from funnel.checkpoints.saved_head import describe_heads
from funnel.config.geometry import check_length
from funnel.config.heads import SavedHead
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.features.feature_extraction import detect_parts
from funnel.utils.errors import CheckpointError, ExportError
from funnel.utils.files import atomic_directory, atomic_write_json
from funnel.utils.text import join_names
from funnel_tf.models.heads import classification_head
from funnel_tf.models.modeling import ModelInputs, funnel_decoder, funnel_encoder
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import assign_tensors

TOLERANCE = 1e-4
EXTRA_ASSETS = "assets.extra"  # where TensorFlow Serving leaves files of the user alone
INFORMATION = "funnel.json"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_BATCHES = (1, 3)
_DEFAULT_KEY = "serving_default"


@dataclass(frozen=True)
class ExportReport:
    """Properties of an exported model.

    Attributes:
        task: ``classification``, ``regression``, ``model`` or ``encoder``.
        signatures: name of each signature with its length.
        difference: largest difference between the outputs of the file and of the graph.
    """

    task: str
    signatures: Mapping[str, int]
    difference: float


def find_task(checkpoint: Checkpoint, task: str | None) -> tuple[str, SavedHead | None, str]:
    """Return the task to export, its head, and the scope of that head in the checkpoint.

    Args:
        checkpoint: the model.
        task: what the user asks for; None is the head, else the decoder, else the encoder.

    Raises:
        ExportError: the checkpoint has no weights for it, or several heads.
    """
    path, heads = checkpoint.metadata.get("path"), describe_heads(checkpoint)
    has_decoder = detect_parts(checkpoint).decoder
    if task == "model" and not has_decoder:
        raise ExportError(f"{path}: has no decoder: --task=encoder exports what it has")
    if task in ("encoder", "model") or (task is None and not heads):
        return task or ("model" if has_decoder else "encoder"), None, ""
    if len(heads) != 1:
        found = f"several heads ({', '.join(heads)})" if heads else "no classification head"
        raise ExportError(f"{path}: has {found}; one is exported")
    ((scope, head),) = heads.items()
    kind = "regression" if head.is_regression else "classification"
    if task not in (None, kind):
        raise ExportError(f"{path}: its head is a {kind}, no {task}")
    return kind, head, scope


def export_saved_model(
    checkpoint: Checkpoint, directory: str | Path, lengths: Sequence[int], task: str | None = None
) -> ExportReport:
    """Write a SavedModel with a signature for every length, after comparing it with the graph.

    Inputs are int64 [B, T] ``input_ids``, ``attention_mask`` (1 = real token) and
    ``token_type_ids`` (2 = [CLS]); outputs have the names of the ONNX files: ``logits``, or
    ``last_hidden_state`` and ``encoder_last_hidden_state``. The signatures are ``length_T``, and
    ``serving_default`` for the longest.

    Args:
        checkpoint: any checkpoint.
        directory: is created; vocabulary, labels and config are written to ``assets.extra``.
        lengths: tokens of a sequence.
        task: see :func:`find_task`.

    Raises:
        ExportError: the directory exists, weights are missing, or the file computes other outputs.
        ConfigError: the model cannot compute a length.
        CheckpointError: weights do not fit.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target}: exists; give the name of a new directory (for TensorFlow "
                          "Serving NAME/VERSION, e.g. mine/2)")  # fmt: skip
    name, head, scope = find_task(checkpoint, task)
    config = checkpoint.config
    if config.rel_attn_type == "factorized":
        # The same function; the factorized form is slower on anything but a TPU.
        config = config.replace(rel_attn_type="rel_shift")
    for length in lengths:
        check_length(config, length)
    lengths = sorted(set(lengths))
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        built = {n: _build(config, n, name, head, scope) for n in lengths}
        _assign(session, checkpoint)
        with atomic_directory(target) as temporary:
            _save(session, temporary, built)
            _write_extra(checkpoint, config, name, lengths, temporary / EXTRA_ASSETS)
            difference = _compare(session, built, temporary, config.vocab_size)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{target}: not written: loaded again, it differs by {difference:.1e}, more "
                    f"than {TOLERANCE:.0e}"
                )
    return ExportReport(name, {_key(n): n for n in lengths}, difference)


Tensors = dict[str, tf.Tensor]


def _build(
    config: ModelConfig, length: int, task: str, head: SavedHead | None, scope: str
) -> tuple[Tensors, Tensors]:
    """Return the inputs and outputs of the graph for one length."""
    options = GraphOptions()
    given = {name: tf.placeholder(tf.int64, [None, length], f"{name}_{length}") for name in _INPUTS}
    ids, mask, segments = given.values()
    inputs = ModelInputs(
        tf.cast(ids, tf.int32), tf.cast(mask, tf.float32), tf.cast(segments, tf.int32)
    )
    if head is not None:
        output = classification_head(
            config,
            inputs,
            None,
            None,
            options,
            num_labels=head.num_outputs,
            regression=task == "regression",
            scope=scope,
        )
        return given, {"logits": output.logits}
    encoded = funnel_encoder(config, inputs, options)
    outputs = {"encoder_last_hidden_state": encoded.output}
    if task == "model":
        outputs["last_hidden_state"] = funnel_decoder(config, encoded, options)
    return given, outputs


def _assign(session: tf.Session, checkpoint: Checkpoint) -> None:
    """Give the variables the weights of the checkpoint.

    Raises:
        CheckpointError: some are missing or of another shape.
    """
    report = assign_tensors(session, checkpoint.tensors)
    problems = [f"missing {name}" for name in report.missing]
    problems += [f"wrong shape: {text}" for text in report.mismatched]
    if problems:
        path, shown = checkpoint.metadata.get("path"), join_names(problems, separator="; ")
        raise CheckpointError(f"{path}: cannot be exported: {shown}")


def _key(length: int) -> str:
    return f"length_{length}"


def _save(
    session: tf.Session, directory: Path, built: Mapping[int, tuple[Tensors, Tensors]]
) -> None:
    signatures = {}
    for length, (inputs, outputs) in built.items():
        signature = tf.saved_model.predict_signature_def(inputs, outputs)
        # The longest comes last, and takes any text.
        signatures |= {_key(length): signature, _DEFAULT_KEY: signature}
    builder = tf.saved_model.Builder(str(directory))
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.tag_constants.SERVING], signatures, strip_default_attrs=True
    )
    builder.save()


def _write_extra(
    checkpoint: Checkpoint,
    config: ModelConfig,
    task: str,
    lengths: Sequence[int],
    directory: Path,
) -> None:
    """Write vocabulary, labels, config and what a client has to know."""
    directory.mkdir()
    config.save_net_config(directory / NET_CONFIG)
    write_side_files(checkpoint.metadata, directory)
    information: dict[str, Any] = {"task": task, "lengths": list(lengths)}
    information |= {"labels": checkpoint.metadata.get("labels"), "config": config.to_dict()}
    atomic_write_json(directory / INFORMATION, json.loads(json.dumps(information)))


def _compare(
    session: tf.Session,
    built: Mapping[int, tuple[Tensors, Tensors]],
    directory: Path,
    vocab_size: int,
) -> float:
    """Return the largest difference between the graph and the file, loaded again."""
    random, worst = np.random.default_rng(0), 0.0
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as loaded:
        tags = [tf.saved_model.tag_constants.SERVING]
        signatures = tf.saved_model.load(loaded, tags, str(directory)).signature_def
        for (length, (inputs, outputs)), size in ((b, n) for b in built.items() for n in _BATCHES):
            values = _example(random, size, length, vocab_size)
            expected = session.run(outputs, {inputs[name]: values[name] for name in _INPUTS})
            signature = signatures[_key(length)]
            feed = {signature.inputs[name].name: values[name] for name in _INPUTS}
            names = {name: signature.outputs[name].name for name in outputs}
            for name, array in loaded.run(names, feed).items():
                worst = max(worst, float(np.abs(array - expected[name]).max()))
    return worst


def _example(
    random: np.random.Generator, batch: int, length: int, vocab_size: int
) -> dict[str, np.ndarray]:
    """Return inputs with padding in the last sequence."""
    ids = random.integers(0, vocab_size, (batch, length))
    segments = np.zeros((batch, length), np.int64)
    segments[:, 0], segments[:, length // 2 :] = 2, 1
    mask = np.ones((batch, length), np.int64)
    mask[-1, length - length // 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
