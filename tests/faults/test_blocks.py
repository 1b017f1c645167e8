"""Results do not hang on how many seeds a job trains: equal bits, or equal but for rounding as the README says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import small
from workflow.lib import rooms
from workflow.lib.plan.model import Experiment, Paper
from workflow.lib.runs import Curve
from workflow.lib.tables import read_traces

pytestmark = pytest.mark.whole

# Of the largest value of a curve. A step adds one rounding, and the small runs take a few.
ROUNDING = 1e-13
# Metrics that are roundings themselves.
ROUNDINGS = ("gradient_error", "gap_error")


def rounded(experiment: Experiment) -> bool:
    """Whether sums over samples of all seeds at once are added in an order that hangs on their number."""
    return experiment.paper == "ntp" or (experiment.paper == "ib" and experiment.kind not in ("vision", "language"))


@pytest.mark.slow
@pytest.mark.parametrize("name", rooms.papers())
def test_seeds_per_job_changes_no_result(
    name: str, finished_paper: Callable[[str], tuple[Paper, Path]], tmp_path: Path
) -> None:
    of, together = finished_paper(name)
    assert list(small.run(of, tmp_path, seeds_per_job=1)) == list(of.experiments)
    for experiment in of.experiments.values():
        table = f"metrics/{experiment.name}.parquet"
        alone, stacked = read_traces(tmp_path / table), read_traces(together / table)
        assert stacked.keys() == alone.keys()
        for label, trace in alone.items():
            curves = dict(stacked[label].items())
            for key, curve in trace.items():
                if key[0] not in ROUNDINGS:
                    where = f"{experiment.name}, {label}, {key}"
                    same(curves[key], curve, where, ROUNDING if rounded(experiment) else 0.0)


def same(found: Curve, expected: Curve, where: str, rounding: float) -> None:
    np.testing.assert_array_equal(found.steps, expected.steps, where)
    allowed = rounding * np.max(np.abs(expected.values), initial=0.0, where=~np.isnan(expected.values))
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=allowed, err_msg=where)
