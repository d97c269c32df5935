"""Run a training command with several seeds and flag values, and tabulate the dev scores.

Flags before ``--`` that are not listed below are those of the command, with the values to try:

    {program} --seeds=1,2,3,4,5 --lr=1e-5,2e-5 --devices=0,1 -- \\
        python pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE --model_dir=runs/rte ...

The runs are in model_dir/lr=1e-5,seed=1 and so on; model_dir/sweep.md and sweep.json have mean,
standard deviation, median and the best run. Given again, the command leaves out finished runs and
resumes interrupted ones. It starts any program with --model_dir, --seed and a best_result.json:
those of pytorch/ and tensorflow/, and torchrun.

The same code serves ``--seeds`` of the fine-tuning programs.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from funnel.cli.arguments import FILES_OF_FLAGS
from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings, split_list
from funnel.config.settings import flag_groups, group, setting
from funnel.config.training.series import SeriesSettings
from funnel.runs.endings import leave_out
from funnel.runs.series import best_run
from funnel.runs.sweep import (
    INSIDE_SWEEP,
    SWEEP_JSON,
    SWEEP_TABLE,
    Sweep,
    find_value,
    plan_sweep,
    run_sweep,
)
from funnel.utils.errors import ConfigError
from funnel.utils.interruption import stop_requests
from funnel.utils.logging import configure_logging
from funnel.utils.run_lock import acquire, release_all

logger = logging.getLogger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class DeviceSettings:
    """Where the runs of a sweep take place."""

    devices: str = setting(
        "",
        "comma list of GPUs; each takes one run at a time, and so does each `cpu` in the list; "
        "default: one run after the other",
    )
    dry_run: bool = setting(False, "print the commands, and start none")


@dataclass(frozen=True)
class SweepSettings:
    """Settings of ``sweep.py``; all other flags before ``--`` are lists of values to try."""

    series: SeriesSettings = group("runs", SeriesSettings)
    devices: DeviceSettings = group("devices", DeviceSettings)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep of a command line, by default that of this process.

    Raises:
        FunnelError: wrong flags, or runs that failed.
    """
    own, grid, program = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = parse_settings(SweepSettings, __doc__, own)
    if not program:
        raise ConfigError("no command: sweep.py --seeds=1,2,3 -- python pytorch/classifier.py ...")
    seeds = split_list(settings.series.seeds)
    if not (seeds or grid):
        raise ConfigError("nothing to vary: --seeds=1,2,3, or a flag with values: --lr=1e-5,2e-5")
    sweep = plan_sweep(program, seeds, grid)
    if settings.devices.dry_run:
        for planned in sweep.runs:
            print(shlex.join(planned.command))
        return
    start(sweep, device_environments(settings.devices.devices, os.environ))


def split_arguments(
    arguments: Sequence[str],
) -> tuple[list[str], dict[str, tuple[str, ...]], list[str]]:
    """Return the flags of the sweep itself, the values to try by flag, and the command.

    Raises:
        ConfigError: a list of values is empty.
    """
    own_names = {flag.name for found in flag_groups(SweepSettings) for flag in found.flags}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, grid = [], {}
    for argument in arguments[:end]:
        name, has_values, values = argument.removeprefix("--").partition("=")
        if name in own_names or not argument.startswith("--") or name == "help":
            own.append(argument)
            continue
        grid[name] = split_list(values)
        if not has_values or not grid[name]:
            raise ConfigError(f"{argument}: values to try are given as --{name}=A,B")
    return own, grid, list(arguments[end + 1 :])


def device_environments(devices: str, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment of the runs on each device.

    Numbers count the GPUs that this process may use.

    Raises:
        ConfigError: one is neither a number nor ``cpu``.
    """
    names = split_list(devices)
    if not names:
        return [dict(environment)]
    visible = split_list(environment.get(_VISIBLE)) if _VISIBLE in environment else None
    found = []
    for name in names:
        if name == "cpu":
            found.append({**environment, _VISIBLE: ""})
            continue
        if not name.isdigit() or (visible is not None and int(name) >= len(visible)):
            known = "" if visible is None else f"; {_VISIBLE} shows {len(visible)}"
            raise ConfigError(f"--devices: {name!r} is no GPU (0, 1, ... or cpu){known}")
        found.append({**environment, _VISIBLE: visible[int(name)] if visible else name})
    return found


def run_seeds(settings: SeriesSettings, model_dir: str = "") -> None:
    """Run the program of this process once per seed; its other flags are passed on.

    Args:
        settings: the seeds, from the command line or a flag file.
        model_dir: directory of the runs, likewise; default: that in the command line.

    Raises:
        FunnelError: a run failed, or this process is one of several.
    """
    if "RANK" in os.environ:
        raise ConfigError(
            "--seeds starts processes of its own; with torchrun: "
            f"python pytorch/sweep.py --seeds={settings.seeds} -- torchrun ..."
        )
    if INSIDE_SWEEP in os.environ:
        raise ConfigError(
            f"--seeds={settings.seeds} is in a flag file of the command, but sweep.py gives each "
            "run its seed: take it out of that file"
        )
    command = [sys.executable, *leave_out(sys.argv, ("seeds",))]
    if model_dir and not find_value(command, "model_dir"):
        command.append(f"--model_dir={model_dir}")
    sweep = plan_sweep(command, split_list(settings.seeds), {})
    if any(word.lstrip("-").startswith(FILES_OF_FLAGS) for word in command):
        # The seeds may be in such a file, and each run would start all of them.
        runs = tuple(replace(run, command=(*run.command, "--seeds=")) for run in sweep.runs)
        sweep = replace(sweep, runs=runs)
    start(sweep, [dict(os.environ)])


def start(sweep: Sweep, devices: Sequence[Mapping[str, str]]) -> None:
    """Run a sweep with log and lock, and print its table."""
    configure_logging()
    acquire(sweep.folder)
    try:
        with stop_requests.handled():
            runs = run_sweep(sweep, devices)
    finally:
        release_all()
        table = sweep.folder / SWEEP_TABLE
        if table.is_file():
            print(table.read_text("utf-8"))
    best = best_run(runs)
    if best is not None:
        logger.info("the best run is in %s", sweep.folder / best.name)
    logger.info("written to %s: %s, %s", sweep.folder, SWEEP_TABLE, SWEEP_JSON)


command = entry_point(main, preemptible=True)
