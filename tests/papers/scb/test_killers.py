"""scb: for every claim a change of the runs that makes it fail, while it holds for the runs as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.papers.scb.test_room import experiment, runs
from workflow.lib import rooms
from workflow.lib.contract import Run
from workflow.lib.judging import verdict
from workflow.lib.papers.scb import kernels
from workflow.lib.papers.scb.data import generate
from workflow.lib.papers.scb.metrics import SWITCHES, measure
from workflow.lib.runs import DATA, Metrics, NotRecordedError, Trace

pytestmark = pytest.mark.slow  # every run that a claim reads is trained once

PAPER = rooms.load_paper("scb")
Tables = dict[str, dict[str, Trace]]
Change = Callable[[Tables], None]

# Shorter sequences, on which three seeds are enough, five of more states; everything else as shipped.
SHORTER: dict[str, dict[str, Any]] = {
    "main": {"positions": 2000},
    "scaled_steps": {"positions": 2000},
    "another_problem": {"positions": 500},
    "more_states": {"positions": 100},
    "shorter": {"positions": 500},
    "larger_batch": {"positions": 500, "batch_size": 128},
    "softmax": {"minimum_correlation": 0.1},
    "transfer": {"positions": 500},
    "checks": {},
}


def measured(name: str, exchanged: tuple[str, ...] = ()) -> dict[str, Trace]:
    """The metrics of an experiment on a few seeds, or of some optimizers that go on from another seed's boosting."""
    e = experiment(name, **SHORTER[name])
    data = {number: generate(e, e.seed(number)) for number in range(5 if name == "more_states" else 3)}
    if not exchanged:
        return dict(measure(e, data, runs(e, data)))
    boosted = runs(e, data, "boosting")["boosting"]
    start = {key: np.roll(array, 1, axis=0) for key, array in boosted.parameters.items()}
    return dict(measure(e, data, runs(e, data, *exchanged, given={"boosting": Run(boosted.trace, start)})))


@cache
def shared() -> Mapping[str, dict[str, Trace]]:
    """Everything that claims read. The many boosting runs are made up: 100 seeds, of which 10 have the wrong sign."""
    many = Trace(range(100))
    many.record("attention_alignment", 400, np.where(np.arange(100) < 10, -1e-3, 1e-3))
    for rule in SWITCHES:
        wrong = {"largest_deviations": 5, "largest": 15}.get(rule, 25)
        many.record("switch_exact", 400, (np.arange(100) + 5) % 100 >= wrong, index=rule)
    return {**{name: measured(name) for name in SHORTER}, "switch_main": {"boosting": many}}


def tables() -> Tables:
    return {name: dict(traces) for name, traces in shared().items()}


def swapped(name: str, label: str, other: str) -> Change:
    """One optimizer's trace in the place of another's."""

    def change(found: Tables) -> None:
        found[name][label] = found[name][other]

    return change


def changed(
    name: str, label: str, metric: str, values: Callable[[np.ndarray], Any], index: str | None = None
) -> Change:
    """Other values of one metric, at one index or at all."""

    def change(found: Tables) -> None:
        trace = Trace(found[name][label].seeds)
        for (key, at), curve in found[name][label].items():
            mine = key == metric and index in (None, at)
            trace.record(key, curve.steps, values(curve.values) if mine else curve.values, at)
        found[name][label] = trace

    return change


def both(*changes: Change) -> Change:
    def change(found: Tables) -> None:
        for one in changes:
            one(found)

    return change


def untrained(*models: str) -> Change:
    """The softmax experiment with models as they start: uniform attention, V = mu 1^T, the start's loss."""

    def change(found: Tables) -> None:
        data = found["softmax"][DATA]
        for model in models:
            trace = Trace(data.seeds)
            shape = Metrics(found).array("softmax", "attention").shape
            trace.record_array("attention", 0, np.full(shape, 1 / shape[-1]))
            mu = Metrics(found).array("softmax", "stationary")
            trace.record_array("value", 0, np.broadcast_to(mu[:, None], (*mu.shape, mu.shape[-1])))
            trace.record("loss", 0, data["start_loss"].final())
            found["softmax"][model] = trace

    return change


def rolled(metric: str) -> Change:
    """The softmax model's matrix, shifted by one column."""

    def change(found: Tables) -> None:
        matrix = Metrics(found).array("softmax", metric, "softmax")
        trace = Trace(found["softmax"]["softmax"].seeds)
        for (key, at), curve in found["softmax"]["softmax"].items():
            if key != metric:
                trace.record(key, curve.steps, curve.values, at)
        trace.record_array(metric, 3000, np.roll(matrix, 1, axis=-1))
        found["softmax"]["softmax"] = trace

    return change


def exchanged(name: str, *labels: str) -> Change:
    """Every run of some optimizers, of prox unless others are named, goes on from the boosting of another seed."""

    def change(found: Tables) -> None:
        found[name] = {**found[name], **_exchanged(name, labels or ("prox",))}

    return change


@cache
def _exchanged(name: str, labels: tuple[str, ...]) -> Mapping[str, Trace]:
    return measured(name, labels)


