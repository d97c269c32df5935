"""The lock of a run directory: one owner, stale locks, and many processes at the same moment."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import repo_layout
from funnel.utils import run_lock
from funnel.utils.errors import RunError
from funnel.utils.run_lock import LOCK_FILE, Owner, acquire, check_lock, release_all

COMMON = repo_layout.ROOT / "common"
# Waits for a common moment, takes the lock, holds it until its stdin ends, and says what happened.
_CONTENDER = """
import sys, time
from funnel.utils.run_lock import acquire
from funnel.utils.errors import RunError
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    acquire(sys.argv[1])
    print("won", flush=True)
except RunError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _released():
    yield
    release_all()


def _write(folder, owner, age=0.0):
    folder.mkdir(exist_ok=True)
    path = folder / LOCK_FILE
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)


def _contend(folder, number):
    """Start processes that take the lock at the same moment; their answers."""
    moment = str(time.time() + 1.0)
    command = [sys.executable, "-S", "-c", _CONTENDER, str(folder), moment]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(COMMON)}
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        for _ in range(number)
    ]
    answers = [process.stdout.readline().strip() for process in started]
    for process in started:
        process.communicate()
    return answers


def test_a_lock_creates_and_leaves_no_directory(tmp_path):
    lock = acquire(tmp_path / "new" / "run")
    assert [item.name for item in (tmp_path / "new" / "run").iterdir()] == [LOCK_FILE]
    lock.release()
    lock.release()
    assert not (tmp_path / "new" / "run").exists()


def test_files_of_the_run_stay(tmp_path):
    lock = acquire(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").touch()
    release_all()
    assert [item.name for item in lock.folder.iterdir()] == ["metrics.jsonl"]


def test_the_living_owner_is_named(tmp_path):
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pid, machine = child.pid, run_lock._machine()
        owner = Owner("a", "node7", pid, "2026-01-02 03:04:05", machine, run_lock._birth(pid))
        _write(tmp_path, owner, age=9999)
        text = f"another run is writing here: process {pid} on node7, since 2026-01-02 03:04:05"
        with pytest.raises(RunError, match=text):
            acquire(tmp_path)
        assert [item.name for item in tmp_path.iterdir()] == [LOCK_FILE]
    finally:
        child.communicate(b"\n")
    assert acquire(tmp_path).owner.pid == os.getpid()  # the process has ended: the lock is stale


def test_a_process_id_that_was_used_again_is_no_owner(tmp_path):
    mine = Owner.this_process()
    parent = replace(mine, token="a", pid=os.getppid(), birth="1")
    _write(tmp_path, parent)
    acquire(tmp_path)


@pytest.mark.parametrize(("age", "is_stale"), [(5, False), (100, False), (400, True)])
def test_an_owner_elsewhere_is_judged_by_its_renewals(tmp_path, age, is_stale):
    _write(tmp_path, Owner("a", "node7", 1, "then", "another machine"), age)
    if is_stale:
        acquire(tmp_path)
        return
    with pytest.raises(RunError, match="process 1 on node7.*last sign of life"):
        acquire(tmp_path)


def test_the_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_RENEWAL_SECONDS", 0.01)
    acquire(tmp_path)
    path = tmp_path / LOCK_FILE
    os.utime(path, (1, 1))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_losing_the_lock_is_noticed_and_leaves_the_new_owner(tmp_path):
    lock = acquire(tmp_path)
    check_lock(tmp_path)
    other = Owner("b", "node7", 1, "then", "another machine")
    _write(tmp_path, other)
    with pytest.raises(RunError, match="taken over by process 1 on node7"):
        check_lock(tmp_path)
    lock.release()
    assert Owner.read(tmp_path / LOCK_FILE) == other


def test_a_claimant_that_died_does_not_block(tmp_path):
    dead = replace(Owner.this_process(), token="a", pid=2**22 - 3)
    _write(tmp_path, dead)
    claimant = replace(dead, token="b")
    (tmp_path / f"{LOCK_FILE}.claim-a").write_text(json.dumps(asdict(claimant)))
    acquire(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == [LOCK_FILE]


def test_a_lock_without_owner(tmp_path):
    (tmp_path / LOCK_FILE).touch()
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    with pytest.raises(RunError, match="names no owner; delete it"):
        acquire(tmp_path)


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(run_lock._NO_LINKS[0], "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    _write(tmp_path, replace(Owner.this_process(), token="a", pid=2**22 - 3))
    acquire(tmp_path)
    assert Owner.read(tmp_path / LOCK_FILE).pid == os.getpid()


def test_places_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: is a file; --model_dir needs a directory"):
        acquire(tmp_path / "file")
    with pytest.raises(RunError, match="run: cannot be written: Not a directory"):
        acquire(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="cannot be written: File name too long; choose another"):
        acquire(tmp_path / ("x" * 300))


def test_a_place_where_nothing_can_be_created(tmp_path, monkeypatch):
    """As /proc answers, where a directory is never there."""

    def refuse(folder, **_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = "run: cannot be written: No such file or directory; choose another --model_dir"
    with pytest.raises(RunError, match=message):
        acquire(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_wins(tmp_path, stale):
    for number in range(5):
        folder = tmp_path / str(number)
        if stale:
            _write(folder, replace(Owner.this_process(), token="a", pid=2**22 - 3))
        answers = _contend(folder, 6)
        assert answers.count("won") == 1, answers
        assert all("another run is writing here" in a for a in answers if a != "won"), answers
