"""Bars on size and shape that keep the code readable; ruff watches the style."""

import ast
import collections
import statistics

import pytest

from repo_layout import ROOT, library_files, name, program_files, programs, python_files, tree

PROGRAMS = ("pytorch", "tensorflow", "data-scripts", "demo")
LONGEST_FUNCTION = 60
LONGEST_TRAINING_LOOP = 90
TYPICAL_FUNCTION = 35  # 90 of 100 functions
LONGEST_FILE = 400
MOST_MODULES = 16
LONGEST_README = 220
MOST_PARAMETERS = 8
DEEPEST_NESTING = 4
TRAINING_LOOPS = {"pytorch/funnel_torch/training/trainer.py:train"}
OURS = library_files() + program_files()
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def _functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, FUNCTION)]


def _length(function):
    return function.end_lineno - function.lineno + 1


def _depth(node, depth=0):
    """Return how many blocks deep the deepest statement is; ``elif`` is no deeper than its if."""
    deepest = depth
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (*FUNCTION, ast.ClassDef)):
                continue
            is_elif = field == "orelse" and isinstance(node, ast.If) and len(node.orelse) == 1
            enters = isinstance(child, BLOCKS) and not (is_elif and isinstance(child, ast.If))
            deepest = max(deepest, _depth(child, depth + enters))
    return deepest


@pytest.mark.parametrize("path", OURS, ids=name)
def test_functions_and_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in _functions(path):
        is_loop = f"{name(path)}:{function.name}" in TRAINING_LOOPS
        bar = LONGEST_TRAINING_LOOP if is_loop else LONGEST_FUNCTION
        assert _length(function) <= bar, f"{function.name} in line {function.lineno}"
        assert _depth(function) <= DEEPEST_NESTING, f"{function.name} in line {function.lineno}"


def test_most_functions_are_shorter_still():
    lengths = [_length(f) for path in library_files() for f in _functions(path)]
    assert statistics.quantiles(lengths, n=10)[-1] <= TYPICAL_FUNCTION


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", programs(), ids=name)
def test_every_program_says_how_to_run_it(path):
    if any("__main__" in ast.unparse(n) for n in tree(path).body if isinstance(n, ast.If)):
        assert path.name in ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", library_files(), ids=name)
def test_library_signatures_are_typed_and_narrow(path):
    if path.name.startswith("triton_"):
        return  # pointers, blocks and many constants, which have no type to write down
    for function in _functions(path):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named = [a for a in named if a.arg not in ("self", "cls")]
        where = f"{function.name} in line {function.lineno}"
        assert len(named) <= MOST_PARAMETERS, where
        assert all(a.annotation for a in named), f"{where}: an untyped parameter"
        assert function.returns is not None, f"{where}: no return type"


def test_nothing_is_left_for_later():
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X:")
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        assert not [w for w in words if w in text], name(path)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                is_silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not is_silent, f"{name(path)}:{node.lineno} swallows an error"


def test_folders_stay_small():
    # Programs have the names that users know, a file each.
    modules = [p for p in OURS if not p.name.startswith("_") and p.parent.name not in PROGRAMS]
    folders = collections.Counter(path.parent for path in modules)
    crowded = {name(folder): n for folder, n in folders.items() if n > MOST_MODULES}
    assert not crowded


def test_readme_stays_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README


def test_no_code_stands_in_two_files():
    """No identical run of six lines of code; imports and closing brackets do not count."""
    first, pairs = {}, set()
    for path in OURS:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        code = [s for s in lines if len(s) > 3 and not s.startswith(("#", "import", "from"))]
        for start in range(len(code) - 5):
            run = tuple(code[start : start + 6])
            other = first.setdefault(run, name(path))
            if other != name(path):
                pairs.add((other, name(path), run[0]))
    assert not pairs, f"the same six lines in {sorted(pairs)}"


def test_nesting_is_measured_as_meant():
    code = "def f():\n for a in b:\n  if a: pass\n  elif b: pass\n  else:\n   with c: pass\n"
    assert _depth(ast.parse(code).body[0]) == 3
    code = "def f():\n if a: pass\n elif b: pass\n elif c: pass\n"
    assert _depth(ast.parse(code).body[0]) == 1
