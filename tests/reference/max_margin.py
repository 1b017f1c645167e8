"""Hard-margin problems by another solver."""

from __future__ import annotations

import numpy as np
import qpsolvers
from scipy.sparse import csc_matrix, eye


def max_margin(constraints: np.ndarray) -> np.ndarray:
    """The w of min ||w|| subject to constraints @ w >= 1."""
    count, unknowns = constraints.shape
    identity = csc_matrix(eye(unknowns))
    rows = csc_matrix(-constraints)
    found = qpsolvers.solve_qp(identity, np.zeros(unknowns), rows, -np.ones(count), solver="clarabel")
    assert found is not None
    return found
