"""Quiet TensorFlow: import this before it; call :func:`silence_tensorflow` after parsing flags.

TensorFlow reads its environment while it is imported, so importing this module sets it, unless
``--verbose`` stands on the command line.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from funnel.utils.logging import configure_logging

_YES = ("verbose", "verbose=true", "verbose=t", "verbose=1")


def asks_for_noise(arguments: Sequence[str]) -> bool:
    """Whether ``--verbose`` is among the arguments of a command line."""
    return any(argument.lstrip("-").lower() in _YES for argument in arguments)


if not asks_for_noise(sys.argv[1:]):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def silence_tensorflow(verbose: bool = False) -> None:
    """Set up this project's log, and silence TensorFlow's unless ``verbose``."""
    configure_logging(verbose)
    if verbose:
        logging.getLogger("tensorflow").setLevel(logging.INFO)
        return
    from tensorflow.python.util import deprecation, module_wrapper

    deprecation._PRINT_DEPRECATION_WARNINGS = False
    module_wrapper._PER_MODULE_WARNING_LIMIT = 0
    warnings.filterwarnings("ignore", module="tensorflow")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
