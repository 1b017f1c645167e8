"""Population descent on three classes of logits against the dense twin."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import icl as reference
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.metrics import first_crossing
from workflow.lib.papers.icl.population.model import DOMINANT, OTHER, TARGET, FinitePrompts


def population_of(name, **changes):
    return rooms.load_paper("icl", {"experiments": {name: changes}}).experiment(name)


def population(**changes):
    return population_of("population", **changes)


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


@pytest.mark.parametrize(("size", "length"), [(3, 4), (4, 5), (5, 3)])
@pytest.mark.parametrize("query", QUERIES)
def test_finite_prompts_are_the_mean_over_all_counts(size, length, query):
    """Against every prompt of N tokens, weighed by its probability; the column's gradient by autograd."""
    counts = {"feature_counts": {"value": [size]}, "phases_of": size, "plateau_of": size}
    experiment = population(settings={**counts, "context_lengths": {"value": [length]}})
    arrays = rooms.generate(experiment)(experiment, experiment.seed(0))
    place = QUERIES.index(query)
    logits = np.random.default_rng(place).normal(size=3)
    seen = FinitePrompts(arrays["probability"][place], arrays["multiplicity"][place], length)(logits[:, None])
    rare = 0.5 / (size - 1)
    p = np.full(size, 1 / size) if query == "balanced" else np.array([0.5, *[rare] * (size - 1)])
    target = 0 if query == "dominant" else 1
    column = np.full(size, logits[OTHER])
    if query != "dominant":
        column[0] = logits[DOMINANT]
    column[target] = logits[TARGET]
    error, attention, drift = reference.finite_column(column, p, target, length)
    assert seen.error[0] == pytest.approx(error, rel=1e-12)
    other = size - 1
    np.testing.assert_allclose(seen.attention[[TARGET, OTHER], 0], attention[[target, other]], rtol=1e-12)
    np.testing.assert_allclose(seen.drift[[TARGET, OTHER], 0], drift[[target, other]], rtol=1e-11)
    if query != "dominant":
        assert seen.drift[DOMINANT, 0] == pytest.approx(drift[0], rel=1e-11)


@pytest.mark.slow
def test_finite_prompts_of_the_specification():
    """K = 20, N = 400, eta = 20: the state that an independent implementation found (papers/icl, section 6.5)."""
    experiment = population_of("finite", optimizers={"gd": {"iterations": 250}})
    data, fast = run(experiment)
    place = {(q, n): i for i, (q, n) in enumerate((q, n) for n in (40, 400, 0) for q in QUERIES)}
    at = dict(zip(fast.parameters["steps"][0], fast.parameters["logits"][0], strict=True))
    end = at[250]
    assert end[place["dominant", 400]][TARGET] == pytest.approx(4.07, abs=0.01)
    np.testing.assert_allclose(end[place["rare", 400]], [5.43, -2.23, -0.18], atol=0.015)
    error = rooms.measure(experiment)(experiment, data, {"gd": fast})["gd"].curve("error", ("rare", 20, 400)).final()
    assert error[0] == pytest.approx(0.0034, abs=1e-4)


def test_times_interpolate_and_may_be_missing():
    times = np.array([0.0, 1.0, 2.0, 4.0])
    assert first_crossing(times, np.array([-1.0, -1.0, 1.0, 2.0])) == pytest.approx(1.5)
    assert first_crossing(times, np.array([0.0, -1.0, 1.0, 2.0])) == 0.0
    assert np.isnan(first_crossing(times, np.full(4, -1.0)))
    assert np.isnan(first_crossing(times, np.full(4, np.nan)))
