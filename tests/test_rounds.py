"""The guard against scheduling rounds by the clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from workflow.lib import rounds


def scheduler(limit: str) -> SimpleNamespace:
    return SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(limit)))


def test_the_default_limit_is_taken_off() -> None:
    default = scheduler("100/1s")
    rounds.without_timers(default)
    assert default.job_rate_limiter is None
    rounds.without_timers(default)  # nothing left to do


def test_a_limit_that_a_user_chose_stays() -> None:
    chosen = scheduler("5/1m")
    rounds.without_timers(chosen)
    assert chosen.job_rate_limiter is not None


def test_another_version_of_snakemake_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "version", lambda _: "9.28.0")
    default = scheduler("100/1s")
    rounds.without_timers(default)
    assert default.job_rate_limiter is not None
