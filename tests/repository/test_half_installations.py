"""A PyTorch user needs no TensorFlow, a TensorFlow user no PyTorch, and neither `transformers`."""

import importlib.util

import pytest

import repo_layout
from half_installation import run_without

pytestmark = pytest.mark.slow

TORCH_ONLY = ("tensorflow", "keras", "tensorflow_estimator", "transformers", "absl")
TENSORFLOW_ONLY = ("torch", "transformers")


def _modules(package):
    top = repo_layout.LIBRARIES[package]
    names = []
    for path in sorted(top.rglob("*.py")):
        if path.name.startswith("triton_"):  # imported by the first call of a GPU kernel alone
            continue
        parts = path.relative_to(top.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def _import_all(modules, blocked, roots):
    code = "".join(f"import {name}\n" for name in modules)
    return run_without(blocked, ["-c", code], [repo_layout.ROOT / root for root in roots])


def _has_command_line(path):
    return "__main__" in path.read_text(encoding="utf-8")


def test_the_blocker_blocks():
    done = run_without(["json"], ["-c", "import json"])
    assert done.returncode == 1 and "No module named 'json' (blocked)" in done.stderr


def test_funnel_needs_neither():
    blocked = {*TORCH_ONLY, *TENSORFLOW_ONLY}
    done = _import_all(_modules("funnel"), blocked, ["common"])
    assert done.returncode == 0, done.stderr


def test_funnel_torch_without_tensorflow():
    pytest.importorskip("torch")
    done = _import_all(_modules("funnel_torch"), TORCH_ONLY, ["common", "pytorch"])
    assert done.returncode == 0, done.stderr


def test_funnel_tf_without_torch():
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:  # the repository's own folder: no __init__.py
        pytest.skip("TensorFlow is not installed")
    done = _import_all(_modules("funnel_tf"), TENSORFLOW_ONLY, ["common", "tensorflow"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", repo_layout.programs(), ids=repo_layout.name)
def test_help_of_every_program(path):
    """From another directory, of an uninstalled clone, with the one framework it needs."""
    if not _has_command_line(path):
        return
    room = repo_layout.name(path).split("/")[0]
    if room == "pytorch":
        pytest.importorskip("torch")
    blocked = {
        "pytorch": TORCH_ONLY,
        "tensorflow": TENSORFLOW_ONLY,
        "data-scripts": {*TORCH_ONLY, *TENSORFLOW_ONLY},
        "demo": TORCH_ONLY,
    }[room]
    done = run_without(blocked, [str(path), "--help"])
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower() and done.stderr == ""
