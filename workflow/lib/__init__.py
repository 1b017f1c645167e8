"""The library behind the rules: one room per paper, one file per optimizer, one command line.

In a notebook or a script of your own, `load` opens the results of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from workflow.lib.loading import Results


def load(paper: str, folder: Path | str = "results", rooms: Path | str | None = None) -> Results:
    """Open what a run wrote about a paper.

    Args:
        paper: short name, such as `ntp`.
        folder: the results folder of the run.
        rooms: the folder of your own papers, which the run's key `rooms` named; None for ours alone.

    Returns:
        Its `metrics(experiment)`, `settings(experiment)` and `claims()` as pandas frames, `figure(name)` as a figure of
        matplotlib's.

    Raises:
        UserError: there is no such paper, or there are no results of it.
    """
    import importlib

    # By its name: an import statement here would count for every job, and an edited figure would train everything anew.
    return importlib.import_module("workflow.lib.loading").Results(paper, folder, rooms)
