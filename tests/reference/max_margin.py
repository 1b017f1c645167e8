"""Hard-margin problems by another solver."""

from __future__ import annotations

import numpy as np
import qpsolvers


def max_margin(constraints: np.ndarray) -> np.ndarray:
    """The w of min ||w|| subject to constraints @ w >= 1."""
    count, unknowns = constraints.shape
    found = qpsolvers.solve_qp(np.eye(unknowns), np.zeros(unknowns), -constraints, -np.ones(count), solver="clarabel")
    assert found is not None
    return found
