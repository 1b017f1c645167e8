"""Hard-margin problems, solved by a quadratic-programming library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaxMargin:
    """The solution of min ||w|| subject to constraints @ w >= 1.

    Attributes:
        w: shape (k,).
        multipliers: shape (m,), one per constraint, at least 0; w = constraints.T @ multipliers.
        residual: the largest violation of the optimality (KKT) conditions, in absolute terms.
    """

    w: np.ndarray
    multipliers: np.ndarray
    residual: float


def max_margin(constraints: np.ndarray) -> MaxMargin:
    """Solve min ||w|| subject to constraints @ w >= 1.

    The solution lies in the span of the constraints, so with fewer constraints than unknowns the problem is
    solved in an orthonormal basis of that span.

    Args:
        constraints: shape (m, k), one row per constraint, m >= 1.

    Raises:
        ValueError: no w meets all constraints.
    """
    count, unknowns = constraints.shape
    basis, rows = np.eye(unknowns), constraints
    if count < unknowns:
        basis, triangle = np.linalg.qr(constraints.T)
        rows = triangle.T
    # The solver's tolerances are absolute, and the problem has no scale of its own; a power of 2 rounds nothing.
    scale = 2.0 ** np.floor(np.log2(np.linalg.norm(rows, axis=1).max(initial=0) or 1))
    rows = rows / scale
    import daqp  # not at the top: the plan imports every room's claims

    # min 1/2 |x|^2 subject to -rows @ x <= -1, with no lower bounds; 0 is the sense of an inequality.
    nothing, free = np.zeros(rows.shape[1]), np.full(count, -1e30)
    x, _, status, told = daqp.solve(
        np.eye(rows.shape[1]), nothing, -rows, -np.ones(count), free, np.zeros(count, dtype=np.intc)
    )
    if status <= 0:
        raise ValueError(f"no w has constraints @ w >= 1: the {count} constraints contradict each other")
    multipliers = told["lam"]
    violated = max(0.0, 1 - (rows @ x).min())
    stationary = np.abs(x - rows.T @ multipliers).max()
    gap = abs(x @ x - multipliers.sum())
    return MaxMargin(basis @ x / scale, multipliers / scale**2, float(max(violated, stationary, gap)))
