"""Errors that are the user's to mend: one clear line, no traceback.

Programs run under :func:`funnel.utils.main.run_main`, which prints the message of any of these and
exits with status 2. Anything else that escapes is a defect of ours and keeps its traceback.
"""


class FunnelError(Exception):
    """Base class: the message names the file, line or key, and what would be right."""


class ConfigError(FunnelError):
    """A model configuration or flag with a wrong, missing or inconsistent value."""


class DataError(FunnelError):
    """Task data that is missing, malformed or does not fit its task."""


class TokenizerError(FunnelError):
    """A vocabulary or SentencePiece model that is missing, damaged or incomplete."""


class CheckpointError(FunnelError):
    """A checkpoint that is missing, damaged, unsafe or does not fit the model."""


class RunError(FunnelError):
    """A training run that may not start or go on, e.g. in the directory of another run."""


class ExportError(FunnelError):
    """A model that cannot be exported, or whose exported file does not compute the same."""
