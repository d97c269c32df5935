"""The explicit package map of pyproject.toml and the pinned requirements fit the tree."""

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import repo_layout

PROJECT = tomllib.loads((repo_layout.ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^([A-Za-z0-9_-]+)==([\w.]+)")


def _pins():
    """Return {package: versions} over all requirement files, without comments."""
    pins = {}
    for path in sorted((repo_layout.ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            if match := PIN.match(line):
                pins.setdefault(match[1].lower(), set()).add(match[2])
    return pins


def test_every_package_is_mapped():
    packages = {}
    for name, top in repo_layout.LIBRARIES.items():
        for init in top.rglob("__init__.py"):
            below = init.parent.relative_to(top).parts
            module = ".".join((name, *below))
            packages[module] = init.parent.relative_to(repo_layout.ROOT).as_posix()
    packages["funnel.configs"] = "configs"  # model sizes, data alone
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(packages)
    assert PROJECT["tool"]["setuptools"]["package-dir"] == packages


def test_every_package_has_its_type_marker():
    assert PROJECT["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]
    for name, top in repo_layout.LIBRARIES.items():
        assert (top / "py.typed").is_file(), name


def test_an_installed_package_finds_its_model_sizes(tmp_path):
    """Laid out like a wheel: the configs are package data of ``funnel``."""
    shutil.copytree(repo_layout.LIBRARIES["funnel"], tmp_path / "funnel")
    shutil.copytree(repo_layout.ROOT / "configs", tmp_path / "funnel" / "configs")
    done = subprocess.run(
        [sys.executable, "-m", "funnel.flops"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "B10-10-10H1024" in done.stdout


def test_every_requirement_is_pinned_or_bounded_and_has_a_reason():
    for path in (repo_layout.ROOT / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if not line or line.startswith(("#", "-r")):
                continue
            assert "==" in line or "<" in line, f"{path.name}: {line}"
            above = lines[number - 1] if number else ""
            explained = "#" in line or above.startswith(("#", line.split("==")[0][:10]))
            assert explained, f"{path.name}: {line} has no reason"


def test_dependencies_of_the_package_are_pinned_for_development():
    project = PROJECT["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    named = {re.match(r"[A-Za-z0-9_-]+", item)[0].lower() for item in wanted}
    assert named - {"setuptools"} <= set(_pins())


def test_frameworks_are_the_documented_ones():
    pins = _pins()
    assert pins["torch"] == {"2.13.0"}
    assert pins["tensorflow"] == pins["tensorflow-cpu"] == {"2.15.1", "2.21.0"}


def _lines(path):
    """Return the requirements of a file and of the files it includes."""
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            lines += _lines(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            lines.append(line)
    return lines


@pytest.mark.parametrize("name", ["requirements.txt", "requirements/tensorflow-2.15.txt"])
def test_one_set_of_versions_for_every_python(name):
    """Each package has one version, whichever Python; only TensorFlow is left out on a new one."""
    versions = {}
    for line in _lines(repo_layout.ROOT / name):
        requirement = line.partition("#")[0]
        match = PIN.match(requirement)
        assert match, line
        versions.setdefault(match[1].lower(), set()).add(match[2])
        assert set(re.findall(r"python_version \S+ \S+", requirement)) <= {
            'python_version < "3.14"'
        }
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def _all_needed(name, found):
    """Add the installed package and everything it needs to ``found``."""
    if name not in found:
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    _all_needed(canonicalize_name(requirement.name), found)
    return found


def test_tools_bring_no_framework():
    """``make test-tensorflow`` installs them, too, and promises TensorFlow alone."""
    makefile = (repo_layout.ROOT / "Makefile").read_text()
    recipe = makefile.partition("$(TOOLS): ")[2].partition("\n\n")[0]
    left_out = set(re.search(r"grep -vE '\^\((\S+)\)=='", recipe)[1].split("|"))
    tools = {PIN.match(line)[1] for line in _lines(repo_layout.ROOT / "requirements/dev.txt")}
    assert left_out < tools
    for name in sorted(tools - left_out):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            needed = _all_needed(canonicalize_name(name), set())
            assert not needed & {"torch", "tensorflow", "tensorflow-cpu"}, name


def test_versions_agree():
    import funnel

    assert PROJECT["project"]["version"] == funnel.__version__
    for name in ("funnel_torch", "funnel_tf"):
        text = (repo_layout.LIBRARIES[name] / "__init__.py").read_text()
        assert "from funnel import __version__" in text, name
