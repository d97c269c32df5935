"""A lock on the directory of a run, so that two runs never write to it together.

The lock is a file in the directory that names its owner. It is created with a hard link, which is
atomic on NFS and other shared file systems too (``flock`` is not, everywhere). The owner renews the
file's modification time every few seconds. A lock is stale if its process has ended, as far as that
can be seen from here, or else if it has not been renewed for some minutes; both times compared come
from the file server, so clocks may differ.

A stale lock is taken over by creating a claim that names the stale lock's token, of which there can
be one only. Without that, one of two processes that find the same stale lock could delete the new
lock of the other.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from funnel.utils.errors import RunError

LOCK_FILE = ".run.lock"
_RENEWAL_SECONDS = 15.0
_STALE_SECONDS = 180.0
_ATTEMPTS = 50
# Errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        token: differs for every lock.
        host: name of its machine.
        pid: its process id there.
        started: when it took the lock, in local time.
        machine: identifies the running machine and the numbering of its processes: boot id and PID
            namespace. Process ids can be looked up only if it is the same.
        birth: when the process began, in clock ticks since the boot. Process ids are used again.
    """

    token: str
    host: str
    pid: int
    started: str
    machine: str = ""
    birth: str = ""

    @classmethod
    def this_process(cls) -> Owner:
        """Return a new owner for this process."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        host, pid = socket.gethostname(), os.getpid()
        return cls(uuid4().hex, host, pid, now, _machine(), _birth(pid))

    @classmethod
    def read(cls, path: Path) -> Owner:
        """Return the owner that a lock or a claim names."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})

    def is_alive(self, age: float) -> bool:
        """Whether the process runs, or may run.

        Args:
            age: seconds since the lock was renewed.
        """
        if not self.machine or self.machine != _machine():
            return age < _STALE_SECONDS
        birth = _birth(self.pid)
        return bool(birth) and (birth == self.birth or not self.birth)


class RunLock:
    """The lock of a directory, held by this process until :meth:`release`.

    Created by :func:`acquire`.
    """

    def __init__(self, folder: Path, owner: Owner, made_folder: bool) -> None:
        self.folder, self.owner = folder, owner
        self._made_folder, self._ended = made_folder, threading.Event()
        # A daemon: it must not keep the process alive.
        threading.Thread(target=self._renew, daemon=True, name="run-lock").start()

    def check(self) -> None:
        """Raise RunError if another process has taken the lock over.

        That happens if this process was suspended for minutes.
        """
        found = _read_owner(self.folder / LOCK_FILE)
        if found is not None and found.token != self.owner.token:
            raise RunError(
                f"{self.folder}: was taken over by process {found.pid} on {found.host}, because "
                "this process gave no sign of life for minutes; only that one may go on"
            )

    def release(self) -> None:
        """Delete the lock, and the directory if nothing was written; repeated calls do nothing."""
        if self._ended.is_set() or os.getpid() != self.owner.pid:
            return
        self._ended.set()
        with contextlib.suppress(ValueError):  # release_all has taken it out
            _held.remove(self)
        path = self.folder / LOCK_FILE
        found = _read_owner(path)
        if found is not None and found.token == self.owner.token:
            path.unlink(missing_ok=True)
        if self._made_folder:
            with contextlib.suppress(OSError):  # not empty, or deleted by somebody else
                self.folder.rmdir()

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWAL_SECONDS):
            with contextlib.suppress(OSError):  # a file server may be away for a moment
                os.utime(self.folder / LOCK_FILE)


_held: list[RunLock] = []


def acquire(folder: str | os.PathLike[str]) -> RunLock:
    """Lock a directory, which is created if it is missing.

    Raises:
        RunError: another process holds the lock; the message names it. Or the directory cannot be
            written.
    """
    folder = Path(folder)
    missing: OSError | None = None
    for _ in range(_ATTEMPTS):
        try:
            made_folder = not folder.exists()
            if not made_folder and not folder.is_dir():
                raise RunError(f"{folder}: is a file; --model_dir needs a directory")
            folder.mkdir(parents=True, exist_ok=True)
            owner = _try_to_acquire(folder)
        except FileNotFoundError as error:
            missing = error
            continue  # a process that gave up has deleted the directory, or its lock
        except OSError as error:
            raise _unwritable(folder, error) from error
        if owner is not None:
            lock = RunLock(folder, owner, made_folder)
            _held.append(lock)
            return lock
    if missing is not None and not folder.exists():
        raise _unwritable(folder, missing)  # /proc answers so to every attempt
    raise RunError(f"{folder}: its lock {LOCK_FILE} changes all the time; start one run at a time")


