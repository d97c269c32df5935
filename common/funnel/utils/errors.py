"""Errors that a user can correct: reported in one line, without a traceback.

Programs run under :func:`funnel.utils.main.run_main`, which prints the message of any of these and
exits with status 2. Any other exception is a bug in this code base and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

# By the name that is imported: the distribution, and the file in requirements/ that installs it.
_REQUIREMENTS = {
    "torch": ("PyTorch", "torch"),
    "absl": ("absl-py", "tensorflow"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "tensorflow_estimator": ("tensorflow-estimator", "tensorflow"),
    "jax": ("jax", "tpu-compile"),
    "libtpu": ("libtpu", "tpu-compile"),
}


class FunnelError(Exception):
    """Base class. The message names the file, line or key, and the value that would be right."""


class ConfigError(FunnelError):
    """A model configuration or flag with a wrong, missing or inconsistent value."""


class DataError(FunnelError):
    """Task data that is missing, malformed or does not fit its task."""


class TokenizerError(FunnelError):
    """A vocabulary or SentencePiece model that is missing, corrupt or incomplete."""


class CheckpointError(FunnelError):
    """A checkpoint that is missing, corrupt, unsafe or does not fit the model."""


class RunError(FunnelError):
    """A training run that cannot start or resume, e.g. in the directory of another run."""


class ExportError(FunnelError):
    """A model that cannot be exported, or whose exported file computes different outputs."""


@contextmanager
def named_if_missing() -> Iterator[None]:
    """Turn the missing package of a backend into an error that says what to install.

    Raises:
        ConfigError: the block imports a package of one backend that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in _REQUIREMENTS:
            raise
        package, file = _REQUIREMENTS[missing]
        versions = "" if file == "torch" else " (Python 3.11 to 3.13)"
        raise ConfigError(
            f"{package} is not installed; `pip install -r requirements/{file}.txt` installs it"
            f"{versions}"
        ) from None
