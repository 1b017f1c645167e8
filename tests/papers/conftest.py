"""A fixture of the tests that draw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workflow.lib import plotting


@pytest.fixture(autouse=True, scope="package")
def _look() -> Iterator[None]:
    """Drawings have the look once for all, as in a job, where every line by itself would set it."""
    with plotting.look():
        yield
