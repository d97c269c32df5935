"""Argparse command lines generated from settings classes (:mod:`funnel.config.settings`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any, NoReturn, TypeVar

from funnel.config.settings import FlagSpec, build_settings, flag_groups
from funnel.utils.errors import ConfigError

T = TypeVar("T")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and keep the line breaks of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)", "(default: )" and "(default: False)" carry no information.
        return super()._get_help_string(action) if action.default else action.help


class FlagParser(argparse.ArgumentParser):
    """An argument parser that raises a one-line error and takes no abbreviated flags."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            usage="%(prog)s [--flag=value ...]",
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage of a hundred flags.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message} (--help lists all flags)")


def make_parser(program: type, description: str | None) -> FlagParser:
    """Return the parser of a program's settings class, its flags in titled groups."""
    parser = FlagParser(description)
    sections: dict[str, Any] = {}  # settings classes may share a heading
    for group in flag_groups(program):
        if group.title not in sections:
            section = parser.add_argument_group(group.title, group.description or None)
            sections[group.title] = section
        section = sections[group.title]
        exclusive: dict[str, Any] = {}
        for flag in group.flags:
            target: Any = section
            if flag.exclusive:
                if flag.exclusive not in exclusive:
                    exclusive[flag.exclusive] = section.add_mutually_exclusive_group()
                target = exclusive[flag.exclusive]
            _add_flag(target, flag)
    return parser


def parse_settings(
    program: type[T], description: str | None, arguments: Sequence[str] | None = None
) -> T:
    """Parse a command line (default: this process's) into the program's settings.

    Raises:
        ConfigError: an unknown flag, or a value that does not fit its flag.
    """
    return build_settings(program, vars(make_parser(program, description).parse_args(arguments)))


def _add_flag(target: Any, flag: FlagSpec) -> None:
    options: dict[str, Any] = {"help": flag.help.replace("%", "%%"), "dest": flag.name}
    if flag.default is MISSING:
        options["required"] = True
    else:
        options["default"] = flag.default
    if flag.kind is not bool:
        options |= {"type": flag.kind, "choices": flag.choices}
    else:
        options["action"] = argparse.BooleanOptionalAction if flag.negatable else "store_true"
    target.add_argument(*(f"--{name}" for name in (flag.name, *flag.aliases)), **options)
