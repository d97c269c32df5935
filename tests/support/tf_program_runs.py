"""Ways to parse the flags of the TensorFlow programs and to run the programs in tests."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import repo_layout

TENSORFLOW = repo_layout.PROGRAM_DIRECTORIES["tensorflow"]


def parse_settings(name, *arguments):
    """Return the settings of a program for a command line."""
    from funnel_tf.cli import absl_flags
    from funnel_tf.cli.programs import PROGRAMS

    return absl_flags.parse_settings(PROGRAMS[name], name, "", arguments)


def parse_flags(name, *arguments):
    """Return the flags of a program by name, as a command line sets them."""
    from funnel_tf.cli.absl_flags import define_flags
    from funnel_tf.cli.programs import PROGRAMS

    flags = define_flags(PROGRAMS[name])
    hidden = {"v", "model_config_path", *({"eval_batch_size"} if name == "squad" else ())}
    assert len(flags([name, *arguments])) == 1
    return SimpleNamespace(**{key: flags[key].value for key in {*flags} - hidden})


def load_tf_program(name):
    """Return a program of tensorflow/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tensorflow_{name}", TENSORFLOW / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def classifier_flags(folder, model_dir="run", **changes):
    """Return flags of a run on the files of ``classifier_runs.write_files``; None omits a flag."""
    flags = {
        "do_train": True,
        "task_name": "cola",
        "data_dir": folder / "CoLA",
        "output_dir": folder / "records",
        "model_dir": folder / model_dir,
        "tokenizer_path": folder / "vocab.txt",
        "model_config": folder / "net_config.json",
        "max_seq_length": 16,
        "train_batch_size": 8,
        "learning_rate": 1e-3,
        "train_steps": 4,
        "log_freq": 1,
        "seed": 1,
    }
    return [f"--{name}={value}" for name, value in (flags | changes).items() if value is not None]


def kill_tf_program(name, flags, is_time, log, signals=(signal.SIGKILL,)):
    """Start a program, kill it without warning when ``is_time()``, and return its exit status."""
    # An interpreter of its own: a run that resumes must compute with the graph optimizations that
    # the one it is compared with had, which the forked programs of ``program_server`` do without.
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(TENSORFLOW / f"{name}.py"), *flags],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    deadline = time.monotonic() + 400
    while process.poll() is None and not is_time():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    for number in signals:
        process.send_signal(number)
    return process.wait()
