"""Imports go one way: programs -> the package of their tree -> funnel."""

import ast

import pytest

import house

FRAMEWORKS = {"torch", "tensorflow"}
ALLOWED_PACKAGES = {
    "pytorch": {"funnel", "funnel_torch"},
    "tensorflow": {"funnel", "funnel_tf"},
    "data-scripts": {"funnel", "funnel_data"},
}
OUR_PACKAGES = set(house.LIBRARIES)


def _tops(found):
    return {module.split(".")[0]: line for line, module in found}


@pytest.mark.parametrize("path", house.library_files(), ids=house.name)
def test_libraries_import_only_what_is_below_them(path):
    package = house.name(path).split("/")[1]
    imported = _tops(house.imports(house.tree(path)))
    assert not (OUR_PACKAGES - {"funnel", package}) & set(imported)
    other = {"funnel_torch": "tensorflow", "funnel_tf": "torch"}.get(package)
    assert other not in imported
    programs = {program.stem for program in house.programs()}
    assert not programs & set(imported)


@pytest.mark.parametrize("path", house.library_files(), ids=house.name)
def test_funnel_needs_no_framework_to_be_imported(path):
    if not path.is_relative_to(house.LIBRARIES["funnel"]):
        return
    assert not FRAMEWORKS & set(_tops(house.module_level(path)))


@pytest.mark.parametrize("path", house.program_files(), ids=house.name)
def test_programs_use_their_own_tree_only(path):
    room = house.name(path).split("/")[0]
    imported = set(_tops(house.imports(house.tree(path))))
    assert imported & OUR_PACKAGES <= ALLOWED_PACKAGES[room]
    foreign = FRAMEWORKS - {"pytorch": {"torch"}, "tensorflow": {"tensorflow"}}.get(room, set())
    assert not imported & foreign


@pytest.mark.parametrize("path", house.library_files() + house.program_files(), ids=house.name)
def test_transformers_is_an_oracle_only(path):
    assert "transformers" not in _tops(house.imports(house.tree(path)))


@pytest.mark.parametrize("path", house.library_files(), ids=house.name)
def test_libraries_read_no_command_line_and_no_environment(path):
    tree = house.tree(path)
    has_main = any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in tree.body)
    # `python -m funnel.flops` is a program that lives in the package; cli/ is what programs share.
    is_cli = path.parent.name == "cli"
    if not has_main and not is_cli:
        assert not {"argparse", "absl"} & set(_tops(house.imports(tree)))
    if is_cli:
        return
    reads = [n.lineno for n in ast.walk(tree) if ast.unparse(n) in ("os.environ", "os.getenv")]
    assert not reads, f"{house.name(path)} reads the environment in lines {reads}"
    changes = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global)]
    assert not changes, f"{house.name(path)} rebinds globals in lines {changes}"


@pytest.mark.parametrize("path", house.programs(), ids=house.name)
def test_programs_find_the_packages_in_a_clone(path):
    """The path helper comes first among what is not the standard library."""
    ours = {module.split(".")[0]: line for line, module in house.module_level(path)}
    packages = [line for module, line in ours.items() if module in OUR_PACKAGES]
    if packages:
        assert ours.get("_paths", 10**6) < min(packages), f"{house.name(path)}: import _paths first"


def test_no_package_named_like_a_framework():
    assert not (house.ROOT / "tensorflow" / "__init__.py").exists()
    assert not (house.ROOT / "conftest.py").exists()
    assert not list((house.ROOT / "tests").rglob("__init__.py"))
