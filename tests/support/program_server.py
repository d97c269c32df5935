"""Programs as processes of their own, without their import time.

A server process per backend imports the framework and this repository's packages once and then
forks a child per run: 3 s less than a new interpreter for PyTorch, 5 s for TensorFlow. A child has
its own command line, environment, directory, output and exit status, and can be killed. The
interface is that of :mod:`subprocess`. A child ends as an interpreter does, with its exit handlers,
except that its objects are not destroyed one by one, which would take seconds.

For tests about imports, memory or the start itself, :mod:`subprocess` is right.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.005
# Roots of the packages, and the packages whose modules the server imports.
_PACKAGES = {
    "pytorch": ("funnel_torch.cli", "funnel_data.cli", "funnel.cli"),
    "tensorflow": ("funnel_tf.cli",),
}
# Imported by the programs late, or by PyTorch in its first step.
_LATE = {
    "pytorch": (
        "sklearn.metrics", "scipy.stats", "tensorboard.summary.writer.record_writer",
        "torch.utils.data", "torch.distributed", "torch._dynamo", "funnel.checkpoints",
    ),
    "tensorflow": ("tensorflow", "funnel_tf.compat", "sklearn.metrics", "scipy.stats"),
}  # fmt: skip
_servers: dict[str, _Server] = {}


class ProgramProcess:
    """A run of a program; the part of :class:`subprocess.Popen` that tests need."""

    def __init__(self, server: _Server, pid: int):
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process without warning."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[object],
    output: Path | str,
    *,
    errors: Path | str | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    backend: str | None = None,
) -> ProgramProcess:
    """Start ``python *command``: a program of this repository, or ``-c`` and code.

    Args:
        command: the program's path, or ``-c`` and code; then its flags.
        output: the file that stdout goes to; replaced.
        errors: the file that stderr goes to, by default ``output``.
        cwd: the directory to run in, by default this process's.
        env: all environment variables, by default this process's and ``OMP_NUM_THREADS=1``.
        file_limit: no file can grow beyond so many bytes: what a full disk feels like.
        backend: ``pytorch`` or ``tensorflow``, by default as the program's folder says.
    """
    command = [str(word) for word in command]
    is_tensorflow = Path(command[0]).parent.name == "tensorflow"
    backend = backend or ("tensorflow" if is_tensorflow else "pytorch")
    if backend not in _servers:
        _servers[backend] = _Server(backend)
    variables = {**os.environ, "OMP_NUM_THREADS": "1"} if env is None else dict(env)
    request = {"command": command, "output": str(output), "errors": str(errors or output)}
    request |= {"cwd": str(cwd or os.getcwd()), "environment": variables, "file_limit": file_limit}
    return ProgramProcess(_servers[backend], _servers[backend].ask(request))


def run(
    command: Sequence[object], timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python *command`` to its end and return its status and output; see :func:`start`."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(command, output, errors=errors, **options)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        texts = (file.read_text(encoding="utf-8", errors="replace") for file in (output, errors))
        return subprocess.CompletedProcess(list(command), status, *texts)


class _Server:
    """The client's end of a server process."""

    def __init__(self, backend: str):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, __file__, backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the server, which kills the runs that are left."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _serve(backend: str) -> dict[str, Any] | None:
    """Answer requests; return a request in the child that runs it, None at the end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with _held_back_stderr():
        _import_all(backend)
        if backend == "tensorflow":
            _skip_graph_optimization()
    running: dict[int, None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            running.pop(pid, None)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                os.close(answers.fileno())
                return request
            running[answer] = None
        print(json.dumps(answer), file=answers, flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Drop what TensorFlow logs when it is imported, unless the block fails."""
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _import_all(backend: str) -> None:
    """Import what runs of the backend import, apart from optional packages that are absent."""
    before = list(sys.path)
    sys.path[:0] = [str(ROOT / name) for name in (backend, "common", "data-scripts")]
    names = list(_LATE[backend])
    for package in _PACKAGES[backend]:
        folder = next(ROOT.glob(f"*/{package.replace('.', '/')}"))
        names += [f"{package}.{file.stem}" for file in sorted(folder.glob("[!_]*.py"))]
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    sys.path[:] = before


def _skip_graph_optimization() -> None:
    """Take off a quarter of a small run; programs that tests call in their process keep it."""
    with suppress(ImportError):
        from tensorflow.core.protobuf import config_pb2
        from tensorflow.python.client.session import BaseSession

        begin = BaseSession.__init__

        def init(self: Any, target: str = "", graph: Any = None, config: Any = None) -> None:
            quick = config_pb2.ConfigProto()
            if config is not None:
                quick.CopyFrom(config)
            quick.graph_options.rewrite_options.disable_meta_optimizer = True
            begin(self, target, graph, quick)

        BaseSession.__init__ = init


def _become(request: Mapping[str, Any]) -> None:
    """Run the program of a request in this process."""
    for name, number in (("output", 1), ("errors", 2)):
        if number == 2 and request["errors"] == request["output"]:
            os.dup2(1, 2)
        else:
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if limit := request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    program, *sys.argv = request["command"]
    if program == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.path[0] = ""
        entries = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
        sys.path[1:1] = [entry for entry in entries if entry]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv.insert(0, program)
        sys.path[0] = os.path.dirname(os.path.abspath(program))
        runpy.run_path(program, run_name="__main__")


def _run_and_exit(request: Mapping[str, Any]) -> NoReturn:
    """Run the program of a request and end this process with its status."""
    status = 1
    try:
        _become(request)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if wanted := _serve(sys.argv[1]):
        _run_and_exit(wanted)
