"""Predictions for a file of inputs: what ``predict.py`` runs."""

from __future__ import annotations

import torch

from funnel.cli.predict import find_model, predict_file
from funnel.inference.engine import Engine
from funnel.utils.logging import configure_logging
from funnel_torch.cli.settings.predict import TorchPredictSettings
from funnel_torch.inference.predictor import Predictor


def run(settings: TorchPredictSettings) -> None:
    """Predict all inputs and write the rows."""
    configure_logging()
    predict_file(settings, lambda: load_engine(settings))


def load_engine(settings: TorchPredictSettings) -> Engine:
    """Load the model that the settings name."""
    compute = settings.compute
    is_on_cpu = compute.device_id < 0 or compute.int8 or bool(compute.onnx)
    use_gpu = torch.cuda.is_available() and not is_on_cpu
    predictor = Predictor.from_pretrained(
        find_model(settings.files.model),
        device=f"cuda:{compute.device_id}" if use_gpu else "cpu",
        int8=compute.int8,
        onnx=compute.onnx or None,
        tokenizer=settings.tokenizer.request(settings.given),
        config=settings.predictor,
    )
    return predictor.engine
