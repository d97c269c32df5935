"""Exit codes of programs: errors a user can correct are one line, bugs keep their traceback."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from funnel.utils.errors import FunnelError, named_if_missing
from funnel.utils.interruption import Interrupted, stop_requests

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
TERMINATED = 143  # 128 + SIGTERM


@dataclasses.dataclass
class _ProcessEnd:
    skips_finalization: bool = False


_process_end = _ProcessEnd()


def skip_finalization() -> None:
    """Let :func:`run_main` end this process at once where it fails, interpreter not finalized.

    For processes whose native threads cannot be joined any more, such as those of a communication
    library after another process of the group has ended: they abort an interpreter that finalizes
    under them (SIGABRT in place of the exit code). Exit functions run and files are flushed.
    """
    _process_end.skips_finalization = True


def run_main(main: Callable[[], None], *, preemptible: bool = False) -> None:
    """Call ``main`` and exit the process with the appropriate code.

    Returns on success. A :class:`~funnel.utils.errors.FunnelError` prints ``error: …`` and exits
    with 2, as do a path too long for the file system and a backend that is not installed. Ctrl-C
    exits with 130, a closed output pipe (``program | head``) with 0.

    Args:
        main: the program.
        preemptible: SIGTERM and SIGUSR1 let ``main`` save and clean up, print one line and exit
            with 143; see :mod:`funnel.utils.interruption`.
    """
    try:
        code = _report(main, preemptible)
    except SystemExit as stop:
        if _process_end.skips_finalization and isinstance(stop.code, int) and stop.code:
            _end_process(stop.code)
        raise
    if code is None:
        return
    if code and _process_end.skips_finalization:
        _end_process(code)
    sys.exit(code)


def _report(main: Callable[[], None], preemptible: bool) -> int | None:
    """Call ``main``, print the line of an expected error, and return the code to exit with."""
    try:
        handled = stop_requests.handled() if preemptible else contextlib.nullcontext()
        with handled, named_if_missing():
            main()
        sys.stdout.flush()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return TERMINATED
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        # A training program says how to resume.
        print(str(stop) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A path on the command line or in a file; no code of ours makes such names.
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return USER_ERROR
    return None


def _end_process(code: int) -> NoReturn:
    atexit._run_exitfuncs()  # those of logging and multiprocessing, which os._exit would skip
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
