"""`python -m workflow.lib <stage>`; a stage of the workflow ends with a line that says what it cost."""

import atexit
import gc
import os
import sys

# Most of what a stage makes, modules above all, lives to its end: looking for cycles after every 700 new objects costs
# a drawing an eighth of its time.
gc.set_threshold(50_000, 10, 10)

from workflow.lib import costs, orphans  # noqa: E402
from workflow.lib.cli import main  # noqa: E402
from workflow.lib.files import JOB  # noqa: E402

JOBS = ("fetch", "generate", "train", "measure", "draw", "judge", "gather", "page", "race", "standings")


def end(status: int) -> None:
    """End the process without taking apart what was imported: 0.6 CPU seconds with torch, 0.2 with matplotlib.

    Whoever looks on, such as a profiler, finds the interpreter alive and ends it as usual.
    """
    if sys.getprofile() is sys.gettrace() is None:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


if __name__ == "__main__":
    if snakemake := os.environ.get(JOB):
        orphans.end_with(int(snakemake))
    status = main()
    if status == 0 and sys.argv[1] in JOBS:
        print(costs.so_far(sys.argv[1]), file=sys.stderr)
    end(status)
