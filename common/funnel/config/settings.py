"""Settings with one source: dataclass fields that carry name, type, default, choices and help.

A settings class is a frozen dataclass whose fields are made by :func:`setting`, or by :func:`group`
if they are settings classes themselves. The command lines of both backends are generated from the
settings class of a program (``funnel.cli.flags`` for argparse), so a default is stated once.

>>> @dataclass(frozen=True)
... class AdamConfig:
...     beta2: float = setting(0.99, "decay of the second moment")
>>> @dataclass(frozen=True)
... class ProgramSettings:
...     adam: AdamConfig = group("optimizer", AdamConfig, names={"beta2": "adam_beta2"})
>>> build_settings(ProgramSettings, {"adam_beta2": 0.999}).adam.beta2
0.999
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
    negatable: bool = False,
    exclusive: str = "",
    affects_result: bool = True,
    is_path: bool = False,
) -> Any:
    """Declare a field of a settings class that is a flag.

    Args:
        default: value where none is given; ``dataclasses.MISSING`` makes the flag required.
        help: text of ``--help``, without the default.
        choices: allowed values of a string; upper and lower case are the same.
        aliases: further flag names (older spellings), without dashes.
        negatable: a boolean also has a ``--no-`` form where flags are switches (argparse).
        exclusive: name shared by the fields of which at most one may be given, and one must be if
            they have no default.
        affects_result: the setting decides what a run computes, so a resumed run must have the
            same; False if it only changes how or where the run happens.
        is_path: a file or directory, recorded as an absolute path.
    """
    metadata = {
        "help": help,
        "choices": None if choices is None else tuple(choices),
        "aliases": tuple(aliases),
        "negatable": negatable,
        "exclusive": exclusive,
        "affects_result": affects_result,
        "is_path": is_path,
    }
    return dataclasses.field(default=default, metadata=metadata)


def like(settings: type, name: str) -> Any:
    """Declare a field that is the same setting as field ``name`` of another settings class."""
    found = next(part for part in dataclasses.fields(settings) if part.name == name)
    return dataclasses.field(default=found.default, metadata=found.metadata)


def group(
    title: str,
    settings: type,
    *,
    names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    omit: Sequence[str] = (),
    description: str = "",
    aliases: Mapping[str, Sequence[str]] | None = None,
    runtime: Sequence[str] = (),
) -> Any:
    """Declare a field that is a settings class, and how the fields of that class become flags.

    Args:
        title: heading of these flags in ``--help``; empty: that of the enclosing class.
        settings: the settings class.
        names: flag name by field name, where the two differ. ``"not x"`` makes ``x`` the flag of
            the opposite: ``{"uncased": "not cased"}``.
        defaults: default by field name, where a program's differs from the class's.
        omit: fields that are no flags of this program; they keep their defaults.
        description: a line below the heading.
        aliases: further flag names by field name, in addition to those of the class. A name given
            to several fields sets all of them.
        runtime: fields that do not affect the result in this program.
    """
    mapped = (dict(names or {}), dict(defaults or {}), dict(aliases or {}))
    options = _GroupFlags(title, description, *mapped, tuple(omit), tuple(runtime))
    return dataclasses.field(
        default_factory=lambda: settings(**options.defaults), metadata={"group": options}
    )


@dataclass(frozen=True)
class _GroupFlags:
    title: str = "flags"
    description: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    omit: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlagSpec:
    """One flag: ``kind`` is str, int, float or bool; a required flag has the default MISSING.

    The value of a ``negated`` flag is the opposite of its field's.
    """

    name: str
    kind: type
    negated: bool
    default: Any
    help: str
    choices: tuple[str, ...] | None
    aliases: tuple[str, ...]
    negatable: bool
    exclusive: str
    affects_result: bool
    is_path: bool

    def convert(self, value: Any) -> Any:
        """Return the field's value for one of the flag, and the other way round."""
        return not value if self.negated else value


