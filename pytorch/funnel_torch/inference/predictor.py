"""Prediction with a finished model in five lines.

>>> from funnel_torch import Predictor
>>> predictor = Predictor.from_pretrained("runs/mine/best")  # doctest: +SKIP
>>> for row in predictor(["a good film", ("a pair", "of texts")]):  # doctest: +SKIP
...     print(row["label"], row["probability"])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

from funnel.checkpoints import load_checkpoint
from funnel.config.inputs import TokenizerRequest
from funnel.config.predictions import PredictorConfig
from funnel.inference.engine import CPU_POSITIONS, GPU_POSITIONS, Engine
from funnel.inference.inputs import Input, check_iterable
from funnel.inference.rows import Row, RowFormat
from funnel.inference.saved_model import encoding_config, find_head, row_format
from funnel.tokenization.choice import open_tokenizer, weights_directory
from funnel.utils.errors import ConfigError
from funnel_torch.inference.compute import OnnxModel, TorchModel, load_model
from funnel_torch.training.devices import choose_device


def _with_options(config: PredictorConfig, options: dict[str, Any]) -> PredictorConfig:
    known = [part.name for part in fields(config)]
    if unknown := [name for name in options if name not in known]:
        raise ConfigError(f"{unknown[0]}: unknown option; there are {', '.join(known)}")
    return replace(config, **options)


class Predictor:
    """Predicts texts with a finished model of any head.

    Attributes:
        engine: encodes inputs and computes their outputs.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        int8: bool = False,
        onnx: str | Path | None = None,
        tokenizer: TokenizerRequest | None = None,
        config: PredictorConfig | None = None,
        **options: Any,
    ) -> Self:
        """Load a model that ``classifier.py``, ``squad.py``, ``race.py`` or transformers wrote.

        Args:
            path: directory (or file) of the weights; the head and its labels are found there.
            device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; default: a GPU if there is one.
            int8: 8-bit linear layers, on the CPU.
            onnx: compute with this file of ``export_onnx.py``, by onnxruntime on the CPU.
            tokenizer: default: the one in the directory.
            config: batch size, lengths, logits and thresholds.
            **options: fields of ``config``, such as ``batch_size`` or ``write_logits``.

        Raises:
            CheckpointError: the weights are missing, corrupt, or those of no finished model.
            ConfigError: settings do not fit the model, or there is no such device or option.
            RunError: this machine has no such device.
        """
        config = _with_options(config or PredictorConfig(), options)
        if int8 and onnx:
            raise ConfigError("int8 and onnx exclude each other: an ONNX file has its own weights")
        chosen = choose_device(0, device or "auto")
        if (int8 or onnx) and device is not None and chosen.type != "cpu":
            raise ConfigError(f"device={device!r}: int8 and onnx compute on the CPU")
        checkpoint = load_checkpoint(path)
        head = find_head(checkpoint)
        opened = open_tokenizer(tokenizer or TokenizerRequest(), [weights_directory(path)])
        compute: OnnxModel | TorchModel
        if onnx:
            compute = OnnxModel(onnx, head, str(opened.path))
            model_config = compute.config
        else:
            model = load_model(checkpoint, head, int8, chosen)
            compute, model_config = TorchModel(model, head.problem_type), model.config
        if opened.vocab_size > model_config.vocab_size:
            raise ConfigError(
                f"{opened.path}: {opened.vocab_size} tokens do not fit the model's vocab_size "
                f"{model_config.vocab_size}"
            )
        encoding = encoding_config(checkpoint, opened, model_config, config)
        form, on_gpu = row_format(head, config), compute.on_gpu
        engine = Engine(
            compute,
            model_config,
            form,
            encoding,
            config.batch_size,
            GPU_POSITIONS if on_gpu else CPU_POSITIONS,
            compute.shortest,
        )
        return cls(engine)

    @property
    def form(self) -> RowFormat:
        """Problem type and labels of the model, and the members of its rows."""
        return self.engine.form

    def __call__(self, texts: Any) -> Any:
        """Predict one input, a list of inputs, or a stream of them.

        Args:
            texts: an input is a text or a tuple (a pair of texts; question and context; question,
                context and options). Of a list, the result is a list. Of any other iterable it is
                a generator that reads some thousand inputs ahead, in bounded memory.

        Returns:
            Rows as :mod:`funnel.inference.rows` describes them, in the order of the inputs: one
            (a dictionary), a list, or a generator.

        Raises:
            DataError: a value is no input of this model, or ``texts`` is a table.
        """
        if isinstance(texts, str | tuple | Input):
            return next(self.engine.rows([texts]))
        check_iterable(texts)
        rows = self.stream(texts)
        return list(rows) if isinstance(texts, list) else rows

    def stream(self, texts: Iterable[Any]) -> Iterator[Row]:
        """Yield the rows of any number of inputs, see :meth:`__call__`."""
        return self.engine.rows(texts)
