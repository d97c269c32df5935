"""The command lines that the documentation shows, taken apart."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import repo_layout

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "configs/README.md", "pytorch/README.md")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"(pytorch|tensorflow|data-scripts)/\S+\.(py|sh)")
_LAUNCHERS = ("python", "torchrun", "bash")
_SWEEP, _SWEEP_FLAGS = "pytorch/sweep.py", ("--seeds", "--devices", "--dry_run")


@dataclass(frozen=True)
class Command:
    """One command line: the program of this repository it runs, and the flags it gives it."""

    document: str
    program: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {self.program}"


def documents() -> list[Path]:
    """Return every document that shows commands."""
    named = [repo_layout.ROOT / name for name in DOCUMENTS]
    found = [
        *named,
        repo_layout.ROOT / "tensorflow" / "README.md",
        *(repo_layout.ROOT / "docs").glob("*.md"),
    ]
    return sorted(path for path in found if path.exists())


def blocks(path: Path, language: str) -> list[str]:
    """Return the contents of a document's code blocks in one language."""
    return [text for kind, text in _BLOCK.findall(path.read_text("utf-8")) if kind == language]


def shell_lines(path: Path) -> list[str]:
    """Return the shell lines of a document, continued ones joined, comments removed."""
    lines = []
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                lines.append(shlex.join(words))
    return lines


def commands() -> list[Command]:
    """Return the commands in all documents that run a program of this repository."""
    found = []
    for path in documents():
        for line in shell_lines(path):
            words = shlex.split(line)
            places = [i for i, word in enumerate(words) if _PROGRAM.fullmatch(word)]
            if places and any(word.rsplit("/", 1)[-1] in _LAUNCHERS for word in words):
                flags = [w.split("=")[0] for w in words[places[0] + 1 :] if w.startswith("--")]
                if words[places[0]] == _SWEEP:
                    # Its other flags are those of the program that it starts.
                    own = tuple(flag for flag in flags if flag in _SWEEP_FLAGS)
                    found.append(Command(repo_layout.name(path), _SWEEP, own))
                    flags = [flag for flag in flags if flag not in (*own, "--")]
                found.append(Command(repo_layout.name(path), words[places[-1]], tuple(flags)))
    return found
