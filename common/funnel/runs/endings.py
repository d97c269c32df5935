"""The last lines of a training run: its best model, the files it wrote, and the next commands."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from funnel.runs.scores import format_scores

logger = logging.getLogger(__name__)

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Ending:
    """The model that a run ends with.

    Attributes:
        model: its directory or checkpoint; None if nothing is kept.
        scores: its metrics by split; empty if nothing was evaluated.
        step: the step of that model; None if it is not known.
        total_steps: the last step of the run.
        is_best: it was chosen by its scores; otherwise it is the last one.
        stopped_early: the run ended before ``total_steps`` because the scores did not improve.
    """

    model: Path | None
    scores: Scores
    step: int | None
    total_steps: int
    is_best: bool
    stopped_early: bool = False

    def describe(self) -> str:
        """Return a sentence about the model."""
        if self.is_best:
            kind = "final model = best model"
        else:
            kind = "final model = last model (no evaluation has chosen one)"
        where = "" if self.step is None else f", step {self.step} of {self.total_steps}"
        early = " (stopped early: no improvement since)" if self.stopped_early else ""
        scores = [f"{split} {format_scores(values)}" for split, values in self.scores.items()]
        return "; ".join([f"{kind}{where}{early}", *scores])


def log_ending(
    ending: Ending, folder: Path | None, names: Sequence[str], commands: Mapping[str, str]
) -> None:
    """Log the last lines of a run.

    Args:
        ending: the model.
        folder: directory of the run; None where nothing is kept.
        names: files and directories in it that hold results; those that do not exist are left out.
        commands: commands to continue with, by purpose; each is logged as a line of its own, so
            that it can be copied.
    """
    logger.info("%s", ending.describe())
    if folder is None:
        logger.info("nothing was kept (--debug)")
        return
    written = [_describe_file(folder, name) for name in names if (folder / name).exists()]
    model = "" if ending.model is None else f"; the final model is {ending.model}"
    logger.info("written to %s: %s%s", folder, ", ".join(written), model)
    for purpose, command in commands.items():
        logger.info("to %s:\n%s", purpose, command)


def _describe_file(folder: Path, name: str) -> str:
    return f"{name}/" if (folder / name).is_dir() else name


def next_command(
    arguments: Sequence[str], *, without: Sequence[str] = (), more: Sequence[str] = ()
) -> str:
    """Return a command line made from the one of this process, to be copied into a shell.

    Args:
        arguments: program and flags, as in ``sys.argv``.
        without: names of flags to leave out, with their values.
        more: flags to add.
    """
    program, *flags = arguments
    kept = [flag for flag in leave_out(flags, without) if flag not in more]
    launcher = ["python"] if program.endswith(".py") else []
    return shlex.join([*launcher, program, *kept, *more])


def next_commands(
    arguments: Sequence[str], purposes: Mapping[str, Sequence[str]], *, without: Sequence[str]
) -> dict[str, str]:
    """Return a command for each purpose, with the flags it needs; see :func:`next_command`."""
    return {
        purpose: next_command(arguments, without=without, more=flags)
        for purpose, flags in purposes.items()
    }


def leave_out(flags: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line without the flags of some names, their opposites, and their values."""
    kept, is_value = [], False
    for position, flag in enumerate(flags):
        name, has_value, _ = flag.lstrip("-").partition("=")
        # The opposites of flags: --no-x of argparse, --nox of absl.
        spellings = {name, name.removeprefix("no-"), name.removeprefix("no")}
        if flag.startswith("-") and spellings & set(names):
            following = flags[position + 1] if position + 1 < len(flags) else "-"
            is_value = not has_value and not following.startswith("-")
        elif is_value:
            is_value = False
        else:
            kept.append(flag)
    return kept


def describe_interruption(
    folder: Path | None, step: int = 0, total_steps: int | None = None, command: str = ""
) -> str:
    """Return the message after Ctrl-C: how to resume, and from which step.

    Args:
        folder: directory of the run; None where nothing is kept.
        step: step of the newest checkpoint, 0 without one.
        total_steps: the last step of the run, None if it is not known yet.
        command: the command line that resumes; empty if it is not known.
    """
    if folder is None:
        return "interrupted; nothing was saved, as this run has no directory"
    place, ending = f"interrupted before the first checkpoint in {folder}", "start again"
    if step:
        of = "" if total_steps is None else f" of {total_steps}"
        place, ending = f"interrupted; {folder} holds step {step}{of}", "resume there"
    return f"{place}; to {ending}:\n{command}" if command else f"{place}; repeat the command"
