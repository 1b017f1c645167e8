"""The steps at which runs are recorded. Every grid holds step 0, the start, and the last step, at least 1."""

from __future__ import annotations

import math


def regular(last: int, every: int) -> list[int]:
    """Every `every`-th step.

    >>> regular(7, 3)
    [0, 3, 6, 7]
    """
    return sorted({*range(0, last + 1, every), last})


def geometric(last: int, count: int) -> list[int]:
    """At most `count` steps after the start, each longer than the one before by the same factor, or by one.

    >>> geometric(100, 3)
    [0, 1, 10, 100]
    """
    steps = (last ** (k / max(count - 1, 1)) for k in range(count))
    return sorted({0, *(round(step) for step in steps), last})


def decades(last: int, per_decade: int) -> list[int]:
    """A geometric grid that does not depend on the last step, so that runs of different lengths share it.

    >>> decades(50, 2)
    [0, 1, 3, 10, 32, 50]
    """
    count = math.ceil(per_decade * math.log10(last)) + 1
    steps = (round(10.0 ** (k / per_decade)) for k in range(count))
    return sorted({0, *(step for step in steps if step < last), last})
