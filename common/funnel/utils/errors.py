"""Errors that a user can correct: reported in one line, without a traceback.

Programs run under :func:`funnel.utils.main.run_main`, which prints the message of any of these and
exits with status 2. Any other exception is a bug in this code base and keeps its traceback.
"""


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
