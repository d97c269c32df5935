"""Absl command lines generated from settings classes (:mod:`funnel.config.settings`).

The counterpart of :mod:`funnel.cli.flags`: the same classes become ``--name=value`` flags as absl
spells them, with ``--name``/``--noname`` for booleans and ``--flagfile=FILE``. Absl is imported
when flags are parsed: the help does without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, replace
from typing import TYPE_CHECKING, TypeVar

from funnel.cli.arguments import HELP, KnownFlags, prepare
from funnel.cli.command import command_name, fill_in
from funnel.config.settings import FlagSpec, build_settings, flag_groups
from funnel.utils.errors import ConfigError
from funnel_tf.cli.programs import ProgramSettings

if TYPE_CHECKING:
    from absl.flags import FlagValues

S = TypeVar("S", bound=ProgramSettings)

_HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")


def define_flags(program: type[ProgramSettings]) -> FlagValues:
    """Return the flags of a program's settings class, separate from absl's global ones."""
    from absl import flags as absl_flags

    define = {
        str: absl_flags.DEFINE_string,
        int: absl_flags.DEFINE_integer,
        float: absl_flags.DEFINE_float,
        bool: absl_flags.DEFINE_boolean,
    }
    values = absl_flags.FlagValues()
    values.set_gnu_getopt(True)
    for flag in _flag_specs(program):
        default = None if flag.default is MISSING else flag.default
        if flag.choices is None:
            define[flag.kind](flag.name, default, flag.help, flag_values=values)
        else:
            absl_flags.DEFINE_enum(
                flag.name, default, flag.choices, flag.help, values, case_sensitive=False
            )
        for alias in flag.aliases:  # accepted, but not shown in the help
            absl_flags.DEFINE_alias(alias, flag.name, flag_values=values)
    return values


def parse_settings(
    program: type[S], name: str, description: str | None, arguments: Sequence[str] | None = None
) -> S:
    """Parse a command line (default: this process's) into the program's settings.

    ``--help`` prints the flags by topic and ends the process.

    Args:
        program: settings class.
        name: file name of the program without ``.py``.
        description: text of the help above the flags.
        arguments: command line without the program.

    Raises:
        ConfigError: an unknown flag, a value that does not fit its flag, or a positional argument.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in _HELP for argument in arguments):
        print(help_text(program, name, description))
        sys.exit(0)
    from absl.flags import Error

    flags = define_flags(program)
    try:
        rest = flags([name, *prepare(arguments, _known_flags(flags))])[1:]
    except Error as error:
        raise ConfigError(f"{str(error).strip()} (--help lists all flags)") from None
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag; values are given as --name=value")
    names = [flag.name for flag in _flag_specs(program)]
    settings = build_settings(program, {name: flags[name].value for name in names})
    return replace(settings, given=frozenset(name for name in names if flags[name].present))


def help_text(program: type[ProgramSettings], name: str, description: str | None) -> str:
    """Return the description and all flags in titled groups, common ones first."""
    sections: dict[str, list[str]] = {}  # settings classes may share a heading
    for group in flag_groups(program):
        sections.setdefault(group.title, []).extend(_help_line(flag) for flag in group.flags)
    program_name = command_name(f"{name}.py")
    lines = [f"usage: {program_name} [--flag=value ...]", "", fill_in(description)]
    for title, flags in sections.items():
        lines += ["", f"{title}:", *flags]
    return "\n".join([*lines, "", HELP])


def _known_flags(flags: FlagValues) -> KnownFlags:
    names = set(flags)
    return KnownFlags(frozenset(names | {f"no{name}" for name in names if flags[name].boolean}))


def _help_line(flag: FlagSpec) -> str:
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    default = "" if flag.default in (None, "", MISSING) else f" [{flag.default}]"
    return f"  --{flag.name:<22} {flag.help}{choices}{default}"


def _flag_specs(program: type[ProgramSettings]) -> list[FlagSpec]:
    return [flag for group in flag_groups(program) for flag in group.flags]