def scaled_gradients(found: Tables) -> None:
    """The compiled loop, with the factor 1/2 of the loss forgotten."""
    found["checks"] = dict(_scaled_gradients())


@cache
def _scaled_gradients() -> Mapping[str, Trace]:
    compiled = kernels.gradients

    def off(*arguments: Any) -> float:
        loss = compiled(*arguments)
        for gradient in arguments[-2:]:
            gradient *= 2
        return 2 * loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "gradients", off)
        return measured("checks")


def never(values: np.ndarray) -> np.ndarray:
    return np.zeros_like(values)


KILLERS: list[tuple[str, Change]] = [
    *((f"core.{name}", scaled_gradients) for name in ("grad_exact", "grad_differences", "pop_grad", "pop_loss")),
    ("core.pop_grad_attention", scaled_gradients),
    ("core.invariants", both(swapped("main", "prox", "raw_small"))),
    ("core.start_values", changed("main", "prox", "value_distance", lambda v: np.roll(v, -1, axis=1))),
    ("core.start_values", changed("main", DATA, "k_q", lambda v: v + 1 / 5000)),
    ("fig1.prox_recovers_q", swapped("main", "prox", "sgd_large")),
    ("fig1.prox_recovers_q", exchanged("main")),
    ("fig1.prox_recovers_p", swapped("main", "prox", "sgd_small")),
    ("fig1.support_exact", exchanged("main")),
    ("fig1.sgd_large_variance", swapped("main", "sgd_large", "prox")),
    ("fig1.sgd_large_variance", exchanged("main", "prox", "sgd_large")),
    ("fig1.sgd_large_level", swapped("main", "sgd_large", "prox")),
    ("fig1.sgd_small_slow", swapped("main", "sgd_small", "prox")),
    ("fig1.alpha_v_law", swapped("main", "prox", "sgd_small")),
    ("fig1.alpha_v_law_small", swapped("main", "sgd_small", "sgd_large")),
    ("fig1.kink", swapped("main", "prox", "no_switch")),
    ("fig1.vanilla_fails", swapped("main", "raw_small", "prox")),
    ("fig1.no_switch_stalls", swapped("main", "no_switch", "sgd_small")),
    ("fig1.literal_lambda", swapped("main", "prox_literal", "prox")),
    ("extra.scaled_failure", swapped("scaled_steps", "sgd_large", "prox")),
    ("extra.scaled_failure", swapped("scaled_steps", "prox", "sgd_small")),
    ("fig1.scaled_variance_p", swapped("scaled_steps", "sgd_large", "prox")),
    ("fig1.scaled_small_slower", swapped("scaled_steps", "sgd_small", "sgd_large")),
    ("fig1.scaled_small_lower", swapped("scaled_steps", "sgd_small", "sgd_large")),
    ("fig2.same_support", rolled("attention")),
    ("fig2.same_support", untrained("softmax", "linear")),
    ("fig2.similar_loss", untrained("softmax")),
    ("fig2.similar_loss_difference", untrained("softmax")),
    ("fig2.similar_loss_difference", untrained("softmax", "linear")),
    ("fig2.similar_values", rolled("value")),
    ("fig2.similar_values", untrained("softmax", "linear")),
    *((f"fig{n}.prox_beats_sgd", swapped(name, "prox", "sgd_large")) for n, name in enumerate(list(SHORTER)[2:6], 3)),
    *((f"fig{n}.support_exact", exchanged(name)) for n, name in enumerate(list(SHORTER)[2:6], 3)),
    ("extra.switch_rate", changed("switch_main", "boosting", "switch_exact", never, "largest_deviations")),
    ("extra.switch_gain", changed("switch_main", "boosting", "switch_exact", lambda v: 1 - never(v), "largest")),
    ("extra.switch_mirrored", changed("switch_main", "boosting", "attention_alignment", np.negative)),
    ("extra.transfer_samples", swapped("transfer", "theta_005", "theta_0")),
    ("extra.transfer_samples", changed("transfer", "theta_03", "support_found", never)),
    (
        "extra.transfer_samples",
        both(*(changed("transfer", o, "support_found", never) for o in ("theta_0", "theta_03"))),
    ),
]


@cache
def used() -> Mapping[str, Any]:
    return {name: experiment(name, **SHORTER.get(name, {})) for name in shared()}


def holds(claim: str, found: Tables) -> bool:
    entry = PAPER.claims[f"scb.{claim}"]
    try:
        values = rooms.claims("scb")[entry.name](Metrics(found), used())
    except NotRecordedError:
        return False
    return verdict(values, entry.low, entry.high, entry.share)[1]


def test_every_claim_has_a_killer() -> None:
    assert {f"scb.{claim}" for claim, _ in KILLERS} == set(PAPER.claims)


@pytest.mark.parametrize("claim", dict(KILLERS))
def test_the_claim_holds_as_things_are(claim: str) -> None:
    assert holds(claim, tables())


@pytest.mark.parametrize("place", range(len(KILLERS)), ids=[f"{claim}-{i}" for i, (claim, _) in enumerate(KILLERS)])
def test_the_change_is_noticed(place: int) -> None:
    claim, change = KILLERS[place]
    found = tables()
    change(found)
    assert not holds(claim, found)
