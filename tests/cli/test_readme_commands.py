"""What the documentation tells people to type exists, and what is cheap is run."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import program_server
import readme_commands
import repo_layout

pytestmark = pytest.mark.slow

COMMANDS = readme_commands.commands()
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
FLAG = re.compile(r"(?<![\w-])--\w[\w-]*")


@functools.cache
def _list_flags(program):
    """Return the flags in a program's help; flags hidden from it are not documented ones."""
    done = program_server.run([repo_layout.ROOT / program, "--help"])
    assert done.returncode == 0, done.stderr
    return set(FLAG.findall(done.stdout))


def _environment():
    paths = [str(repo_layout.ROOT / "common"), str(repo_layout.ROOT / "pytorch")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def test_there_are_commands_to_check():
    programs = {command.program for command in COMMANDS if command.document == "README.md"}
    assert {"pytorch/classifier.py", "pytorch/convert.py"} <= programs
    assert sum(len(command.flags) for command in COMMANDS) > 30


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_programs_and_flags_exist(command):
    assert (repo_layout.ROOT / command.program).is_file()
    if command.program.endswith(".sh"):
        return
    if command.program.startswith("pytorch/"):
        pytest.importorskip("torch")
    assert set(command.flags) <= _list_flags(command.program)


@pytest.mark.parametrize("path", readme_commands.documents(), ids=repo_layout.name)
def test_links_lead_somewhere(path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{repo_layout.name(path)}: {target}"


@pytest.mark.parametrize("path", readme_commands.documents(), ids=repo_layout.name)
def test_make_targets_exist(path):
    makefile = (repo_layout.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for line in readme_commands.shell_lines(path):
        words = line.split()
        if words[0] == "make":
            assert {w for w in words[1:] if re.fullmatch("[a-z-]+", w)} <= targets


def test_the_layout_in_the_readme_is_the_repository():
    """Every folder it names exists, and every package and folder of programs is named."""
    lines = readme_commands.blocks(repo_layout.ROOT / "README.md", "text")[-1].splitlines()
    shown = {line.split()[0].rstrip("/") for line in lines}
    assert len(lines) <= 20
    assert not {name for name in shown if not (repo_layout.ROOT / name).is_dir()}
    folders = [*repo_layout.LIBRARIES.values(), *repo_layout.PROGRAM_DIRECTORIES.values()]
    assert {repo_layout.name(folder) for folder in folders} <= shown


def test_flops_table_runs():
    command = [sys.executable, "-m", "funnel.flops"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "B10-10-10H1024" in done.stdout


def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make", "help"], cwd=repo_layout.ROOT, capture_output=True, text=True, check=True
    )
    targets = set(re.findall("make [a-z-]+", done.stdout))
    assert {"make demo", "make test-fast", "make lint"} <= targets


@pytest.fixture
def released(tmp_path):
    """A directory under the name that the README uses, holding a tiny random model."""
    pytest.importorskip("torch")
    from funnel.config.model import ModelConfig
    from funnel_torch import FunnelModel

    folder = tmp_path / "ckpts" / "B4-4-4H768-ELEC-PT"
    symbols = "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop>"
    vocabulary = f"{symbols} a funnel narrow ##s toward its end .".split()
    sizes = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}
    config = ModelConfig(vocab_size=len(vocabulary), block_size="1_1_1", decoder_size="1", **sizes)
    FunnelModel(config).save_pretrained(folder)
    text = "".join(f"{word}\n" for word in vocabulary)
    (folder / "vocab.uncased.txt").write_text(text, encoding="utf-8")
    return folder


def test_python_example_runs(released):
    code, _ = readme_commands.blocks(repo_layout.ROOT / "README.md", "python")
    code += "print(tuple(output.last_hidden_state.shape), len(ids))\n"
    done = program_server.run(["-c", code], cwd=released.parents[1], env=_environment())
    assert done.returncode == 0, done.stderr
    shape, length = done.stdout.rsplit(" ", 1)
    assert shape == f"(1, {int(length)}, 16)"
    assert "model.safetensors" in os.listdir(released.parents[1] / "my-funnel")


def test_fine_tuning_example_is_that_of_its_page():
    """There it is run."""
    page = repo_layout.ROOT / "docs" / "python_api.md"
    _, example = readme_commands.blocks(repo_layout.ROOT / "README.md", "python")
    assert example == readme_commands.blocks(page, "python")[0]


def test_conversion_example_runs(released):
    lines = readme_commands.shell_lines(repo_layout.ROOT / "README.md")
    (line,) = [line for line in lines if "convert.py" in line and "--to=hf" in line]
    words = line.split()
    command = [repo_layout.ROOT / words[1], *words[2:]]
    done = program_server.run(command, cwd=released.parents[1])
    assert done.returncode == 0, done.stderr
    assert (released.parents[1] / "funnel-b4" / "model.safetensors").is_file()


def test_ci_runs_the_command_in_the_readme():
    readme = readme_commands.shell_lines(repo_layout.ROOT / "README.md")
    script = Path(repo_layout.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make lint test" in readme
    assert "make lint test" in script
