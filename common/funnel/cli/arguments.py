"""Command lines before argparse or absl parses them: settings files, other spellings, slips.

:func:`prepare` puts the flags of ``--flagfile`` and ``--settings_file`` in front of those that were
typed, so that the latter count, and replaces each flag by the program's own name for it: dashes may
stand for underscores, and the other backend's name for the same thing is accepted where the program
gives it no other meaning. An unknown flag is an error that names the closest known one.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils.errors import ConfigError
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names
from funnel.utils.text_files import read_text

HELP = """\
settings from files; the command line takes precedence:
  --flagfile=FILE        one flag per line; # begins a comment
  --settings_file=FILE   JSON object with the names of flags as keys

Names may be written with - for _, and as the other backend's programs spell them
(--lr and --learning_rate, --dataset and --task_name, ...)."""

# Names of one setting in different programs.
_SYNONYMS = (
    ("learning_rate", "lr"),
    ("dataset", "task_name"),
    ("train_batch_size", "train_bsz"),
    ("eval_batch_size", "valid_bsz"),
    ("max_length", "max_seq_length", "seq_len"),
    ("init_ckpt", "init_checkpoint"),
    ("model_config", "init_ckpt_config", "config"),
    ("model_dir", "output_dir"),
    ("save_dir", "output_dir"),
)
# Names of like settings, which are suggested only: one is the start, the other the model itself.
_LIKE = (("init_ckpt", "init_checkpoint", "model"),)
_FLAG_FILE, _SETTINGS_FILE = "flagfile", "settings_file"
# How these flags begin, without the first dashes.
FILES_OF_FLAGS = (_FLAG_FILE, _SETTINGS_FILE, _SETTINGS_FILE.replace("_", "-"))
_SWITCH_VALUES = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_CLOSE = 0.66  # similarity of a flag that is suggested


@dataclass(frozen=True)
class KnownFlags:
    """The flags of a program, without dashes.

    Attributes:
        names: all of them, aliases and negated forms (``no-x`` or ``nox``) included.
        switches: those that take no value.
    """

    names: frozenset[str]
    switches: frozenset[str] = frozenset()

    @classmethod
    def of_parser(cls, parser: argparse.ArgumentParser) -> KnownFlags:
        """Return the long flags of an argparse parser."""
        actions = {
            option[2:]: action
            for option, action in parser._option_string_actions.items()
            if option.startswith("--")
        }
        switches = (name for name, action in actions.items() if action.nargs == 0)
        return cls(frozenset(actions), frozenset(switches))

    def find(self, name: str) -> str | None:
        """Return the program's own spelling of a flag, None for an unknown one."""
        if name in self.names:
            return name
        plain = {known.replace("-", "_"): known for known in self.names}
        typed = name.replace("-", "_")
        if typed in plain:
            return plain[typed]
        if typed.startswith("no"):
            stem = typed[2:].removeprefix("_")
            negated = (plain.get(form) for form in (f"no{stem}", f"no_{stem}"))
            if found := next(filter(None, negated), None):
                return found
        for synonyms in _SYNONYMS:
            others = (plain.get(other) for other in synonyms if typed in synonyms)
            if found := next(filter(None, others), None):
                return found
        return None

    def suggest(self, name: str) -> str:
        """Return ``; did you mean --x?`` for an unknown flag, empty if none is close."""
        typed = name.replace("-", "_")
        candidates = {known.replace("-", "_"): known for known in self.names}
        for synonyms in (*_SYNONYMS, *_LIKE):
            known = next((candidates[s] for s in synonyms if s in candidates), None)
            candidates |= {s: known for s in synonyms if known and s not in candidates}
        close = [typed] if typed in candidates else []
        close = close or difflib.get_close_matches(typed, sorted(candidates), n=3, cutoff=_CLOSE)
        found = dict.fromkeys(f"--{candidates[match]}" for match in close)
        return f"; did you mean {' or '.join(list(found)[:2])}?" if found else ""


