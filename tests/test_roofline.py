"""What the benchmarks say of the limits of fast code."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks._roofline import Work, call, product


def test_work_is_counted() -> None:
    one, other = torch.ones(3, 4, 5), torch.ones(3, 5, 6)

    def run() -> None:
        found = torch.bmm(one, other)
        found.transpose(1, 2).mul_(2)

    work = Work.of(run)
    assert work.flop == {torch.float32: 2 * 3 * 4 * 5 * 6}
    touched = 4 * (3 * 4 * 5 + 3 * 5 * 6 + 3 * 4 * 6)
    assert work.touched == touched
    assert work.moved == touched + 4 * 2 * 3 * 4 * 6  # read and written in place
    assert work.calls == 3  # with the view
    assert work.times(2) == Work({torch.float32: 1440}, 2 * work.moved, touched, 6)


@pytest.mark.parametrize(
    ("work", "limit"),
    [
        (lambda: Work({torch.float64: product(torch.float64)}, 0, 0), "matrix products"),
        (lambda: Work({}, 10**13, 0), "bandwidth"),
        (lambda: Work({}, 0, 0, 1 / call()), "interpreter"),
        (lambda: Work({torch.float64: 1000}, 1000, 0, 1), "none of these"),
    ],
)
def test_the_largest_bound_is_what_limits(work, limit) -> None:  # type: ignore[no-untyped-def]
    assert limit in work().line(1.0).partition("limited by")[2]
