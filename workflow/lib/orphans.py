"""A job ends soon after the snakemake that started it, however that ended.

A killed snakemake leaves its jobs running: they would go on for hours, and write what the next run writes, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_EVERY = 2.0  # seconds


def end_with(process: int) -> None:
    """End this process when another one is there no more.

    Args:
        process: the other's number, as seen from here.
    """
    threading.Thread(target=_watch, args=(process,), name="orphans", daemon=True).start()


def _watch(process: int) -> None:
    while True:
        time.sleep(_EVERY)
        try:
            os.kill(process, 0)  # no signal: is it there?
        except PermissionError:  # it is
            continue
        except ProcessLookupError:
            print("error: snakemake was killed, and this job ends with it; the same command goes on", file=sys.stderr)
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGTERM)
            return
