"""For every claim of icl a mistake that makes it fail: in the numbers of a run that holds, or in the code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.judging import verdict
from workflow.lib.papers.icl import formulas
from workflow.lib.papers.icl.prompts import metrics as prompt_metrics
from workflow.lib.papers.icl.prompts import training as prompt_training
from workflow.lib.runs import Metrics, Trace

pytestmark = pytest.mark.slow  # every run that a claim reads is trained once

SEEDS = (0, 1)
CODE = ("icl.model.drifts", "icl.model.closed_loss")  # killed in the code


def runs_of(experiment, seeds=SEEDS):
    data = {seed: rooms.generate(experiment)(experiment, experiment.seed(seed)) for seed in seeds}
    runs = {
        label: rooms.train(experiment)(experiment, optimizer, data, Job())
        for label, optimizer in experiment.optimizers.items()
    }
    return dict(rooms.measure(experiment)(experiment, data, runs))


@pytest.fixture(scope="module")
def paper():
    return rooms.load_paper("icl")


@pytest.fixture(scope="module")
def traces(paper):
    """Every experiment as it is shipped, with two seeds, but for the sampling, which no claim reads that is asked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompt_metrics, "RAW_SAMPLES", 1000)
        return {name: runs_of(experiment, SEEDS[: experiment.seeds]) for name, experiment in paper.experiments.items()}


def judged(paper, claim, found):
    entry = paper.claims[claim]
    measured = rooms.claims("icl")[claim](Metrics(found), paper.experiments)
    return verdict(measured, entry.low, entry.high, entry.share)


@dataclass(frozen=True)
class Change:
    """A run with some curves changed: `of(metric, index, curve)` gives steps and values, or None to leave it."""

    experiment: str
    label: str
    of: object

    def __call__(self, traces):
        return self.to(traces, self.label)

    def to(self, traces, label):
        before = traces[self.experiment][label]
        after = Trace(before.seeds)
        for (metric, index), curve in before.items():
            changed = self.of(metric, index, curve)
            after.record(metric, curve.steps, curve.values if changed is None else changed, index)
        return {**traces, self.experiment: {**traces[self.experiment], label: after}}


def instead(experiment, label, other, of=None):
    """Another experiment's or optimizer's trace in place of the right one."""
    source = of or experiment
    return lambda traces: {**traces, experiment: {**traces[experiment], label: traces[source][other]}}


def untrained(experiment, label="adam"):
    """Nothing ever changes; nothing is ever reached."""

    def of(metric, index, curve):
        if curve.steps.size > 1:
            return np.broadcast_to(curve.values[:, :1], curve.values.shape)
        return np.full_like(curve.values, np.nan) if metric in ("converged", "concentrated") else None

    return Change(experiment, label, of)


def late_start(experiment, label="adam"):
    """The run's first record is that of epoch 10: a start other than Q = 0."""

    def of(metric, index, curve):
        return np.concatenate([curve.values[:, 5:], np.repeat(curve.values[:, -1:], 5, axis=1)], 1)

    return Change(experiment, label, lambda m, i, c: of(m, i, c) if m in ("error", "attention") else None)


def features_off_by_one(experiment):
    """v_2 taken for v_1, and so on."""

    def mutate(traces):
        before = traces[experiment]["adam"]
        count = len(before.indices("converged"))
        after = Trace(before.seeds)
        for (metric, index), curve in before.items():
            if index.isdigit():
                after.record(metric, curve.steps, before.curve(metric, int(index) % count + 1).values, index)
            else:
                after.record(metric, curve.steps, curve.values, index)
        return {**traces, experiment: {**traces[experiment], "adam": after}}

    return mutate


def times(change, event=None, label="gd"):
    """Times of population descent changed: `change(time, query, K)`."""

    def of(metric, index, curve):
        if not metric.startswith("time_") or (event is not None and metric != f"time_{event}"):
            return None
        query, count = index.split(",")[:2]
        return change(curve.values, query, int(count))

    return Change("population", label, of)


def columns(experiment, label, name):
    """Columns exchanged: `name(metric, index)` says where a curve comes from."""

    def mutate(traces):
        trace = traces[experiment][label]

        def of(metric, index, curve):
            source = name(metric, index)
            return trace.curve(metric, source).values if source in trace.indices(metric) else None

        return Change(experiment, label, of)(traces)

    return mutate


def swap_crossing(traces):
    """Borders of phases in another order."""
    trace = traces["population"]["gd"]

    def of(metric, index, curve):
        other = {"time_crossing": "time_log", "time_log": "time_crossing"}.get(metric)
        return trace.curve(other, index).values if other else None

    return Change("population", "gd", of)(traces)


def other_n(old, new):
    """One prompt length taken for another in `finite`."""

    def name(metric, index):
        parts = index.split(",")
        if old in parts:
            return ",".join(new if part == old else part for part in parts if not (part == old and not new))
        return index

    return columns("finite", "gd", name)


