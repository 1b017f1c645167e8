"""When parameters are kept during a run."""

from __future__ import annotations

import numpy as np


def snapshot_steps(steps: int) -> np.ndarray:
    """The steps at which parameters are kept: each of the first ten, then every 5th, 10th and 100th."""
    grid = np.r_[0:10, 10:100:5, 100:1000:10, 1000:steps:100, steps]
    return np.unique(grid[grid <= steps])
