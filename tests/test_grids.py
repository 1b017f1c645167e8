"""The grids of recorded steps."""

import pytest

from workflow.lib import grids

GRIDS = {
    "regular": lambda last: grids.regular(last, 7),
    "geometric": lambda last: grids.geometric(last, 30),
    "decades": lambda last: grids.decades(last, 24),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("last", [1, 7, 10, 1000, 12_345])
def test_every_grid_rises_from_the_start_to_the_end(name: str, last: int) -> None:
    steps = GRIDS[name](last)
    assert steps[0] == 0
    assert steps[-1] == last
    assert steps == sorted(set(steps))


def test_runs_of_different_lengths_share_the_decades() -> None:
    long, short = grids.decades(4000, 48), grids.decades(777, 48)
    assert {1, 10, 100, 1000, 4000} <= set(long)
    assert set(short) - {777} <= set(long)


def test_a_geometric_grid_keeps_its_count() -> None:
    assert len(grids.geometric(10**6, 20)) == 21
