"""TensorFlow 1's API with TPUEstimator, for TensorFlow 2.15 and for the versions without it.

``tf`` is ``tensorflow.compat.v1``, and ``tf.estimator`` is there whichever version is installed.
TensorFlow 2.15 was the last to bring it. The package behind it, tensorflow-estimator, is Python
alone and works with a newer TensorFlow as soon as what it imports exists again:

- the API name that its decorators register classes under;
- four modules: the distribute coordinator, embeddings held by a TPU (two) and worker heartbeats.
  Two things in them are called in a run of ours and written here: ``init_run_config``, for a
  RunConfig with several devices, and the hook of the heartbeats, for a TPU. Every other name
  exists, and using it is an error that says what is missing.

Every part is added only if TensorFlow lacks it, so 2.15 is used as it is. Keras is asked for one
class (``tf.keras.metrics.Metric``), which Keras 3 has as well: tf-keras is not needed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

import tensorflow.compat.v1 as tf
from tensorflow.python.util import tf_export

from funnel.utils.errors import ConfigError

__all__ = ["tf"]

_API = "estimator"
_ESTIMATOR_PACKAGE = "tensorflow_estimator"
_KERAS_LOADER = "KerasLazyLoader"  # class of tf.keras, tf.losses and so on until they are used


class _RemovedModule(ModuleType):
    """Has every name; calling one, or making an instance of it, is an error.

    The names are classes, because the estimator package puts some of them in tuples of types.
    """

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):  # what Python asks of a module, e.g. __path__
            raise AttributeError(name)
        removed = f"{self.__name__}.{name}"

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise ConfigError(
                f"TensorFlow {tf.__version__} has no {removed}; "
                "`pip install -r requirements/tensorflow-2.15.txt` installs the last that has it"
            )

        return type(name, (), {"__new__": refuse})


def _init_run_config(config: Any, tf_config: Mapping[str, Any]) -> None:
    """Complete a RunConfig that has a distribution strategy, for the devices of one machine.

    Args:
        config: the RunConfig, whose other fields are set.
        tf_config: contents of the environment variable ``TF_CONFIG``, which describes a cluster.

    Raises:
        ConfigError: ``TF_CONFIG`` describes a cluster; only the removed module knew how to use it.
    """
    if tf_config.get("cluster"):
        raise ConfigError(
            f"TF_CONFIG names a cluster, which TPUEstimator on TensorFlow {tf.__version__} cannot "
            "use: unset it to train on the devices of one machine, or use a TPU (--use_tpu, --tpu)"
        )
    config._distribute_coordinator_mode = None
    config._init_distributed_setting_from_environment_var(tf_config)


class _NoHeartbeats(tf.train.SessionRunHook):
    """In place of the hook that saves a checkpoint when a worker says that it will be shut down.

    Such a run ends with an error instead, and the same command resumes at its last checkpoint.
    """

    def __init__(self, **heartbeat_options: Any) -> None:
        del heartbeat_options  # how the other hook would save, and what it would call


# The modules that TensorFlow removed, with what a run of ours calls in them.
_REMOVED: dict[str, dict[str, Any]] = {
    "tensorflow.python.distribute.estimator_training": {"init_run_config": _init_run_config},
    "tensorflow.python.tpu.session_support": {
        "GracefulShutdownHook": _NoHeartbeats,
        "ResetComputation": object,  # an argument of the hook
    },
    "tensorflow.python.tpu.tpu_embedding": {},
    "tensorflow.python.tpu.tpu_embedding_gradient": {},
}


class _Unloaded(type):
    """In place of a name of Keras: a class that has every name too, and no instances.

    The estimator package's canned models, which nothing here uses, put Keras classes in tables and
    defaults. Keras takes as long to import as TensorFlow without it.
    """

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unloaded(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError("canned estimators need Keras: import keras before funnel_tf.compat")


@contextmanager
def _without_keras() -> Iterator[None]:
    """Leave Keras unloaded if it is; afterwards ``tf.keras`` loads it on first use, as before."""
    names = vars(sys.modules["tensorflow"])
    lazy = {key: value for key, value in names.items() if type(value).__name__ == _KERAS_LOADER}
    if "keras" in sys.modules:
        lazy = {}
    names.update((key, _Unloaded(key, (), {})) for key in lazy)
    try:
        yield
    finally:
        names.update(lazy)


def _register_api_name() -> None:
    if hasattr(tf_export, "ESTIMATOR_API_NAME"):
        return
    tf_export.ESTIMATOR_API_NAME = _API
    for table, suffix in ((tf_export.API_ATTRS, ""), (tf_export.API_ATTRS_V1, "_v1")):
        kind = type(table[tf_export.TENSORFLOW_API_NAME])
        table[_API] = kind(f"_{_API}_api_names{suffix}", f"_{_API}_api_constants{suffix}")


def _replace_removed_modules() -> None:
    for name, contents in _REMOVED.items():
        if name in sys.modules or find_spec(name) is not None:
            continue
        module = _RemovedModule(name, "Removed from TensorFlow; see funnel_tf.compat.")
        vars(module).update(contents)
        parent, _, child = name.rpartition(".")
        setattr(importlib.import_module(parent), child, module)
        sys.modules[name] = module


def _add_estimator() -> None:
    """Set ``tf.estimator``.

    Raises:
        ModuleNotFoundError: the package tensorflow-estimator is not installed.
    """
    try:
        if hasattr(tf, "estimator"):  # in 2.15 this imports the package
            return
        _register_api_name()
        _replace_removed_modules()
        with _without_keras():
            tf.estimator = importlib.import_module(f"{_ESTIMATOR_PACKAGE}._api.v1.estimator")
    except ModuleNotFoundError as error:
        if error.name != _ESTIMATOR_PACKAGE:
            raise
        raise ModuleNotFoundError(
            "TPUEstimator is in a package of its own: `pip install tensorflow-estimator==2.15.0` "
            "(or `pip install -r requirements/tensorflow.txt`)",
            name=_ESTIMATOR_PACKAGE,
        ) from None


_add_estimator()
