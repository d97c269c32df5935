"""``predict.py``: predictions for a file of inputs."""

from __future__ import annotations

from funnel.checkpoints import load_checkpoint
from funnel.cli.predict import find_model, predict_file
from funnel.inference.engine import CPU_POSITIONS, Engine
from funnel.inference.saved_model import encoding_config, find_head, row_format
from funnel.tokenization.choice import open_tokenizer, weights_directory
from funnel.utils.logging import configure_logging
from funnel_tf.cli.extract_features import session_config
from funnel_tf.cli.programs import FilePredictionSettings
from funnel_tf.models.predictor import PredictionModel

_LENGTH_STEP = 32  # a graph is built for every length


def run(settings: FilePredictionSettings) -> None:
    """Predict all inputs and write the rows."""
    configure_logging(settings.log.verbose)
    predict_file(settings, lambda: load_engine(settings))


def load_engine(settings: FilePredictionSettings) -> Engine:
    """Load the model that the settings name."""
    path, config = find_model(settings.files.model), settings.predictor
    checkpoint = load_checkpoint(path)
    head = find_head(checkpoint)
    request = settings.tokenizer.request(settings.given)
    tokenizer = open_tokenizer(request, [weights_directory(path)])
    model = PredictionModel(checkpoint, head, session_config(settings.compute.device_id))
    return Engine(
        model,
        model.config,
        row_format(head, config),
        encoding_config(checkpoint, tokenizer, model.config, config),
        config.batch_size,
        CPU_POSITIONS,
        model.shortest,
        _LENGTH_STEP,
    )
