"""Snakemake as a command, but it asks after its jobs every second: its plugin for Slurm waits ten seconds longer after
every answer that tells of no end, and no option bounds that."""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = _second  # type: ignore[method-assign]
    sys.exit(main())
