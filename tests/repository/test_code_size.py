"""Bars on size and shape that keep the code readable; ruff watches the style."""

import ast
import itertools
import statistics

import pytest

import house

LONGEST_FUNCTION = 60
LONGEST_TRAINING_LOOP = 90
TYPICAL_FUNCTION = 35  # 90 of 100 functions
LONGEST_FILE = 450
MOST_PARAMETERS = 8
DEEPEST_NESTING = 4
TRAINING_LOOPS = {"pytorch/funnel_torch/training/trainer.py:train"}
OURS = house.library_files() + house.program_files()
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def _functions(path):
    return [node for node in ast.walk(house.tree(path)) if isinstance(node, FUNCTION)]


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


@pytest.mark.parametrize("path", OURS, ids=house.name)
def test_functions_and_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in _functions(path):
        is_loop = f"{house.name(path)}:{function.name}" in TRAINING_LOOPS
        bar = LONGEST_TRAINING_LOOP if is_loop else LONGEST_FUNCTION
        assert _length(function) <= bar, f"{function.name} in line {function.lineno}"
        assert _depth(function) <= DEEPEST_NESTING, f"{function.name} in line {function.lineno}"


def test_most_functions_are_shorter_still():
    lengths = [_length(f) for path in house.library_files() for f in _functions(path)]
    assert statistics.quantiles(lengths, n=10)[-1] <= TYPICAL_FUNCTION


@pytest.mark.parametrize("path", house.python_files(), ids=house.name)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(house.tree(path)), f"{house.name(path)} has no docstring"


@pytest.mark.parametrize("path", house.programs(), ids=house.name)
def test_every_program_says_how_to_run_it(path):
    if any("__main__" in ast.unparse(n) for n in house.tree(path).body if isinstance(n, ast.If)):
        assert path.name in ast.get_docstring(house.tree(path))


@pytest.mark.parametrize("path", house.library_files(), ids=house.name)
def test_library_signatures_are_typed_and_narrow(path):
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
    for path in house.python_files():
        text = path.read_text(encoding="utf-8")
        assert not [w for w in words if w in text], house.name(path)
        for node in ast.walk(house.tree(path)):
            if isinstance(node, ast.ExceptHandler):
                is_silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not is_silent, f"{house.name(path)}:{node.lineno} swallows an error"


def _runs_of_six(room):
    """Return {six lines of code in a row: file}."""
    runs = {}
    for path in OURS:
        if not house.name(path).startswith(room):
            continue
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        skipped = ("#", "import")
        code = [line for line in lines if len(line) > 3 and not line.startswith(skipped)]
        for start in range(len(code) - 5):
            runs[tuple(code[start : start + 6])] = house.name(path)
    return runs


def test_no_code_stands_in_two_rooms():
    """What two trees share belongs in funnel."""
    rooms = [_runs_of_six(room) for room in ("common", "pytorch", "tensorflow", "data-scripts")]
    for first, second in itertools.combinations(rooms, 2):
        pairs = {(first[run], second[run]) for run in set(first) & set(second)}
        assert not pairs, f"the same six lines in {sorted(pairs)}"


def test_nesting_is_measured_as_meant():
    code = "def f():\n for a in b:\n  if a: pass\n  elif b: pass\n  else:\n   with c: pass\n"
    assert _depth(ast.parse(code).body[0]) == 3
    code = "def f():\n if a: pass\n elif b: pass\n elif c: pass\n"
    assert _depth(ast.parse(code).body[0]) == 1
