"""Every command that an installation has exists, and its help answers without a framework."""

import importlib
import sys
import tomllib

import pytest

import repo_layout

PROJECT = tomllib.loads((repo_layout.ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["scripts"]
# Only a clone has what these start or show.
CLONE_ONLY = {"demo", "multigpu_classifier", "run_classifier", "run_race", "shrink", "train"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help(name, monkeypatch, capsys):
    module, _, attribute = COMMANDS[name].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    monkeypatch.setattr(sys, "argv", [f"/env/bin/{name}", "--help"])
    with pytest.raises(SystemExit) as ended:
        command()
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith(f"usage: {name} ")
    assert (
        "{program}" not in text and "{script}" not in text and "python " not in text.split("\n")[0]
    )


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_wrong_flag_is_one_line(name, monkeypatch, capsys):
    """``command`` ends the process as the programs do."""
    module, _, attribute = COMMANDS[name].partition(":")
    if module.startswith("funnel_tf"):
        pytest.importorskip("absl")
    command = getattr(importlib.import_module(module), attribute)
    monkeypatch.setattr(sys, "argv", [f"/env/bin/{name}", "--no_such_flag=1"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_main_takes_a_command_line(capsys):
    from funnel.cli.convert import main

    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--src" in capsys.readouterr().out


def test_every_program_has_a_command():
    targets = {target.partition(":")[0].rsplit(".", 1)[-1] for target in COMMANDS.values()}
    programs = {path.stem for path in repo_layout.programs()} - CLONE_ONLY
    assert programs <= targets


def test_help_shows_the_command_as_typed(monkeypatch):
    from funnel.cli.command import fill_in

    text = "{program} --x\ntorchrun {script} --x\n"
    monkeypatch.setattr(sys, "argv", ["pytorch/race.py"])
    assert fill_in(text) == "python pytorch/race.py --x\ntorchrun pytorch/race.py --x"
    monkeypatch.setattr(sys, "argv", ["/env/bin/funnel-race"])
    assert fill_in(text) == "funnel-race --x\ntorchrun $(which funnel-race) --x"