@dataclass(frozen=True)
class FlagGroup:
    """The flags below one heading of ``--help``."""

    title: str
    description: str
    flags: tuple[FlagSpec, ...]


def flag_groups(program: type) -> list[FlagGroup]:
    """Return the flags of a program's settings class, group by group.

    Fields may share a flag; it is then listed once, as its first field describes it.
    """
    seen: set[str] = set()
    groups = []
    for found in _flag_groups(program, _GroupFlags()):
        flags = tuple(flag for flag in found.flags if flag.name not in seen)
        seen.update(flag.name for flag in flags)
        if flags:
            groups.append(dataclasses.replace(found, flags=flags))
    return groups


def build_settings(program: type[T], values: Mapping[str, Any]) -> T:
    """Return the program's settings for flag values by flag name; flags not given keep defaults."""
    return _build(program, _GroupFlags(), values)


def result_affecting_config(settings: Any, resolve: Callable[[str], str]) -> dict[str, Any]:
    """Return the settings that decide what a run computes, by flag name.

    Two runs in which they are equal are the same run.

    Args:
        settings: those of a program.
        resolve: makes a path absolute.
    """
    found = {}
    for flag, value in _flag_values(settings, _GroupFlags()):
        if flag.affects_result:
            found[flag.name] = resolve(value) if flag.is_path and value else value
    return found


def _flag_groups(settings: type, options: _GroupFlags) -> Iterator[FlagGroup]:
    hints, own = get_type_hints(settings), []
    for part in dataclasses.fields(settings):
        if flag := _flag_spec(part, hints[part.name], options):
            own.append(flag)
    if own:
        yield FlagGroup(options.title, options.description, tuple(own))
    for part in dataclasses.fields(settings):
        for found in _flag_groups(hints[part.name], inner) if (inner := _inner(part)) else ():
            title = found.title or options.title
            yield dataclasses.replace(found, title=title)


def _build(settings: type[T], options: _GroupFlags, values: Mapping[str, Any]) -> T:
    hints, given = get_type_hints(settings), dict(options.defaults)
    for part in dataclasses.fields(settings):  # type: ignore[arg-type]
        if inner := _inner(part):
            given[part.name] = _build(hints[part.name], inner, values)
        elif (flag := _flag_spec(part, hints[part.name], options)) and flag.name in values:
            given[part.name] = flag.convert(values[flag.name])
    return settings(**given)


def _flag_values(settings: Any, options: _GroupFlags) -> Iterator[tuple[FlagSpec, Any]]:
    hints = get_type_hints(type(settings))
    for part in dataclasses.fields(settings):
        value = getattr(settings, part.name)
        if inner := _inner(part):
            yield from _flag_values(value, inner)
        elif flag := _flag_spec(part, hints[part.name], options):
            yield flag, flag.convert(value)


def _inner(part: dataclasses.Field[Any]) -> _GroupFlags | None:
    return part.metadata.get("group")


def _flag_spec(part: dataclasses.Field[Any], hint: Any, options: _GroupFlags) -> FlagSpec | None:
    """Return the flag of a field, None if it is none."""
    if "help" not in part.metadata or part.name in options.omit:
        return None
    name, described = options.names.get(part.name, part.name), dict(part.metadata)
    default = options.defaults.get(part.name, part.default)
    described["aliases"] += tuple(options.aliases.get(part.name, ()))
    described["affects_result"] &= part.name not in options.runtime
    if negated := name.startswith("not "):
        described["help"] = f"do not {described['help']}"
        default = not default
    return FlagSpec(name.removeprefix("not "), _kind(hint), negated, default, **described)


def _kind(hint: Any) -> type:
    """Return str, int, float or bool for it or for its optional form."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    if len(kinds) != 1 or kinds[0] not in (str, int, float, bool):
        raise TypeError(f"a setting is str, int, float or bool, perhaps optional, not {hint}")
    return kinds[0]
