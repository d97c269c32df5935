"""Command lines generated from settings classes: names, defaults, types and help stand once."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import pytest

from funnel.cli.flags import make_parser, parse_settings
from funnel.config.settings import build_settings, flag_groups, group, setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class Adam:
    beta2: float = setting(0.99, "decay of the second moment")
    name: str = setting("adamw", "optimizer", choices=("adamw", "sgd"))
    clip: float | None = setting(None, "bound on the norm, in % of nothing")
    hidden: int = 3


@dataclass(frozen=True)
class Device:
    path: str = setting(MISSING, "where", aliases=("place",))
    bf16: bool = setting(False, "bfloat16", exclusive="precision")
    fp16: bool = setting(False, "float16", exclusive="precision")
    truncate: bool = setting(True, "cut", negatable=True)


@dataclass(frozen=True)
class Program:
    device: Device = group("device", Device, defaults={"path": "-"})
    adam: Adam = group("optimizer", Adam, names={"beta2": "adam_beta2"}, defaults={"name": "sgd"})
    small: Adam = group("optimizer", Adam, names={"beta2": "small_beta2"}, omit=("name", "clip"))


def test_defaults_come_from_the_class_or_the_program():
    settings = parse_settings(Program, "what it does", [])
    assert settings == Program()
    assert (settings.adam.beta2, settings.adam.name, settings.small.name) == (0.99, "sgd", "adamw")


def test_flags_reach_their_fields():
    argv = ["--adam_beta2=0.5", "--clip=2", "--place=x", "--no-truncate", "--small_beta2=1"]
    settings = parse_settings(Program, None, argv)
    assert (settings.adam.beta2, settings.adam.clip, settings.small.beta2) == (0.5, 2.0, 1.0)
    assert (settings.device.path, settings.device.truncate) == ("x", False)
    assert build_settings(Program, {"adam_beta2": 0.25}).adam.beta2 == 0.25


@pytest.mark.parametrize(
    "argv", [["--name=lamb"], ["--bf16", "--fp16"], ["--clip=x"], ["--hidden=1"], ["--bf"]]
)
def test_wrong_values_are_one_line(argv):
    with pytest.raises(ConfigError) as error:
        parse_settings(Program, None, argv)
    assert "\n" not in str(error.value)


def test_help_has_titles_texts_and_defaults():
    text = make_parser(Program, "what it does").format_help()
    assert text.count("optimizer:") == 1
    assert "decay of the second moment (default: 0.99)" in text and "in % of nothing" in text


def test_required_flags_and_odd_types():
    @dataclass(frozen=True)
    class Wrong:
        value: int | str = setting(1, "either")

    with pytest.raises(TypeError, match="a setting is str, int, float or bool"):
        make_parser(_program_of(Wrong), None)
    with pytest.raises(ConfigError, match="path"):
        parse_settings(_program_of(Device), None, [])
    assert [flags.title for flags in flag_groups(Program)] == ["device", "optimizer", "optimizer"]


def _program_of(settings):
    @dataclass(frozen=True)
    class Single:
        only: object = group("only", settings)

    Single.__annotations__["only"] = settings
    return Single
