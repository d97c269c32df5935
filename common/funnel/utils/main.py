"""How every program ends: a user's mistake is one line, a defect keeps its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from funnel.utils.errors import FunnelError

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


def run_main(main: Callable[[], None]) -> None:
    """Call ``main`` and exit the process with the status its outcome deserves.

    Returns normally on success. :class:`~funnel.utils.errors.FunnelError` prints ``error: …`` and
    exits with 2, Ctrl-C exits with 130, a closed output pipe (``program | head``) ends quietly.
    """
    try:
        main()
        sys.stdout.flush()
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
