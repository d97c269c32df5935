"""Start-up of the TensorFlow programs: flags first, TensorFlow afterwards and quietly.

``--help`` and wrong flags are answered without importing TensorFlow, which takes seconds, and also
where it is not installed. Nothing here imports absl or TensorFlow at module level.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any

from funnel.utils.errors import named_if_missing
from funnel.utils.interruption import stop_requests
from funnel.utils.logging import configure_logging
from funnel.utils.run_lock import release_all
from funnel_tf.cli.tpu.settings import COMPILER_ENVIRONMENT


def run_program(
    name: str,
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    needs_tensorflow: bool = True,
) -> None:
    """Parse a command line, then call ``run`` of ``funnel_tf.cli.<name>``.

    Args:
        name: file name of the program without ``.py``.
        description: text of the help above the flags.
        argv: command line without the program; default: that of this process.
        needs_tensorflow: the program uses TensorFlow; False for one that runs without it.

    Raises:
        ConfigError: wrong flags, or a package that is not installed.
    """
    settings = parse_command_line(name, description, argv)
    series = getattr(settings, "series", None)
    if series is not None and series.seeds:
        importlib.import_module("funnel.cli.sweep").run_seeds(series, settings.run.model_dir)
        return
    import_installed("funnel_tf.cli.configs").check_paths(settings)
    if needs_tensorflow:
        silence_tensorflow(settings.verbose, settings.absl.quiet)
    else:
        configure_logging(settings.verbose, quiet=settings.absl.quiet)
    try:
        with stop_requests.handled():
            import_installed(f"funnel_tf.cli.{name}").run(settings)
    finally:
        release_all()


def parse_command_line(
    name: str, description: str | None, argv: Sequence[str] | None = None
) -> Any:
    """Return the settings of a program for a command line, by default that of this process."""
    absl_flags = importlib.import_module("funnel_tf.cli.absl_flags")
    programs = importlib.import_module("funnel_tf.cli.programs")
    with named_if_missing():
        return absl_flags.parse_settings(programs.PROGRAMS[name], name, description, argv)


def import_installed(module: str) -> ModuleType:
    """Import a module of ours.

    Raises:
        ConfigError: TensorFlow, or a package that is installed with it, is missing.
    """
    with named_if_missing():
        return importlib.import_module(module)


def prepare_tpu_compiler() -> None:
    """Keep libtpu and JAX from looking for a TPU; before either is imported."""
    os.environ |= COMPILER_ENVIRONMENT


def silence_tensorflow(verbose: bool = False, quiet: bool = False) -> None:
    """Set up this project's log, and silence TensorFlow's unless ``verbose``.

    ``quiet`` reduces this project's messages to warnings.

    Raises:
        ConfigError: TensorFlow is not installed.
    """
    configure_logging(verbose, quiet=quiet)
    if verbose:
        logging.getLogger("tensorflow").setLevel(logging.INFO)
        return
    # TensorFlow's C++ log reads the environment when it is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with _held_back_stderr(), keras_left_out():
        deprecation = import_installed("tensorflow.python.util.deprecation")
    wrapper = import_installed("tensorflow.python.util.module_wrapper")
    deprecation._PRINT_DEPRECATION_WARNINGS = False
    wrapper._PER_MODULE_WARNING_LIMIT = 0
    warnings.filterwarnings("ignore", module="tensorflow")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def keras_left_out() -> Iterator[None]:
    """Import TensorFlow without Keras, which takes as long again; ``tf.keras`` loads it when used.

    TensorFlow loads the optimizers of Keras 3 at once, for saved models that name them.
    """
    optimizers = "keras.src.optimizers"
    if not _has_keras_3() or {"tensorflow", "keras"} & set(sys.modules):
        yield
        return
    sys.modules[optimizers] = ModuleType(optimizers)
    try:
        yield
    finally:
        del sys.modules[optimizers]


def _has_keras_3() -> bool:
    try:
        return metadata.version("keras").startswith("3.")
    except metadata.PackageNotFoundError:
        return False


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Drop what the block writes to file descriptor 2, unless it fails.

    From 2.16 TensorFlow logs on import, before it reads the level of its log.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
