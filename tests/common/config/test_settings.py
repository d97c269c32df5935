"""Command lines generated from settings classes: names, defaults, types, help in one place."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import pytest

from funnel.cli.flags import make_parser, parse_settings
from funnel.config.settings import (
    build_settings,
    flag_groups,
    group,
    like,
    result_affecting_config,
    setting,
)
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
    settings = parse_settings(Program, "description", [])
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
    text = make_parser(Program, "description").format_help()
    assert text.count("optimizer:") == 1
    assert "decay of the second moment (default: 0.99)" in text and "in % of nothing" in text


def test_required_flags_and_odd_types():
    @dataclass(frozen=True)
    class Wrong:
        value: int | str = setting(1, "either")

    with pytest.raises(TypeError, match="a setting is str, int, float or bool"):
        make_parser(_make_program(Wrong), None)
    with pytest.raises(ConfigError, match="path"):
        parse_settings(_make_program(Device), None, [])
    assert [flags.title for flags in flag_groups(Program)] == ["device", "optimizer", "optimizer"]


@dataclass(frozen=True)
class Inner:
    length: int = setting(512, "tokens", aliases=("seq_len",))
    uncased: bool = setting(True, "lower-case")


@dataclass(frozen=True)
class Outer:
    corpus: str = setting("", "text file", is_path=True)
    workers: int = setting(0, "processes", affects_result=False)
    name: str = like(Adam, "name")
    inner: Inner = group("", Inner, names={"uncased": "not cased"})
    again: Inner = group(
        "more", Inner, names={"length": "size"}, omit=("uncased",), aliases={"length": ("seq_len",)}
    )


@dataclass(frozen=True)
class Nested:
    outer: Outer = group("data", Outer, runtime=("name",))
    # shares --length
    inner: Inner = group("more", Inner, omit=("uncased",))


def test_nested_classes_opposites_and_shared_flags():
    settings = parse_settings(Nested, None, ["--length=3", "--cased", "--name=ADAMW"])
    assert (settings.outer.inner, settings.inner) == (Inner(3, False), Inner(3))
    assert settings.outer.name == "adamw"
    assert [(g.title, len(g.flags)) for g in flag_groups(Nested)] == [
        ("data", 3),
        ("data", 2),
        ("more", 1),
    ]
    text = make_parser(Nested, None).format_help()
    assert "do not lower-case" in text and "(also --seq_len)" in text


def test_an_alias_of_several_flags_sets_all():
    settings = parse_settings(Nested, None, ["--size=1", "--seq_len=7", "--length=5"])
    assert (settings.outer.again.length, settings.inner.length) == (7, 5)


def test_settings_that_affect_the_result():
    settings = parse_settings(Nested, None, ["--corpus=a", "--cased", "--workers=3"])
    assert result_affecting_config(settings, "/{}".format) == {
        "corpus": "/a",
        "length": 512,
        "cased": True,
        "size": 512,
    }
    assert result_affecting_config(Nested(), "/{}".format)["corpus"] == ""


def test_booleans_as_absl_takes_them():
    parser = make_parser(Nested, None, absl_booleans=True)
    for argv, cased in (([], False), (["--cased"], True), (["--nocased"], False)):
        assert parser.parse_args(argv).cased is cased
    assert parser.parse_args(["--cased=True"]).cased and not parser.parse_args(["--cased=f"]).cased
    with pytest.raises(ConfigError, match="True or False"):
        parser.parse_args(["--cased=maybe"])


def _make_program(settings):
    @dataclass(frozen=True)
    class Single:
        only: object = group("only", settings)

    Single.__annotations__["only"] = settings
    return Single
