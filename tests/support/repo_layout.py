"""What the tests about the repository itself share: where its parts are, and their syntax trees."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "funnel": ROOT / "common" / "funnel",
    "funnel_data": ROOT / "data-scripts" / "funnel_data",
    "funnel_torch": ROOT / "pytorch" / "funnel_torch",
    "funnel_tf": ROOT / "tensorflow" / "funnel_tf",
}
PROGRAM_DIRECTORIES = {
    "pytorch": ROOT / "pytorch",
    "tensorflow": ROOT / "tensorflow",
    "data-scripts": ROOT / "data-scripts",
    "demo": ROOT / "demo",
}


def library_files() -> list[Path]:
    """Return every module of the four packages."""
    return sorted(path for top in LIBRARIES.values() for path in top.rglob("*.py"))


def program_files() -> list[Path]:
    """Return every Python file that stands directly in a folder of programs, helpers included."""
    return sorted(path for top in PROGRAM_DIRECTORIES.values() for path in top.glob("*.py"))


def programs() -> list[Path]:
    """Return the files a user runs: those of ``program_files`` with a command line."""
    return [path for path in program_files() if not path.name.startswith("_")]


def python_files() -> list[Path]:
    """Return library, programs, tests and benchmarks."""
    others = [p for top in ("tests", "benchmarks") for p in (ROOT / top).rglob("*.py")]
    return library_files() + program_files() + sorted(others)


def name(path: Path) -> str:
    """Return the path as the repository's README writes it."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(node: ast.AST) -> list[tuple[int, str]]:
    """Return (line, dotted module) of every import below a node, relative ones left out."""
    found = []
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            found += [(item.lineno, alias.name) for alias in item.names]
        elif isinstance(item, ast.ImportFrom) and item.level == 0 and item.module:
            found.append((item.lineno, item.module))
    return found


def module_level(path: Path) -> list[tuple[int, str]]:
    """Return the imports that run when a module is imported: those outside functions.

    ``if TYPE_CHECKING:`` is left out, ``if`` and ``try`` at module level are not.
    """
    pending: list[ast.AST] = list(tree(path).body)
    found = []
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += imports(node)
        else:
            pending += ast.iter_child_nodes(node)
    return found
