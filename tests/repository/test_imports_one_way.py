"""Imports go one way: cli -> tasks -> training -> data -> models -> kernels, and all -> funnel."""

import ast

import pytest

from repo_layout import (
    LIBRARIES,
    ROOT,
    imports,
    library_files,
    module_level,
    name,
    program_files,
    programs,
    tree,
)

FRAMEWORKS = {"torch", "tensorflow"}
ALLOWED_PACKAGES = {
    "pytorch": {"funnel", "funnel_torch"},
    "tensorflow": {"funnel", "funnel_tf"},
    "data-scripts": {"funnel", "funnel_data"},
    "demo": {"funnel", "funnel_torch"},
}
OUR_PACKAGES = set(LIBRARIES)

# The sub-packages that each sub-package may import, besides itself and all of `funnel` (for the
# packages other than funnel).
UTILS = {"utils"}
CONFIG = UTILS | {"config"}
FORMATS = CONFIG | {"formats"}
TOKENIZATION = CONFIG | {"tokenization"}
TABLES = UTILS | {"tables"}
TASKS = TOKENIZATION | TABLES | {"tasks"}
FEATURES = TASKS | FORMATS | {"features", "checkpoints"}
INFERENCE = FEATURES | {"inference"}
PRETRAINING = FEATURES | {"pretraining"}
LOWER = {
    "funnel": {
        "utils": UTILS,
        "config": CONFIG,
        "formats": FORMATS,
        "checkpoints": FORMATS | {"checkpoints", "tokenization"},
        "tokenization": TOKENIZATION,
        "tables": TABLES,
        "tasks": TASKS,
        "features": FEATURES,
        "pretraining": PRETRAINING,
        "runs": CONFIG | {"runs"},
        "inference": INFERENCE,
        "cli": PRETRAINING | INFERENCE | {"cli", "runs"},
    },
    "funnel_data": {"downloads": set(), "corpora": set(), "cli": {"downloads", "corpora"}},
    "funnel_torch": {
        "kernels": set(),
        "models": {"kernels"},
        "export": {"kernels", "models"},
        "data": {"kernels", "models"},
        "training": {"kernels", "models", "data"},
        "tasks": {"kernels", "models", "data", "training"},
        "inference": {"kernels", "models", "data", "training", "tasks"},
        "cli": {"kernels", "models", "data", "training", "tasks", "inference", "export"},
    },
    "funnel_tf": {
        "models": set(),
        "data": {"models"},
        "training": {"models", "data"},
        "cli": {"models", "data", "training"},
    },
}
# Modules that every sub-package may import.
BASE = {"funnel_tf": {"compat"}}


def _tops(found):
    return {module.split(".")[0]: line for line, module in found}


@pytest.mark.parametrize("path", library_files(), ids=name)
def test_libraries_import_only_lower_packages(path):
    package = name(path).split("/")[1]
    imported = _tops(imports(tree(path)))
    assert not (OUR_PACKAGES - {"funnel", package}) & set(imported)
    other = {"funnel_torch": "tensorflow", "funnel_tf": "torch"}.get(package)
    assert other not in imported
    names = {program.stem for program in programs()}
    assert not names & set(imported)


@pytest.mark.parametrize("path", library_files(), ids=name)
def test_sub_packages_import_only_lower_ones(path):
    package, *rest = name(path).split("/")[1:]
    if len(rest) < 2:
        return  # a module directly in the package: flops.py, __init__.py
    own = rest[0]
    allowed = LOWER[package][own] | {own} | BASE.get(package, set())
    for line, module in imports(tree(path)):
        top, _, below = module.partition(".")
        if top == package and below:
            assert below.split(".")[0] in allowed, f"{name(path)}:{line} imports {module}"


def test_every_sub_package_has_its_place_in_the_order():
    for package, top in LIBRARIES.items():
        folders = {path.parent.name for path in top.glob("*/__init__.py")}
        assert folders == set(LOWER[package])


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_no_circle_of_modules(package):
    graph = {}
    for path in LIBRARIES[package].rglob("*.py"):
        parts = path.relative_to(LIBRARIES[package].parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[module] = {found for _, found in imports(tree(path)) if found.startswith(package)}
    finished = set()

    def visit(module, above):
        assert module not in above, f"circle: {' -> '.join([*above, module])}"
        if module not in finished:
            for lower in graph.get(module, ()):
                # A package's __init__ exports what its own modules define.
                if not f"{module}.".startswith(f"{lower}."):
                    visit(lower, [*above, module])
            finished.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("path", library_files(), ids=name)
def test_funnel_needs_no_framework_to_be_imported(path):
    if path.is_relative_to(LIBRARIES["funnel"]):
        assert not FRAMEWORKS & set(_tops(module_level(path)))


@pytest.mark.parametrize("path", program_files(), ids=name)
def test_programs_import_their_own_backend_only(path):
    folder = name(path).split("/")[0]
    imported = set(_tops(imports(tree(path))))
    assert imported & OUR_PACKAGES <= ALLOWED_PACKAGES[folder]
    foreign = FRAMEWORKS - {"pytorch": {"torch"}, "tensorflow": {"tensorflow"}}.get(folder, set())
    assert not imported & foreign


@pytest.mark.parametrize("path", library_files() + program_files(), ids=name)
def test_transformers_is_an_oracle_only(path):
    assert "transformers" not in _tops(imports(tree(path)))


@pytest.mark.parametrize("path", library_files(), ids=name)
def test_only_cli_reads_the_command_line_and_the_environment(path):
    module = tree(path)
    # `python -m funnel.flops` is a program that is part of the package.
    has_main = any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in module.body)
    changes = [n.lineno for n in ast.walk(module) if isinstance(n, ast.Global)]
    assert not changes, f"{name(path)} rebinds globals in lines {changes}"
    if path.parent.name == "cli":
        return
    if not has_main:
        assert not {"argparse", "absl"} & set(_tops(imports(module)))
    reads = [n.lineno for n in ast.walk(module) if ast.unparse(n) in ("os.environ", "os.getenv")]
    assert not reads, f"{name(path)} reads the environment in lines {reads}"
    flags = {"Namespace", "SimpleNamespace"}
    named = [n for n in ast.walk(module) if isinstance(n, ast.Name | ast.Attribute)]
    used = {n.id if isinstance(n, ast.Name) else n.attr for n in named}
    assert has_main or not flags & used, f"{name(path)} takes untyped settings"


@pytest.mark.parametrize("path", programs(), ids=name)
def test_programs_find_the_packages_in_a_clone(path):
    """The path helper comes before every import of our packages."""
    ours = {module.split(".")[0]: line for line, module in module_level(path)}
    packages = [line for module, line in ours.items() if module in OUR_PACKAGES]
    if packages:
        assert ours.get("_paths", 10**6) < min(packages), f"{name(path)}: import _paths first"


def test_no_package_named_like_a_framework():
    assert not (ROOT / "tensorflow" / "__init__.py").exists()
    assert not (ROOT / "pytorch" / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
