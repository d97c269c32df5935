"""Exit codes of programs: errors a user can correct are one line, bugs keep their traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable

from funnel.utils.errors import FunnelError, named_if_missing
from funnel.utils.interruption import Interrupted, stop_requests

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
TERMINATED = 143  # 128 + SIGTERM


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
        handled = stop_requests.handled() if preemptible else contextlib.nullcontext()
        with handled, named_if_missing():
            main()
        sys.stdout.flush()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(TERMINATED)
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt as stop:
        # A training program says how to resume.
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # A path on the command line or in a file; no code of ours makes such names.
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(USER_ERROR)