def check_lock(folder: str | os.PathLike[str]) -> None:
    """Raise RunError if this process held the lock of a directory and has lost it."""
    for lock in _held:
        if lock.folder == Path(folder) and lock.owner.pid == os.getpid():
            lock.check()


@atexit.register
def release_all() -> None:
    """Release the locks that this process holds."""
    while _held:
        _held.pop().release()


def _unwritable(folder: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"{folder}: cannot be written: {reason}; choose another --model_dir")


def _try_to_acquire(folder: Path) -> Owner | None:
    """Return the new owner, None if another attempt is needed.

    Raises:
        RunError: a living process holds the lock.
    """
    owner, path = Owner.this_process(), folder / LOCK_FILE
    draft = folder / f"{LOCK_FILE}.{owner.token}"
    draft.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    try:
        if _link(draft, path):
            return owner
        found = _read_owner(path)
        if found is None:
            _refuse_unreadable(path, draft)
            return None
        stale, place = _last_claimant(folder, found, path)
        age = draft.stat().st_mtime - place.stat().st_mtime
        is_own = (stale.pid, stale.machine) == (owner.pid, owner.machine)
        if stale.is_alive(age) and not is_own:
            _refuse(folder, stale, age)
        return owner if _take_over(folder, owner, draft, (found, stale)) else None
    finally:
        draft.unlink(missing_ok=True)


def _take_over(folder: Path, owner: Owner, draft: Path, seen: tuple[Owner, Owner]) -> bool:
    """Replace the lock of a dead process; return whether this process is the one that may.

    Args:
        folder: the locked directory.
        owner: this process.
        draft: file that names it.
        seen: owner in the lock file, and the last one to claim it.
    """
    first, stale = seen
    claim = _claim(folder, stale)
    if not _link(draft, claim):
        return False  # another process was faster
    found = _read_owner(folder / LOCK_FILE)
    if found is None or found.token != first.token:
        # A faster process has replaced the lock and deleted its claim.
        claim.unlink(missing_ok=True)
        return False
    os.replace(draft, folder / LOCK_FILE)
    for item in folder.glob(f"{LOCK_FILE}.claim-*"):
        item.unlink(missing_ok=True)
    return True


def _last_claimant(folder: Path, owner: Owner, path: Path) -> tuple[Owner, Path]:
    """Follow the claims from the owner of the lock: a claimant may have died, too."""
    while (claimant := _read_owner(claim := _claim(folder, owner))) is not None:
        owner, path = claimant, claim
    return owner, path


def _claim(folder: Path, owner: Owner) -> Path:
    return folder / f"{LOCK_FILE}.claim-{owner.token}"


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; return False if that name exists."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create(target, source.read_bytes())
    return True


def _create(target: Path, content: bytes) -> bool:
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    return True


def _read_owner(path: Path) -> Owner | None:
    """Return the owner in a file; None if there is no such file or it names none."""
    try:
        return Owner.read(path)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _refuse(folder: Path, owner: Owner, age: float) -> None:
    raise RunError(
        f"{folder}: another run is writing here: process {owner.pid} on {owner.host}, since "
        f"{owner.started} (last sign of life {max(0, round(age))} s ago); wait for its end, or "
        f"choose another --model_dir"
    )


def _refuse_unreadable(path: Path, draft: Path) -> None:
    """Raise RunError for a lock that names no owner and is not just being written."""
    try:
        age = draft.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return
    if age > _STALE_SECONDS:
        raise RunError(f"{path}: names no owner; delete it if no run is writing here")
    time.sleep(0.1)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return ""


def _birth(pid: int) -> str:
    """Return when a process began, "" if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended
