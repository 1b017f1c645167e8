"""Fixtures of the tests that run whole papers at small sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import small
from workflow.lib.papers.icl.prompts import metrics as prompts
from workflow.lib.plan.model import Paper


@pytest.fixture(autouse=True, scope="package")
def _few_samples_and_no_disk() -> Iterator[None]:
    """Where icl checks its formulas by sampling, a blink's worth of samples; no file has to outlive the machine."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompts, "RAW_SAMPLES", 200)
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="package")
def finished_paper(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Paper, Path]]:
    """A paper's finished runs at small sizes, both seeds in one job: made once, and for reading only."""

    @cache
    def of(name: str) -> tuple[Paper, Path]:
        made, folder = small.paper(name), tmp_path_factory.mktemp(name)
        assert list(small.run(made, folder)) == list(made.experiments)
        return made, folder

    return of
