"""Settings with one source: dataclass fields that carry name, type, default, choices and help.

A settings class is a frozen dataclass whose fields are made by :func:`setting`. The settings of a
program are a frozen dataclass whose fields are such classes, made by :func:`group`. The command
lines of both backends are generated from it (``funnel.cli.flags`` for argparse), so every default
stands once.

>>> @dataclass(frozen=True)
... class AdamConfig:
...     beta2: float = setting(0.99, "decay of the second moment")
>>> @dataclass(frozen=True)
... class ProgramSettings:
...     adam: AdamConfig = group("optimizer", AdamConfig, names={"beta2": "adam_beta2"})
>>> ProgramSettings().adam.beta2
0.99
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
    negatable: bool = False,
    exclusive: str = "",
) -> Any:
    """Declare a field of a settings class.

    Args:
        default: value where none is given; ``dataclasses.MISSING`` makes the flag required.
        help: text of ``--help``, without the default.
        choices: allowed values of a string.
        aliases: further flag names (older spellings), without dashes.
        negatable: a boolean also has a ``--no_`` form where flags are switches (argparse).
        exclusive: name shared by the fields of which at most one may be given.
    """
    metadata = {
        "help": help,
        "choices": None if choices is None else tuple(choices),
        "aliases": tuple(aliases),
        "negatable": negatable,
        "exclusive": exclusive,
    }
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(
    title: str,
    settings: type,
    *,
    names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    omit: Sequence[str] = (),
    description: str = "",
) -> Any:
    """Declare a field of a program's settings: a settings class and how its fields become flags.

    Args:
        title: heading of these flags in ``--help``.
        settings: the settings class.
        names: flag name by field name, where the two differ.
        defaults: default by field name, where a program's differs from the class's.
        omit: fields that are no flags of this program; they keep their defaults.
        description: a line below the heading.
    """
    flags = _GroupFlags(title, description, dict(names or {}), dict(defaults or {}), tuple(omit))
    return dataclasses.field(
        default_factory=lambda: settings(**(defaults or {})), metadata={"group": flags}
    )


@dataclass(frozen=True)
class _GroupFlags:
    title: str
    description: str
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    omit: tuple[str, ...]


@dataclass(frozen=True)
class FlagSpec:
    """One flag: ``kind`` is str, int, float or bool; a required flag has the default MISSING."""

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] | None
    aliases: tuple[str, ...]
    negatable: bool
    exclusive: str


@dataclass(frozen=True)
class FlagGroup:
    """The flags below one heading of ``--help``."""

    title: str
    description: str
    flags: tuple[FlagSpec, ...]


def flag_groups(program: type) -> Iterator[FlagGroup]:
    """Yield the flags of a program's settings class, group by group."""
    for member, options in _groups(program):
        found = tuple(_flag_specs(member, options))
        yield FlagGroup(options.title, options.description, found)


def build_settings(program: type[T], values: Mapping[str, Any]) -> T:
    """Return the program's settings for flag values by flag name; flags not given keep defaults."""
    hints, built = get_type_hints(program), {}
    for field in dataclasses.fields(program):  # type: ignore[arg-type]
        options = field.metadata.get("group")
        if options is None:
            continue
        member = hints[field.name]
        given = dict(options.defaults)
        for part in dataclasses.fields(member):
            flag = options.names.get(part.name, part.name)
            if part.name not in options.omit and flag in values:
                given[part.name] = values[flag]
        built[field.name] = member(**given)
    return program(**built)


def _groups(program: type) -> Iterator[tuple[type, _GroupFlags]]:
    hints = get_type_hints(program)
    for field in dataclasses.fields(program):
        if "group" in field.metadata:
            yield hints[field.name], field.metadata["group"]


def _flag_specs(settings: type, options: _GroupFlags) -> Iterator[FlagSpec]:
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if field.name in options.omit or "help" not in field.metadata:
            continue
        described = field.metadata
        yield FlagSpec(
            options.names.get(field.name, field.name),
            _plain_type(hints[field.name]),
            options.defaults.get(field.name, field.default),
            described["help"],
            described["choices"],
            described["aliases"],
            described["negatable"],
            described["exclusive"],
        )


def _plain_type(hint: Any) -> type:
    """Return str, int, float or bool for it or for its optional form."""
    arguments = get_args(hint) if get_origin(hint) is Union or hasattr(hint, "__args__") else ()
    kinds = [kind for kind in arguments if kind is not type(None)] or [hint]
    if len(kinds) != 1 or kinds[0] not in (str, int, float, bool):
        raise TypeError(f"a setting is str, int, float or bool, perhaps optional, not {hint}")
    return kinds[0]
