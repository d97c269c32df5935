"""Argparse command lines generated from settings classes (:mod:`funnel.config.settings`)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING
from typing import Any, NoReturn, TypeVar

from funnel.cli import arguments as command_line
from funnel.cli.command import fill_in
from funnel.config.settings import FlagSpec, build_settings, flag_groups
from funnel.utils.errors import ConfigError

T = TypeVar("T")

_UNSET = object()
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


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
            description=fill_in(description),
            formatter_class=_HelpFormatter,
            epilog=command_line.HELP,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage of a hundred flags.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message} (--help lists all flags)")


class _Alias(argparse.Action):
    """Another name for one or several flags; not listed in the help."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, targets: Sequence[FlagSpec]
    ) -> None:
        self.targets = [target.name for target in targets]
        options = _value_options(targets[0])
        options |= {"nargs": 0, "const": True} if targets[0].kind is bool else {}
        super().__init__(
            option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options
        )

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        for target in self.targets:
            setattr(namespace, target, self.const if self.nargs == 0 else values)


def make_parser(
    program: type, description: str | None, *, absl_booleans: bool = False
) -> FlagParser:
    """Return the parser of a program's settings class; see :func:`add_flags`."""
    parser = FlagParser(description)
    add_flags(parser, program, absl_booleans=absl_booleans)
    return parser


def add_flags(
    parser: argparse.ArgumentParser, program: type, *, absl_booleans: bool = False
) -> None:
    """Add the flags of a program's settings class to a parser, in titled groups.

    With ``absl_booleans`` a boolean is given as TensorFlow's programs take it: ``--x``, ``--nox``
    or ``--x=False``.
    """
    sections: dict[str, Any] = {}  # settings classes may share a heading
    aliases: dict[str, list[FlagSpec]] = {}
    for group in flag_groups(program):
        if group.title not in sections:
            section = parser.add_argument_group(group.title, group.description or None)
            sections[group.title] = section
        section = sections[group.title]
        exclusive: dict[str, Any] = {}
        for flag in group.flags:
            target: Any = section
            if name := flag.exclusive:
                if name not in exclusive:
                    required = flag.default is MISSING
                    exclusive[name] = section.add_mutually_exclusive_group(required=required)
                target = exclusive[name]
            _add_flag(target, flag, absl_booleans)
            for alias in flag.aliases:
                aliases.setdefault(alias, []).append(flag)
    for alias, flags in aliases.items():
        names = [f"--{alias}", *([f"-{alias}"] if len(alias) == 1 else ())]
        parser.add_argument(*names, action=_Alias, targets=flags)


def parse_settings(
    program: type[T],
    description: str | None,
    arguments: Sequence[str] | None = None,
    *,
    absl_booleans: bool = False,
) -> T:
    """Parse a command line (default: this process's) into the program's settings.

    A settings class with a field ``given`` gets the names of the flags on the command line in it.

    Raises:
        ConfigError: an unknown flag, a value that does not fit its flag, or a bad file of settings.
    """
    parser = make_parser(program, description, absl_booleans=absl_booleans)
    # A default only fills an attribute that is missing, so what is still unset was not given.
    defaults = {
        action.dest: action.default
        for action in parser._actions
        if action.default is not argparse.SUPPRESS
    }
    unset = argparse.Namespace(**dict.fromkeys(defaults, _UNSET))
    typed = sys.argv[1:] if arguments is None else arguments
    prepared = command_line.prepare(typed, command_line.KnownFlags.of_parser(parser))
    parsed = vars(parser.parse_args(prepared, unset))
    given = frozenset(name for name, value in parsed.items() if value is not _UNSET)
    settings: Any = build_settings(program, defaults | {name: parsed[name] for name in given})
    if any(part.name == "given" for part in dataclasses.fields(settings)):
        settings = dataclasses.replace(settings, given=given)
    return settings


def check_given(**flags: Any) -> None:
    """Refuse to continue without a value for these flags.

    Raises:
        ConfigError: one of them is empty.
    """
    for name, value in flags.items():
        if not value:
            raise ConfigError(f"--{name} is needed")


def check_at_least_one(**flags: int) -> None:
    """Refuse numbers below 1.

    Raises:
        ConfigError: one of the flags has such a value.
    """
    for name, value in flags.items():
        if value < 1:
            raise ConfigError(f"--{name}={value}: must be at least 1")


def split_list(text: str | None) -> tuple[str, ...]:
    """Return the items of a comma list without surrounding spaces; empty ones are left out."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _add_flag(target: Any, flag: FlagSpec, absl_booleans: bool) -> None:
    spelled = ", ".join(f"--{name}" for name in flag.aliases if len(name) > 1)
    also = f" (also {spelled})" if spelled else ""
    options: dict[str, Any] = {"help": (flag.help + also).replace("%", "%%")}
    if flag.default is not MISSING:
        options["default"] = flag.default
    elif not flag.exclusive:
        options["required"] = True
    if flag.kind is not bool:
        options |= _value_options(flag)
    elif absl_booleans:
        options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    else:
        options["action"] = argparse.BooleanOptionalAction if flag.negatable else "store_true"
    target.add_argument(f"--{flag.name}", **options)
    if flag.kind is bool and absl_booleans:
        hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        target.add_argument(f"--no{flag.name}", action="store_false", dest=flag.name, **hidden)


def _value_options(flag: FlagSpec) -> dict[str, Any]:
    if flag.kind is bool:
        return {}
    if flag.choices is None:
        return {"type": flag.kind}
    return {"type": _Choice(flag.choices), "choices": flag.choices}


class _Choice:
    """Converts a value to the spelling that the choices have."""

    def __init__(self, choices: Iterable[str]) -> None:
        self._spelling = {choice.lower(): choice for choice in choices}

    def __call__(self, text: str) -> str:
        return self._spelling.get(text.lower(), text)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"{text!r} should be True or False")
    return _BOOLEANS[text.lower()]
