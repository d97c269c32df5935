"""Files are replaced completely or not at all; the old content survives every failure."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import repo_layout
from funnel.utils import files
from funnel.utils.errors import FunnelError

COMMON = repo_layout.ROOT / "common"


def test_atomic_path_replaces_and_leaves_no_other_file(tmp_path):
    target = tmp_path / "new" / "a.txt"
    files.atomic_write_text(target, "one\r\n")
    files.atomic_write_text(target, "zwei ü\n")
    assert target.read_bytes() == "zwei ü\n".encode()
    assert os.listdir(target.parent) == ["a.txt"]


def test_temporary_keeps_the_suffix_for_writers_that_look_at_it(tmp_path):
    with files.atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_previous_file_survives_a_failing_body(tmp_path, failure):
    target = tmp_path / "a.json"
    files.atomic_write_json(target, {"b": 1, "a": "ü"})
    with pytest.raises(type(failure)), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert json.loads(target.read_text()) == {"b": 1, "a": "ü"}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_one_line_naming_the_file(tmp_path, failure):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(FunnelError, match="a.bin: cannot be written"), files.atomic_path(target):
        raise failure
    assert target.read_bytes() == b"old"


def test_real_full_disk(tmp_path):
    """A file-size limit stands in for the full disk: the write itself fails."""
    code = (
        "import resource, signal, sys\n"
        "from funnel.utils.files import atomic_path\n"
        "from funnel.utils.errors import FunnelError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with atomic_path(sys.argv[1]) as p: p.write_bytes(bytes(5000))\n"
        "except FunnelError as e: print(e)\n"
    )
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": str(COMMON)}
    command = [sys.executable, "-c", code, str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{target}: cannot be written: File too large"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_error_about_another_file_keeps_its_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.atomic_path(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()


def test_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FunnelError, match="a.txt: cannot be written"):
        files.atomic_write_text(tmp_path / "file" / "a.txt", "x")


def test_directory_is_swapped_whole(tmp_path):
    target = tmp_path / "best"
    for text in ("one", "two"):
        with files.atomic_directory(target) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / f"{text}.txt").write_text(text)
    assert [p.name for p in target.rglob("*.txt")] == ["two.txt"]
    assert os.listdir(tmp_path) == ["best"]


def test_previous_directory_survives_a_failing_body(tmp_path):
    target = tmp_path / "best"
    with files.atomic_directory(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(FunnelError, match="best"), files.atomic_directory(target) as temporary:
        (temporary / "a").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["best"]


def test_interrupted_swap_is_recovered(tmp_path):
    previous, target = tmp_path / ".previous-best", tmp_path / "best"
    previous.mkdir()
    files.recover_swap(target)
    assert target.is_dir() and not previous.exists()
    previous.mkdir()
    files.recover_swap(target)
    assert target.is_dir() and not previous.exists()


@pytest.mark.parametrize("times", [1, 3])
def test_a_reader_between_both_renames_does_not_stop_the_writer(tmp_path, monkeypatch, times):
    target, replace, left = tmp_path / "best", os.replace, [times]

    def disturbed(source, destination):
        replace(source, destination)
        if source == target and left[0]:
            left[0] -= 1
            files.recover_swap(target)  # what loading a checkpoint does where there is none

    monkeypatch.setattr(os, "replace", disturbed)
    for text in ("old", "new"):
        with files.atomic_directory(target) as folder:
            (folder / "a").write_text(text)
    assert not left[0]
    assert (target / "a").read_text() == "new" and os.listdir(tmp_path) == ["best"]


def test_a_reader_that_comes_too_late_leaves_the_new_directory(tmp_path, monkeypatch):
    target, previous = tmp_path / "best", tmp_path / ".previous-best"
    previous.mkdir()
    replace = os.replace

    def completed_meanwhile(source, destination):
        target.mkdir()
        (target / "a").write_text("new")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", completed_meanwhile)
    files.recover_swap(target)
    assert (target / "a").read_text() == "new"


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from funnel.utils.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as p:\n"
        "    p.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "a[1].txt"
    environment = {**os.environ, "PYTHONPATH": str(COMMON)}
    done = subprocess.run([sys.executable, "-c", code, str(target)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with files.atomic_path(target) as first:
        first.write_text("first")
        files.atomic_write_text(target, "second")
        assert first.exists()
    assert target.read_text() == "first"
    assert os.listdir(tmp_path) == [target.name]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_file(tmp_path / "a") == expected


def test_json_has_null_where_a_number_is_not_finite(tmp_path):
    value = {"a": [float("nan"), np.float64("inf"), 1.5], "b": {"c": (-float("inf"), 2, "x", None)}}
    files.atomic_write_json(tmp_path / "a.json", value)

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"a": [None, None, 1.5], "b": {"c": [None, 2, "x", None]}}
