"""Fixtures of the tests that run whole papers at small sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workflow.lib.papers.icl.prompts import metrics as prompts


@pytest.fixture(autouse=True, scope="module")
def _few_samples() -> Iterator[None]:
    """Where icl checks its formulas by sampling, at every size, a blink's worth of samples."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompts, "RAW_SAMPLES", 200)
        yield