KILLERS = {
    "icl.model.attn_sum": [
        Change("imbalanced", "adam", lambda m, i, c: c.values * 1.001 if (m, i) == ("attention", "1,2") else None)
    ],
    "icl.model.population_times": [times(lambda t, q, k: t * 1.1)],
    "icl.fig2.start_balanced": [late_start("balanced"), instead("balanced", "adam", "adam", "imbalanced")],
    "icl.fig2.start_imbalanced": [late_start("imbalanced"), instead("imbalanced", "adam", "adam", "balanced")],
    "icl.fig3.start": [late_start("imbalanced"), instead("imbalanced", "adam", "adam", "balanced")],
    "icl.fig2.balanced_end": [untrained("balanced"), instead("balanced", "adam", "gd")],
    "icl.fig2.balanced_together": [instead("balanced", "adam", "adam", "imbalanced")],
    "icl.fig2.stagewise": [features_off_by_one("imbalanced")],
    "icl.fig2.stage_ratio": [features_off_by_one("imbalanced"), instead("imbalanced", "adam", "adam", "balanced")],
    "icl.fig2.stage_ratio_training": [
        features_off_by_one("imbalanced"), instead("imbalanced", "adam", "adam", "balanced")
    ],
    "icl.fig2.imbalanced_end": [untrained("imbalanced")],
    "icl.fig3.concentration": [untrained("imbalanced"), instead("balanced", "adam", "gd")],
    "icl.fig3.order": [features_off_by_one("imbalanced"), instead("imbalanced", "adam", "adam", "balanced")],
    "icl.fig3.dominant_released": [untrained("imbalanced")],
    "icl.fig3.moves_at_once": [  # a first phase in which the dominant feature falls alone
        Change("imbalanced", "adam", lambda m, i, c: 0 * c.values + 0.13 if (m, i[:1]) == ("attention", "2") or
               (m == "attention" and i in ("3,3", "4,4", "5,5")) else None)
    ],
    "icl.ten.end": [untrained("balanced_ten"), untrained("imbalanced_ten")],
    "icl.ten.balanced_together": [instead("balanced_ten", "adam", "adam", "imbalanced_ten")],
    "icl.ten.stage_ratio": [features_off_by_one("imbalanced_ten")],
    "icl.ten.concentration": [untrained("balanced_ten"), untrained("imbalanced_ten")],
    "icl.fig1.phase_order": [swap_crossing],
    "icl.fig1.leaders": [
        columns("population", "gd", lambda m, i: i.replace("rare", "balanced") if m == "logit" else i)
    ],
    "icl.theory.quadratic": [
        times(lambda t, q, k: t * k**0.5), times(lambda t, q, k: t / k),
        columns("population", "gd", lambda m, i: i.replace("rare", "dominant")),
    ],
    "icl.theory.phase_bounds": [times(lambda t, q, k: t * k**0.5), times(lambda t, q, k: t + k**1.9, "error")],
    "icl.theory.balanced_phases": [times(lambda t, q, k: t + 3 * k**2, "error")],
    "icl.theory.dominant_k_free": [times(lambda t, q, k: t * k**0.2, "error", "gd_fine")],
    "icl.plateau.first": [
        columns("population", "gd", lambda m, i: i.replace("rare", "dominant")),
        columns("population", "gd", lambda m, i: f"rare,{2 * int(i[5:])}" if m in ("time_tenth", "time_half")
                and i.startswith("rare") else i),
    ],
    "icl.finite.limit": [other_n("400", "40")],
    "icl.finite.floor": [other_n("40", "400"), untrained("finite", "gd")],
    "icl.trap.basis": [untrained("basis"), instead("basis", "adam", "adam_large")],
    "icl.trap.large_step": [instead("basis", "adam_large", "adam")],
    "icl.trap.plain_gd": [instead("balanced", "gd", "adam"), untrained("balanced", "gd")],
}  # fmt: skip


def test_every_claim_has_a_killer(paper):
    assert {*KILLERS, *CODE} == {*paper.claims}


@pytest.mark.parametrize("claim", KILLERS)
def test_claim(paper, traces, claim):
    assert judged(paper, claim, traces)[1], "the run as it is must hold"
    for mutate in KILLERS[claim]:
        measured, holds = judged(paper, claim, mutate(traces))
        assert not np.isnan(measured)
        assert not holds, measured


def short(monkeypatch, samples):
    monkeypatch.setattr(prompt_metrics, "RAW_SAMPLES", samples)
    settings = {"epochs": 16, "fresh_prompts": 200}
    changes = {name: {"settings": settings} for name in ("balanced", "imbalanced")}
    paper = rooms.load_paper("icl", {"experiments": changes})
    return {name: runs_of(paper.experiments[name], (0,)) for name in changes}


@pytest.mark.parametrize("wrong", ["sign", "probability"])
def test_drifts(paper, monkeypatch, wrong):
    def mutated(logits, counts, probabilities):
        right = formulas.drifts(logits, counts, probabilities)
        return -right if wrong == "sign" else right / probabilities

    monkeypatch.setattr(prompt_training, "drifts", mutated)
    assert not judged(paper, "icl.model.drifts", short(monkeypatch, 1000))[1]


@pytest.mark.parametrize("wrong", ["half", "scores"])
def test_closed_loss(paper, monkeypatch, wrong):
    def mutated(*arguments):
        errors, attention = formulas.errors_and_attention(*arguments)
        if wrong == "half":
            return 2 * errors, attention
        own = np.diagonal(attention, axis1=1, axis2=2)
        return (1 - own) ** 2 / 2, attention  # the other features' scores left out

    monkeypatch.setattr(prompt_metrics, "errors_and_attention", mutated)
    found, holds = judged(paper, "icl.model.closed_loss", short(monkeypatch, 20_000))
    assert not holds
    assert found > 5 * paper.claims["icl.model.closed_loss"].high  # and not for want of samples
