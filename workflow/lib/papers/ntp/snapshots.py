"""When parameters are kept during a run."""

from __future__ import annotations

import numpy as np

from workflow.lib import grids


def snapshot_steps(steps: int) -> np.ndarray:
    """The steps at which parameters are kept: a geometric grid, and every 100th step for the claims that name one."""
    return np.union1d(grids.decades(steps, per_decade=48), grids.regular(steps, 100))
