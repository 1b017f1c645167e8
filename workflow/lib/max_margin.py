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


def max_margin(constraints: np.ndarray, solver: str = "daqp") -> MaxMargin:
    """Solve min ||w|| subject to constraints @ w >= 1.

    The solution lies in the span of the constraints, so with fewer constraints than unknowns the problem is
    solved in an orthonormal basis of that span.

    Args:
        constraints: shape (m, k), one row per constraint, m >= 1.
        solver: any solver that qpsolvers knows.

    Raises:
        ValueError: no w meets all constraints.
    """
    count, unknowns = constraints.shape
    basis, rows = np.eye(unknowns), constraints
    if count < unknowns:
        basis, triangle = np.linalg.qr(constraints.T)
        rows = triangle.T
    import qpsolvers  # not at the top: the plan imports every room's claims

    problem = qpsolvers.Problem(P=np.eye(rows.shape[1]), q=np.zeros(rows.shape[1]), G=-rows, h=-np.ones(count))
    solution = qpsolvers.solve_problem(problem, solver=solver)
    if not solution.found or solution.x is None:
        raise ValueError(f"no w has constraints @ w >= 1: the {count} constraints contradict each other")
    residual = max(solution.primal_residual(), solution.dual_residual(), abs(solution.duality_gap()))
    return MaxMargin(basis @ solution.x, np.asarray(solution.z), float(residual))
