"""`python -m tests.slurm install | start FOLDER [--accounting] | stop FOLDER`: the trial cluster by hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.slurm.cluster import FOLDER, TrialCluster, Unavailable, install, wait_for_end


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__)
    parser.add_argument("action", choices=["install", "start", "stop"])
    parser.add_argument("folder", type=Path, nargs="?", help="new folder for everything that the cluster writes")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and a database, so that sacct works")
    parser.add_argument("--after", type=int, metavar="PID", help="stop as soon as that process has ended")
    options = parser.parse_args()
    if (options.action == "install") != (options.folder is None):
        parser.error("start and stop take a folder, install takes none")
    try:
        if options.action == "install":
            install()
        elif options.action == "start":
            cluster = TrialCluster(options.folder, options.accounting)
            cluster.start()
            print(f"export SLURM_CONF={cluster.folder}/slurm.conf PATH={cluster.folder}/bin:$PATH")
        else:
            if options.after is not None:
                wait_for_end(options.after)
            TrialCluster(options.folder / FOLDER).stop()
    except Unavailable as reason:
        print(f"no trial cluster: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