def prepare(arguments: Sequence[str], known: KnownFlags) -> list[str]:
    """Return a command line, without the program, as the program's own parser reads it.

    Raises:
        ConfigError: a flag is unknown, or a file of settings is missing or malformed.
    """
    typed, files = _split_off_files(arguments)
    prepared = [flag for name, path in files for flag in _read_file(name, path, known, ())]
    positional = False
    for argument in typed:
        positional = positional or argument == "--"
        is_flag = argument.startswith("--") and not positional
        prepared += _rewrite(argument, known, "") if is_flag else [argument]
    return prepared


def _split_off_files(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the arguments without those that name a file of settings, and these."""
    rest: list[str] = []
    files: list[tuple[str, str]] = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if argument.startswith("-") and name in (_FLAG_FILE, _SETTINGS_FILE):
            files.append((name, value if equals else next(remaining, "")))
        else:
            rest.append(argument)
    return rest, files


def _read_file(
    name: str, path: str, known: KnownFlags, including: tuple[str, ...]
) -> Iterator[str]:
    if not path:
        raise ConfigError(f"--{name}: should name a file")
    if name == _SETTINGS_FILE:
        for key, value in read_json_object(Path(path), ConfigError).items():
            if value is not None:
                yield from _rewrite(f"--{key}={_to_text(path, key, value)}", known, f"{path}: ")
        return
    if path in including:
        raise ConfigError(f"--{_FLAG_FILE}={path}: the file includes itself")
    for number, line in enumerate(read_text(path, ConfigError).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-"):
            raise ConfigError(f"{path}:{number}: {line!r} should be a flag, --name=value")
        # absl separates name and value by a blank too.
        flag, _, value = line.lstrip("-").partition(" ")
        text = f"--{flag}={value.strip()}" if value and "=" not in flag else f"--{line.lstrip('-')}"
        _check_value(text, f"{path}:{number}: ")
        rest, files = _split_off_files([text])
        for inner, other in files:
            yield from _read_file(inner, other, known, (*including, path))
        for argument in rest:
            yield from _rewrite(argument, known, f"{path}:{number}: ")


def _check_value(flag: str, where: str) -> None:
    """Refuse the line of a flag file whose value would hold a comment or quotes.

    Raises:
        ConfigError: ``where`` begins the message.
    """
    name, _, value = flag.partition("=")
    if " #" in value:
        raise ConfigError(f"{where}{name}: a comment needs a line of its own")
    if len(value) > 1 and value[0] in "\"'" and value.find(value[0], 1) == len(value) - 1:
        raise ConfigError(f"{where}{name}={value}: values have no quotes around them in this file")


def _to_text(path: str, key: str, value: Any) -> str:
    """Return the value of a flag for one of JSON; a list becomes a comma list."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float | bool) for item in items):
        raise ConfigError(f"{path}: key {key!r}: should be a text, a number, true, false or a list")
    # JSON writes 1000 as 1e3 or 1000.0, too.
    whole = (int(x) if isinstance(x, float) and x.is_integer() else x for x in items)
    return ",".join(map(str, whole))


def _rewrite(argument: str, known: KnownFlags, where: str) -> list[str]:
    """Return a flag, with its value if it has one, under the program's own name.

    ``where`` begins the message about a flag in a file.
    """
    name, equals, value = argument[2:].partition("=")
    found = known.find(name)
    if found is None:
        hint = known.suggest(name)
        raise ConfigError(f"{where}--{name}: unknown flag{hint} (--help lists all flags)")
    if not (equals and found in known.switches):
        return [f"--{found}{equals}{value}"]
    if value.lower() not in _SWITCH_VALUES:
        names = join_names(sorted(_SWITCH_VALUES))
        raise ConfigError(f"{where}--{found}={value}: is either given or not (or one of {names})")
    if _SWITCH_VALUES[value.lower()]:
        return [f"--{found}"]
    # A switch that has no negated form is off unless it is given.
    return [f"--no-{found}"] if f"no-{found}" in known.names else []
