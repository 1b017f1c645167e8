"""Population descent on three classes of logits against the dense twin."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import icl as reference
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.metrics import first_crossing
from workflow.lib.papers.icl.population.training import snapshot_steps


def population(**changes):
    overlay = {"experiments": {"population": changes}}
    return rooms.load_paper("icl", overlay).experiment("population")


def run(experiment, optimizer="gd"):
    data = {0: rooms.generate(experiment)(experiment, experiment.seed(0))}
    return data, rooms.train(experiment)(experiment, experiment.optimizers[optimizer], data, Job())


@pytest.mark.parametrize("size", [3, 12])
def test_three_classes_are_the_whole_matrix(size):
    counts = {"feature_counts": {"value": [size]}, "phases_of": size, "plateau_of": size}
    experiment = population(settings=counts, optimizers={"gd": {"lr": 2.0, "iterations": 60}})
    _, fast = run(experiment)
    found = dict(zip(QUERIES, fast.parameters["logits"][0, -1], strict=True))
    rare = 0.5 / (size - 1)
    dense = reference.population_descent(np.array([0.5] + [rare] * (size - 1)), step_size=2.0, iterations=60)
    np.testing.assert_allclose(found["dominant"][[0, 2]], dense[[0, 1], 0], atol=1e-12)
    np.testing.assert_allclose(found["rare"], dense[[1, 0, 2], 1], atol=1e-12)
    balanced = reference.population_descent(np.full(size, 1 / size), step_size=2.0, iterations=60)
    np.testing.assert_allclose(found["balanced"], balanced[[1, 0, 2], 1], atol=1e-12)


def test_metrics_at_the_start_are_the_formulas():
    counts = {"feature_counts": {"value": [20]}, "phases_of": 20, "plateau_of": 20}
    experiment = population(settings=counts, optimizers={"gd": {"iterations": 50}})
    data, fast = run(experiment)
    trace = rooms.measure(experiment)(experiment, data, {"gd": fast})["gd"]
    p = np.array([0.5] + [0.5 / 19] * 19)
    expected = ((1 - p) ** 2 + (p**2).sum() - p**2) / 2
    assert trace.curve("error", ("dominant", 20)).at(0)[0] == pytest.approx(expected[0], abs=1e-14)
    assert trace.curve("error", ("rare", 20)).at(0)[0] == pytest.approx(expected[1], abs=1e-14)
    assert trace.curve("attention", ("rare", 20, "target")).at(0)[0] == pytest.approx(p[1], abs=1e-15)
    assert trace.curve("attention", ("rare", 20, "dominant")).at(0)[0] == pytest.approx(0.5, abs=1e-15)


def test_a_rule_that_couples_entries_is_refused_by_name():
    experiment = population(optimizers={"norm": {"rule": "ngd", "lr": 1.0, "iterations": 2}})
    with pytest.raises(UserError, match=r"population.optimizers.norm.*'ngd'.*adam, gd"):
        run(experiment, "norm")


def test_times_interpolate_and_may_be_missing():
    times = np.array([0.0, 1.0, 2.0, 4.0])
    assert first_crossing(times, np.array([-1.0, -1.0, 1.0, 2.0])) == pytest.approx(1.5)
    assert first_crossing(times, np.array([0.0, -1.0, 1.0, 2.0])) == 0.0
    assert np.isnan(first_crossing(times, np.full(4, -1.0)))
    assert np.isnan(first_crossing(times, np.full(4, np.nan)))


def test_snapshots_hold_the_start_and_the_end():
    for iterations in (1, 7, 1000):
        steps = snapshot_steps(iterations, 30)
        assert steps[0] == 0
        assert steps[-1] == iterations
        assert (np.diff(steps) > 0).all()
