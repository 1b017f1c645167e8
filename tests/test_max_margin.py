"""The hard-margin solver."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import max_margin as reference
from workflow.lib.max_margin import max_margin


@pytest.mark.parametrize(("count", "unknowns"), [(4, 10), (12, 10), (30, 10), (1, 1)])
def test_two_solvers_agree_and_the_conditions_hold(count: int, unknowns: int) -> None:
    generator = np.random.default_rng(count)
    direction = generator.normal(size=unknowns)
    rows = generator.normal(size=(count, unknowns))
    rows *= np.sign(rows @ direction)[:, None]  # separable by construction
    solution = max_margin(rows)
    np.testing.assert_allclose(solution.w, reference.max_margin(rows), atol=1e-6 * np.linalg.norm(solution.w))
    margins = rows @ solution.w
    assert margins.min() > 1 - 1e-9
    assert (solution.multipliers >= 0).all()
    np.testing.assert_allclose(rows.T @ solution.multipliers, solution.w, atol=1e-9)
    np.testing.assert_allclose(solution.multipliers * (margins - 1), 0, atol=1e-8)
    assert solution.residual < 1e-8


def test_the_solution_scales_with_the_constraints() -> None:
    rows = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0]])
    for scale in (2.0**-40, 2.0**40):
        scaled, plain = max_margin(rows * scale), max_margin(rows)
        np.testing.assert_array_equal(scaled.w * scale, plain.w)
        np.testing.assert_array_equal(scaled.multipliers * scale**2, plain.multipliers)


def test_contradicting_constraints_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        max_margin(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="contradict"):
        max_margin(np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
