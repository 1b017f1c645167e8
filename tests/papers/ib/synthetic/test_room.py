"""ib, synthetic: data, spans, training against the dense twin, targets, rules, settings, figures."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.reference import ib_synthetic as plain
from tests.reference import max_margin as other_solver
from workflow.lib import captions, optim, rooms
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.max_margin import max_margin
from workflow.lib.optim.traits import Traits
from workflow.lib.page.texts import caption
from workflow.lib.papers.ib.synthetic import rates
from workflow.lib.papers.ib.synthetic.along import along
from workflow.lib.papers.ib.synthetic.claims import CLAIMS, below_gd
from workflow.lib.papers.ib.synthetic.data import generate
from workflow.lib.papers.ib.synthetic.figures import FIGURES
from workflow.lib.papers.ib.synthetic.metrics import decoder_constraints, least_distance, measure, misalignment
from workflow.lib.papers.ib.synthetic.settings import arrays_of
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan, others
from workflow.lib.papers.ib.synthetic.training import (
    by_torch,
    descend,
    initial,
    parameters_of,
    recorded_steps,
    train,
)
from workflow.lib.plan import matrix
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import GREY
from workflow.lib.runs import Curve, Metrics, NotRecordedError, Trace
from workflow.lib.tables import read_traces, write_traces

MAIN: dict[str, Any] = {
    "samples": 20,
    "tokens": 10,
    "dimension": 300,
    "signals": "orthogonal",
    "signal_norm": 2,
    "noise_norm": 1,
    "equal_scores": True,
    "optimal_position": "random",
    "query_position": 1,
    "initial_norm": 0,
}
SMALL = {**MAIN, "samples": 10, "tokens": 6, "dimension": 80}
TINY = {**MAIN, "samples": 6, "tokens": 4, "dimension": 20}


def experiment(kind: str, settings: dict[str, Any], **optimizers: dict[str, Any]) -> Experiment:
    given = {key: {"value": value} for key, value in settings.items()}
    return Experiment.read(rooms.room("ib"), "test", {"kind": kind, "settings": given, "optimizers": optimizers})


def data_of(made: Experiment, seeds: range = range(2)) -> dict[int, dict[str, np.ndarray]]:
    return {seed: generate(made, made.seed(seed)) for seed in seeds}


def run(made: Experiment, label: str, seeds: range = range(2)) -> Run:
    return train(made, made.optimizers[label], data_of(made, seeds), Job())


# ---- data ----


@pytest.mark.parametrize("signals", ["orthogonal", "antipodal"])
@pytest.mark.parametrize("equal_scores", [True, False])
def test_sequences_are_signal_and_noise(signals: str, equal_scores: bool) -> None:
    made = experiment("fixed_decoder", {**MAIN, "signals": signals, "equal_scores": equal_scores})
    arrays = generate(made, made.seed(3))
    tokens, labels, optimal = arrays["tokens"], arrays["labels"], arrays["optimal"]
    assert tokens.shape == (20, 10, 300)
    assert labels.tolist() == [1, -1] * 10
    assert optimal.min() >= 1
    assert len(set(optimal.tolist())) > 3
    assert not arrays["query"].any()
    signal = tokens[np.arange(20), optimal]
    assert np.linalg.norm(signal, axis=1) == pytest.approx(2)
    assert signal[0] @ signal[1] == pytest.approx(0 if signals == "orthogonal" else -4, abs=1e-12)
    assert np.array_equal(signal[0], signal[2])
    noise = others(tokens, optimal)
    assert np.linalg.norm(noise, axis=2).mean() == pytest.approx(1, rel=0.02)
    assert np.linalg.norm(arrays["decoder"]) == pytest.approx(1)
    assert (np.abs(noise @ arrays["decoder"]).max() < 1e-12) == equal_scores


def test_places_can_be_set() -> None:
    made = experiment("fixed_decoder", {**SMALL, "optimal_position": 1, "query_position": 3})
    arrays = generate(made, made.seed(0))
    assert not arrays["optimal"].any()
    assert (arrays["query"] == 2).all()
    anywhere = experiment("fixed_decoder", {**SMALL, "query_position": "random"})
    queries = np.concatenate([a["query"] for a in data_of(anywhere, range(5)).values()])
    assert set(queries.tolist()) == set(range(6))


def test_a_signal_below_the_noise_is_refused() -> None:
    made = experiment("fixed_decoder", {**SMALL, "signal_norm": 0.01, "equal_scores": False})
    with pytest.raises(UserError, match=r"scores at least as high as the signal.*signal_norm \(found 0.01\)"):
        generate(made, made.seed(0))


# ---- coordinates ----


def test_key_query_coordinates_keep_margins_norms_and_angles() -> None:
    made = experiment("fixed_decoder", {**SMALL, "query_position": "random"})
    arrays = generate(made, made.seed(0))
    span = KeyQuerySpan.of(arrays)
    v, w = np.random.default_rng(0).standard_normal((2, len(span.margins)))
    V, W = span.dense(v), span.dense(w)
    assert np.sum(V * W) == pytest.approx(v @ w, rel=1e-12)
    assert span.coordinates(W) == pytest.approx(w, rel=1e-10, abs=1e-12)
    x, rows = arrays["tokens"], np.arange(10)
    best = x[rows, arrays["optimal"]]
    query = x[rows, arrays["query"]]
    margins = np.einsum("ntd,de,ne->nt", best[:, None] - others(x, arrays["optimal"]), W, query)
    assert span.margins @ w == pytest.approx(margins.ravel(), rel=1e-10, abs=1e-12)


def test_dependent_directions_get_no_coordinates() -> None:
    """The same sequence twice: half as many dimensions, and still an isometry of what there is."""
    made = experiment("fixed_decoder", SMALL)
    once = generate(made, made.seed(0))
    twice = {**once, **{name: np.concatenate([once[name]] * 2) for name in ("tokens", "labels", "optimal", "query")}}
    single, span = KeyQuerySpan.of(once), KeyQuerySpan.of(twice)
    assert np.linalg.matrix_rank(span.margins) == len(single.margins)
    W = single.dense(np.random.default_rng(0).standard_normal(len(single.margins)))
    assert span.dense(span.coordinates(W)) == pytest.approx(W, rel=1e-9, abs=1e-12)
    assert np.linalg.norm(span.coordinates(W)) == pytest.approx(np.linalg.norm(W), rel=1e-9)


def test_decoder_coordinates_keep_scores_and_norms() -> None:
    made = experiment("joint", SMALL)
    arrays = generate(made, made.seed(0))
    span = DecoderSpan.of(arrays)
    v = np.random.default_rng(0).standard_normal(span.basis.shape[0])
    u = span.dense(v)
    assert np.linalg.norm(u) == pytest.approx(np.linalg.norm(v))
    assert span.tokens[:, 0] @ v == pytest.approx(arrays["tokens"][np.arange(10), arrays["optimal"]] @ u)
    assert span.tokens[:, 1:] @ v == pytest.approx(others(arrays["tokens"] @ u, arrays["optimal"]))


# ---- training against the dense twin ----

FIXED_RULES = {
    "gd": ({"lr": 1.0}, plain.gd(1.0)),
    "ngd": ({"lr": 0.5}, plain.ngd(0.5)),
    "polyak": ({"factor": 2.0}, plain.polyak(2.0)),
}
JOINT_RULES = {
    "ngd": ({"lr": 0.5, "decay": 2 / 3}, plain.ngd(0.5, 2 / 3)),
    "gd": ({"lr": 0.5}, plain.gd(0.5)),
    "separate": (
        {"rule": "ngd", "lr": 0.5, "decay": 2 / 3, "groups": "separate", "norm": "per_group"},
        plain.separate_ngd(0.5, 2 / 3),
    ),
    "led_ngd": (
        {"lr": 0.2, "decay": 2 / 3, "other_lr": 0.1, "other_decay": 0.1, "groups": "separate"},
        plain.led_ngd(0.2, 2 / 3, 0.1, 0.1),
    ),
    "polyak": ({"factor": 2.0}, plain.polyak(2.0)),
}


def distance(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected))


@pytest.mark.slow
@pytest.mark.parametrize("rule", FIXED_RULES)
@pytest.mark.parametrize("changes", [{}, {"signals": "antipodal", "equal_scores": False, "query_position": "random"}])
def test_dense_key_query_equals_the_twins(rule: str, changes: dict[str, Any]) -> None:
    hyperparameters, reference = FIXED_RULES[rule]
    made = experiment("fixed_decoder", {**SMALL, **changes}, **{rule: {**hyperparameters, "iterations": 200}})
    data = data_of(made)
    found = train(made, made.optimizers[rule], data, Job())
    twin, _ = plain.train(plain.tensors(data[1]), reference, 200, torch.zeros(80, 80, dtype=torch.float64))
    dense = KeyQuerySpan.of(data[1]).dense(found.parameters["key_query"][1, -1])
    assert distance(dense, twin) < 1e-8


@pytest.mark.parametrize("rule", JOINT_RULES)
def test_dense_key_query_and_decoder_equal_the_twins(rule: str) -> None:
    hyperparameters, reference = JOINT_RULES[rule]
    made = experiment("joint", SMALL, **{rule: {**hyperparameters, "iterations": 200}})
    data = data_of(made)
    found = train(made, made.optimizers[rule], data, Job())
    start = torch.zeros(80, 80, dtype=torch.float64)
    key_query, decoder = plain.train(plain.tensors(data[1]), reference, 200, start, joint=True)
    dense = KeyQuerySpan.of(data[1]).dense(found.parameters["key_query"][1, -1])
    assert distance(dense, key_query) < 1e-8
    assert distance(DecoderSpan.of(data[1]).dense(found.parameters["decoder"][1, -1]), decoder) < 1e-8
    assert found.trace["gap"].final()[1] == pytest.approx(
        plain.loss(key_query, decoder, plain.tensors(data[1])).item(), rel=1e-8
    )


# ---- compiled steps ----

COMPILED = {
    **{label: given for label, (given, _) in JOINT_RULES.items()},
    "per_tensor": {"rule": "ngd", "lr": 0.5, "norm": "per_tensor"},
    "together": {"rule": "ngd", "lr": 0.5, "norm": "per_group"},
    "half_polyak": {"rule": "polyak", "lr": 0.5},
}


@pytest.mark.parametrize("label", COMPILED)
@pytest.mark.parametrize("kind", ["fixed_decoder", "joint"])
def test_compiled_steps_are_those_of_torch(kind: str, label: str) -> None:
    given = {key: value for key, value in COMPILED[label].items() if kind == "joint" or key != "groups"}
    made = experiment(kind, {**TINY, "initial_norm": 5}, **{label: {**given, "iterations": 150}})
    optimizer, data = made.optimizers[label], data_of(made)
    parameters = parameters_of(made, optimizer, list(data.values()))
    assert along(optimizer, kind == "joint") is not None
    for run, arrays in enumerate(data.values()):
        parameters.put(run, initial(arrays, 5, made.seed(run)), arrays["decoder"] if kind == "joint" else None)
    start = {name: value.copy() for name, value in parameters.values.items()}
    descend(parameters, optimizer, np.array([0, 1, 150]))
    found = {name: value.copy() for name, value in parameters.values.items()}
    for name, value in start.items():
        parameters.values[name][:] = value
    by_torch(parameters, optimizer)(0, 150)
    for name, value in parameters.values.items():
        assert np.linalg.norm(value - start[name]) > 0.1
        assert found[name] == pytest.approx(value, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("kind", ["fixed_decoder", "joint"])
def test_a_run_is_the_same_to_the_last_bit_in_any_block(kind: str) -> None:
    made = experiment(kind, TINY, ngd={"lr": 0.5, "iterations": 100})
    block, alone = run(made, "ngd"), run(made, "ngd", range(1, 2))
    assert all(np.array_equal(block.parameters[name][1], alone.parameters[name][0]) for name in alone.parameters)
    assert all(np.array_equal(block.trace[name].values[1], alone.trace[name].values[0]) for name in ("gap", "loss"))


# ---- rules that do not commute with rotations: on W itself ----


def stepped(data: dict[str, np.ndarray], rule: Any, steps: int, joint: bool) -> list[np.ndarray]:
    """W, and u if `joint`, after some steps of a torch optimizer on the dense problem by automatic differentiation."""
    problem, d = plain.tensors(data), data["tokens"].shape[2]
    key_query, decoder = torch.zeros(d, d).double().requires_grad_(), torch.zeros(d).double().requires_grad_(joint)
    parameters = [key_query, decoder] if joint else [key_query]
    made = rule(parameters)

    def closure() -> torch.Tensor:
        made.zero_grad()
        value = plain.loss(key_query, decoder, problem) if joint else plain.gap(key_query, problem)
        value.backward()
        return value

    for _ in range(steps):
        made.step(closure)
    return [parameter.detach().numpy() for parameter in parameters]


def found_parameters(made: Experiment, found: Run, seed: int, variant: str = "") -> list[np.ndarray]:
    """The final W, and u if trained, of one run."""
    own = arrays_of(found.parameters, variant)
    if "final_key_query" in own:
        return [own[f"final_{name}"][seed] for name in ("key_query", "decoder") if f"final_{name}" in own]
    data = arrays_of(generate(made, made.seed(seed)), variant)
    dense = [KeyQuerySpan.of(data).dense(own["key_query"][seed, -1])]
    return dense + ([DecoderSpan.of(data).dense(own["decoder"][seed, -1])] if "decoder" in own else [])


def test_adam_is_trained_on_the_matrix() -> None:
    """The numbers of the second reading: .0026 on W and .88 in the coordinates, where Adam is another rule."""
    made = experiment("fixed_decoder", MAIN, adam={"lr": 0.01, "iterations": 10})
    found = run(made, "adam", range(1))
    assert found.trace["distraction"].final() == pytest.approx(0.0026, abs=1e-4)


KINDS: dict[str, dict[str, Any]] = {
    "fixed_decoder": TINY,
    "joint": TINY,
    "variants": {**TINY, "changes": {"antipodal": {"signals": "antipodal"}, "anywhere": {"query_position": "random"}}},
}
EVERY_RULE = [*optim.names(), *matrix.ELSEWHERE, "torch.optim.SGD", "torch.optim.NAdam"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_every_rule_on_every_kind_is_the_dense_twin(rule: str, kind: str) -> None:
    base = experiment(kind, KINDS[kind], gd={"lr": 0.1, "iterations": 6})
    entry = matrix.example(base, rule, **({"weight_decay": 0.1} if rule == "torch.optim.AdamW" else {}))
    steps = 2 if rule == "torch.optim.LBFGS" else 6
    options = entry.options.model_copy(update={"iterations": steps})
    entry = entry.model_copy(update={"options": options})
    assert base.settings.route(entry) == ("fast" if entry.traits.rotations else "plain")
    data = data_of(base)
    found = train(base, entry, data, Job())
    measured = measure(base, data, {"mine": found})["mine"]
    for variant in base.settings.variants():
        own = arrays_of(data[1], variant)
        twin = stepped(own, entry.build, steps, kind == "joint")
        for ours, theirs in zip(found_parameters(base, found, 1, variant), twin, strict=True):
            assert np.linalg.norm(ours - theirs) <= 1e-8 * np.linalg.norm(theirs)
        target = KeyQuerySpan.of(own).dense(max_margin(KeyQuerySpan.of(own).margins).w)
        angle = 1 - (twin[0] * target).sum() / np.linalg.norm(twin[0]) / np.linalg.norm(target)
        assert measured.curve("norm_w", variant).final()[1] == pytest.approx(np.linalg.norm(twin[0]), rel=1e-8)
        assert measured.curve("misalignment_w", variant).final()[1] == pytest.approx(angle, rel=1e-7)


def test_a_random_start_of_adam_is_the_matrix_itself() -> None:
    made = experiment("fixed_decoder", {**TINY, "initial_norm": 5}, adam={"lr": 0.01, "iterations": 5})
    data = data_of(made)
    found = train(made, made.optimizers["adam"], data, Job())
    measured = measure(made, data, {"adam": found})["adam"]
    assert measured["norm_w"].values[:, 0] == pytest.approx(5)
    start = initial(data[1], 5, made.seed(1))
    moved = np.abs(found.parameters["final_key_query"][1] - start)
    assert moved.max() == pytest.approx(0.05, rel=0.05)


def test_a_class_from_elsewhere_that_shrinks_is_right_from_a_random_start() -> None:
    shrinking = {"rule": "tests.papers.ib.synthetic.test_room.Shrinking", "lr": 0.5, "iterations": 10}
    made = experiment("fixed_decoder", {**TINY, "initial_norm": 5}, mine=shrinking)
    assert made.optimizers["mine"].traits.rotations
    outside = run(made, "mine").parameters["outside_key_query"]
    assert outside[:, -1] == pytest.approx(outside[:, 0] / 2**10, rel=1e-9)


class Shrinking(torch.optim.SGD):
    """Half of W is lost in every step."""

    traits = Traits(rotations=True)

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.detach().mul_(0.5)
        return loss


def test_led_ngd_tells_u_from_w_in_one_group_too() -> None:
    rule = {"rule": "led_ngd", "lr": 0.2, "other_lr": 0.1, "iterations": 30}
    made = experiment("joint", TINY, together=rule, apart={**rule, "groups": "separate"})
    together, apart = (run(made, label).trace["gap"].values for label in ("together", "apart"))
    assert together == pytest.approx(apart, rel=1e-12)


def test_a_class_that_cannot_move_a_vector_is_refused_while_planning() -> None:
    muon = {"rule": "torch.optim.Muon", "lr": 0.01, "iterations": 3}
    assert run(experiment("fixed_decoder", TINY, mine=muon), "mine").trace["gap"].final().shape == (2,)
    with pytest.raises(UserError, match=r"optimizers.mine: torch.optim.Muon takes no step on W \(d x d\) and u"):
        experiment("joint", TINY, mine=muon)


def test_a_random_start_carries_what_lies_outside_the_span() -> None:
    made = experiment("fixed_decoder", {**SMALL, "initial_norm": 5}, ngd={"lr": 0.5, "iterations": 60})
    data = data_of(made)
    found = train(made, made.optimizers["ngd"], data, Job())
    span = KeyQuerySpan.of(data[1])
    start = made.seed(1).generator("start").standard_normal((80, 80))
    start *= 5 / np.linalg.norm(start)
    assert np.array_equal(initial(data[1], 5, made.seed(1)), start)
    inside, outside = span.split(start)
    twin, _ = plain.train(plain.tensors(data[1]), plain.ngd(0.5), 60, torch.from_numpy(start))
    rest = start - span.dense(inside)
    assert outside == pytest.approx(np.linalg.norm(rest))
    assert outside > 4
    assert distance(span.dense(found.parameters["key_query"][1, -1]) + rest, twin) < 1e-8

    measured = measure(made, data, {"ngd": found})["ngd"]
    target = span.dense(max_margin(span.margins).w)
    angle = 1 - (twin.numpy() * target).sum() / np.linalg.norm(twin) / np.linalg.norm(target)
    assert measured["norm_w"].final()[1] == pytest.approx(np.linalg.norm(twin), rel=1e-10)
    assert measured["misalignment_w"].final()[1] == pytest.approx(angle, rel=1e-9)
    assert measured["norm_w"].values[:, 0] == pytest.approx(5)


def test_the_gap_is_right_where_doubles_see_nothing() -> None:
    """At the end of Polyak's runs L - L* is near 1e-200; 260 digits of the dense formula give the same number."""
    made = experiment("fixed_decoder", TINY, polyak={"factor": 2.0, "iterations": 900})
    data = data_of(made)
    found = train(made, made.optimizers["polyak"], data, Job())
    arrays = data[0]
    W = KeyQuerySpan.of(arrays).dense(found.parameters["key_query"][0, -1])
    with localcontext(prec=260):
        gaps, elsewhere = [], []
        for x, y, o, q in zip(*(arrays[k] for k in ("tokens", "labels", "optimal", "query")), strict=True):
            weights = [Decimal(float(logit)).exp() for logit in (x - x[o]) @ (W @ x[q])]
            scores = [Decimal(float(score)) for score in y * (x @ arrays["decoder"])]
            output = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
            gaps.append((1 + (-output).exp()).ln() - (1 + (-scores[o]).exp()).ln())
            elsewhere.append(1 - weights[o] / sum(weights))
        gap, distraction = ((sum(v) / len(v)).ln() for v in (gaps, elsewhere))
    assert float(gap) < np.log(1e-180)
    # Margins of size 400 carry an absolute rounding error of 1e-12 into the exponent.
    assert np.log(found.trace["gap"].final()[0]) == pytest.approx(float(gap), abs=1e-9)
    assert np.log(found.trace["distraction"].final()[0]) == pytest.approx(float(distraction), abs=1e-9)


def test_runs_are_bitwise_repeatable_and_independent_of_the_block() -> None:
    made = experiment("joint", SMALL, ngd={"lr": 0.5, "decay": 2 / 3, "iterations": 300})
    together, again, alone = (run(made, "ngd", seeds) for seeds in (range(4), range(4), range(2, 3)))
    for name, values in together.parameters.items():
        assert np.array_equal(values, again.parameters[name])
        assert values[2] == pytest.approx(alone.parameters[name][0], rel=1e-9, abs=1e-12)
    assert together.trace["gap"].values[2] == pytest.approx(alone.trace["gap"].values[0], rel=1e-9)


def test_variants_are_the_experiments_they_stand_for() -> None:
    changes = {"unequal": {"equal_scores": False}, "start": {"initial_norm": 3}}
    rule = {"lr": 0.5, "iterations": 50}
    several = experiment("variants", {**SMALL, "changes": changes}, ngd=rule)
    stacked = run(several, "ngd")
    measured = measure(several, data_of(several), {"ngd": stacked})
    for name, change in changes.items():
        one = experiment("fixed_decoder", {**SMALL, **change}, ngd=rule)
        alone = run(one, "ngd")
        expected = measure(one, data_of(one), {"ngd": alone})
        assert stacked.trace.curve("gap", name).values == pytest.approx(alone.trace["gap"].values, rel=1e-9)
        assert arrays_of(stacked.parameters, name).keys() == alone.parameters.keys() - {"steps"}
        for metric in ("norm_w", "misalignment_w"):
            assert measured["ngd"].curve(metric, name).final() == pytest.approx(expected["ngd"][metric].final())
        assert measured["data"].curve("floor", name).final() == pytest.approx(expected["data"]["floor"].final())


def test_the_end_of_diverged_runs_is_no_number(tmp_path: Path) -> None:
    """Also from disk, where nothing of the last step is left to write."""
    made = experiment("fixed_decoder", TINY, polyak={"factor": 2.0, "lr": 1e308, "iterations": 20})
    data = data_of(made)
    found = measure(made, data, {"polyak": train(made, made.optimizers["polyak"], data, Job())})
    write_traces(tmp_path / "m.parquet", "ib", "test", found)
    read = read_traces(tmp_path / "m.parquet")["polyak"]
    assert read["gap"].steps[-1] == 20
    assert np.isnan(read["gap"].final()).all()
    assert np.isfinite(read["gap"].values[:, 0]).all()


def test_a_diverging_run_is_recorded() -> None:
    rules = {"gd": {"lr": 1e308, "iterations": 20}, "ngd": {"lr": 0.5, "iterations": 20}}
    made = experiment("joint", {**SMALL, "signal_norm": 100}, **rules)
    data = data_of(made)
    found = train(made, made.optimizers["gd"], data, Job())
    assert (found.trace["diverged_at"].final() <= 20).all()
    assert np.isnan(found.trace["gap"].final()).all()
    measured = measure(made, data, {"gd": found, "ngd": train(made, made.optimizers["ngd"], data, Job())})
    assert np.isnan(measured["gd"]["misalignment_w"].final()).all()
    drawing = FIGURES["fig5"](Metrics({"test": dict(measured)}), made)
    assert any("GD: 2 runs diverged" in text.get_text() for text in drawing.figure.axes[0].texts)


# ---- max-margin targets ----


@pytest.mark.filterwarnings("ignore:Converted matrix")
def test_targets_equal_other_solvers_on_the_dense_problem() -> None:
    made = experiment("fixed_decoder", TINY)
    arrays = generate(made, made.seed(0))
    span = KeyQuerySpan.of(arrays)
    target = max_margin(span.margins)
    assert (span.margins @ target.w).min() == pytest.approx(1, abs=1e-9)
    assert target.residual < 1e-9
    rows = span.constraints()
    dense = span.dense(target.w).ravel()
    for other in (other_solver.max_margin(rows), least_distance(rows)):
        assert np.linalg.norm(dense - other) / np.linalg.norm(other) < 1e-6
    decoder_rows = np.unique(decoder_constraints(arrays), axis=0)
    u = max_margin(decoder_rows).w
    assert u == pytest.approx(other_solver.max_margin(decoder_rows), rel=1e-6, abs=1e-9)
    assert u / np.linalg.norm(u) == pytest.approx(arrays["decoder"], abs=1e-9)


def test_an_infeasible_problem_is_told() -> None:
    made = experiment("fixed_decoder", TINY, ngd={"lr": 0.5, "iterations": 3})
    data = data_of(made)
    found = train(made, made.optimizers["ngd"], data, Job())
    # Two sequences with one query that want opposite things of it.
    for name in ("labels", "optimal", "query"):
        data[1][name][:2] = [0, 1] if name == "optimal" else data[1][name][0]
    data[1]["tokens"][1] = data[1]["tokens"][0]
    with pytest.raises(UserError, match=r"seed 1: the max-margin problem of W has no solution.*larger dimension"):
        measure(made, data, {"ngd": found})


def test_misalignment_is_exact_for_small_angles() -> None:
    angle = 1e-9
    vector = np.array([np.cos(angle), np.sin(angle)])
    assert misalignment(7 * vector, np.zeros(()), np.array([3.0, 0.0])) == pytest.approx(angle**2 / 2, rel=1e-6)
    assert misalignment(np.array([3.0, 0.0]), np.array(4.0), np.array([2.0, 0.0])) == pytest.approx(1 - 3 / 5)


# ---- rules ----


def test_polyak_takes_its_step_where_the_squared_norm_underflows() -> None:
    w = torch.zeros(2, 3, dtype=torch.float64)
    w.grad = torch.tensor([[3e-200, 4e-200, 0.0], [3.0, 4.0, 0.0]], dtype=torch.float64)
    gap = torch.tensor([1e-199, 10.0], dtype=torch.float64)
    optim.build("polyak", [w], factor=2.0, stacked=True).step(lambda: gap)
    # length of the step: gap / (2 ||g||)
    assert w.norm(dim=1).tolist() == pytest.approx([1e-199 / 1e-199, 10 / 10])
    assert (w[0] / w[1])[:2].tolist() == pytest.approx([1, 1])


def test_polyak_takes_one_norm_over_all_groups_and_needs_its_gap() -> None:
    a, b = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    a.grad, b.grad = torch.tensor([3.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    rule = optim.build("polyak", [{"params": [a]}, {"params": [b]}], factor=1.0)
    rule.step(lambda: 50.0)
    assert [a.item(), b.item()] == pytest.approx([-6, -8])
    with pytest.raises(TypeError, match="closure"):
        rule.step()


@pytest.mark.parametrize(
    ("rule", "hyperparameters"),
    [("polyak", {"factor": 2.0}), ("led_ngd", {"lr": 0.5}), ("ngd", {"lr": 0.5})],
)
def test_a_zero_gradient_moves_nothing(rule: str, hyperparameters: dict[str, float]) -> None:
    for kind in (torch.float64, torch.float32):
        w = torch.ones(2, 3, dtype=kind)
        w.grad = torch.zeros_like(w)
        w.grad[1] = 1.0
        gap = torch.ones(2, dtype=kind)
        optim.build(rule, [w], stacked=True, **hyperparameters).step(lambda gap=gap: gap)
        assert w[0].tolist() == [1, 1, 1]
        assert (w[1] < 1).all()


def test_led_ngd_measures_all_by_the_last() -> None:
    w, u = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    rule = optim.build("led_ngd", [w, u], lr=1.0, decay=1.0, other_lr=0.5, other_decay=0.0)
    for _ in range(2):
        w.grad, u.grad = torch.tensor([10.0, 0.0]).double(), torch.tensor([3.0, 4.0]).double()
        rule.step()
    assert u.tolist() == pytest.approx([-0.6 * 1.5, -0.8 * 1.5])
    assert w.tolist() == pytest.approx([-2.0, 0.0])


# ---- bad settings ----


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokens", 1, "tokens.*greater than or equal to 2; found 1"),
        ("dimension", 100, r"dimension: found 100; expected at least samples \* \(tokens - 1\) \+ 2 = 182"),
        ("signal_norm", 0, "signal_norm.*greater than 0; found 0"),
        ("noise_norm", -1, "noise_norm.*greater than 0; found -1"),
        ("noise_norm", 1e-7, "noise_norm: expected at least a millionth of signal_norm"),
        ("signal_norm", 1e200, "signal_norm.*less than or equal to 10{30}; found"),
        ("initial_norm", -1, "initial_norm.*greater than or equal to 0"),
        ("optimal_position", 11, "optimal_position: expected a place from 1 to tokens = 10, found 11"),
        ("optimal_position", 0, "optimal_position.*greater than or equal to 1"),
        ("query_position", "first", "query_position"),
        ("signals", "parallel", "signals.*'orthogonal' or 'antipodal'"),
        ("sample", 3, "unknown setting 'sample'.*Did you mean 'samples'"),
    ],
)
def test_bad_settings_are_refused_by_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment("fixed_decoder", {**MAIN, key: value})


@pytest.mark.parametrize(
    ("rule", "entry", "message"),
    [
        ("gd", {"lr": 0, "iterations": 10}, "optimizers.gd.lr.*greater than 0"),
        ("gd", {"lr": 1, "iterations": 0}, "optimizers.gd.iterations.*greater than 0"),
        ("gd", {"lr": 1}, "optimizers.gd.iterations: is missing"),
        ("polyak", {"factor": -2, "iterations": 10}, "optimizers.polyak.factor"),
        ("polyack", {"factor": 2, "iterations": 10}, "unknown optimizer 'polyack'.*Did you mean 'polyak'"),
        ("ngd", {"lr": 1, "iterations": 9, "groups": "separate"}, "unknown hyper-parameter 'groups'"),
    ],
)
def test_bad_optimizers_are_refused_by_name(rule: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment("fixed_decoder", MAIN, **{rule: entry})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "changes: expected at least one variant"),
        ({"a": {}, "a.b": {}}, "changes: expected names of lower-case letters.*found 'a.b'"),
        ({"longer": {"tokens": 7}}, "changes.longer: tokens is common to all variants"),
        ({"weak": {"signal_norm": 0}}, "changes.weak.signal_norm: Input should be greater than 0"),
        ({"odd": {"signl": 1}}, "changes.odd.signl"),
    ],
)
def test_bad_variants_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        experiment("variants", {**SMALL, "changes": changes})


# ---- figures and claims ----


def shortened(name: str, iterations: int) -> Experiment:
    """A shipped experiment on data of the small size, for fewer iterations."""
    shipped = rooms.load_paper("ib").experiment(name)
    changes = {
        "settings": {key: SMALL[key] for key in ("samples", "tokens", "dimension")},
        "optimizers": {
            label: {"iterations": min(rule.options.iterations, iterations)}
            for label, rule in shipped.optimizers.items()
        },
    }
    return rooms.load_paper("ib", {"experiments": {name: changes}}).experiment(name)


@pytest.fixture(scope="module", params=[120, 2])
def short_paper(request: pytest.FixtureRequest) -> tuple[Metrics, dict[str, Experiment]]:
    paper = rooms.load_paper("ib")
    names = sorted({name for figure in FIGURES for name in paper.figure(figure).experiments})
    experiments = {name: shortened(name, request.param) for name in names}
    tables = {}
    for name, made in experiments.items():
        data = data_of(made)
        runs = {label: train(made, rule, data, Job()) for label, rule in made.optimizers.items()}
        tables[name] = dict(measure(made, data, runs))
    return Metrics(tables), experiments


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.slow
def test_figures_record_what_they_draw(figure: str, short_paper: tuple[Metrics, dict[str, Experiment]]) -> None:
    metrics, experiments = short_paper
    drawn_ones = rooms.load_paper("ib").figure(figure).experiments
    drawing = FIGURES[figure](metrics, *(experiments[name] for name in drawn_ones))
    drawn = [line.get_ydata() for ax in drawing.figure.axes for line in ax.get_lines() if len(line.get_ydata())]
    assert sum(map(len, drawn)) == len(drawing.table)
    assert np.sort(np.concatenate(drawn)) == pytest.approx(np.sort(drawing.table["y"]), nan_ok=True)
    for ax in drawing.figure.axes:
        assert ax.get_title(loc="left").startswith("(")


@pytest.mark.slow
def test_rates_have_a_column_for_each_experiment(short_paper: tuple[Metrics, dict[str, Experiment]]) -> None:
    metrics, experiments = short_paper
    for names in (["antipodal"], ["antipodal", "orthogonal"]):
        drawing = FIGURES["extra_rates"](metrics, *(experiments[name] for name in names))
        assert len(drawing.figure.axes) == 2 * len(names)
        assert list(drawing.facts["measured"]) == names


@pytest.fixture(scope="module")
def with_own_rules() -> Mapping[str, tuple[Experiment, Mapping[str, Trace]]]:
    """Every experiment that is drawn, with two rules more, and what was measured of it."""
    rules: dict[str, Any] = {"adam": {}, "mine": {"rule": "torch.optim.RMSprop"}}
    own = {label: {**entry, "lr": 0.01, "iterations": 30} for label, entry in rules.items()}
    changes = {"settings": {"samples": 6, "tokens": 4, "dimension": 20}, "optimizers": own, "seeds": 2}
    names = {name for figure in FIGURES for name in rooms.load_paper("ib").figure(figure).experiments}
    paper, found = rooms.load_paper("ib", {"experiments": dict.fromkeys(names, changes)}), {}
    for name in sorted(names):
        made = paper.experiment(name)
        data, runs = data_of(made), {}
        for label, rule in made.optimizers.items():
            short = rule.model_copy(update={"options": rule.options.model_copy(update={"iterations": 30})})
            runs[label] = train(made, short, data, Job())
        found[name] = made, measure(made, data, runs)
    return found


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.slow
def test_rules_of_ones_own_are_drawn(
    figure: str, with_own_rules: Mapping[str, tuple[Experiment, Mapping[str, Trace]]]
) -> None:
    """Two rules more in every experiment: each is in the figure, or the caption says that it is not."""
    found = [with_own_rules[name] for name in rooms.load_paper("ib").figure(figure).experiments]
    drawing = FIGURES[figure](Metrics({made.name: traces for made, traces in found}), *(made for made, _ in found))
    series = set(drawing.table["series"])
    colours = [line.get_color() for line in drawing.figure.legends[0].get_lines()]
    if figure == "extra_rates":
        assert drawing.facts["left_out"] == ["Adam", "mine"]
    else:
        assert {"adam", "mine"} <= series
        assert len(set(colours) - {GREY}) == len([c for c in colours if c != GREY])
    told = caption(captions.text(Path("workflow/report/ib") / f"{figure}.rst", drawing.facts), figure)
    assert "<p>" in told
    plt.close(drawing.figure)


def test_every_claim_has_its_measure() -> None:
    synthetic = {name for name in rooms.load_paper("ib").claims if name in CLAIMS}
    assert synthetic == set(CLAIMS)


def test_claims_of_shortened_runs_are_not_recorded(short_paper: tuple[Metrics, dict[str, Experiment]]) -> None:
    metrics, experiments = short_paper
    with pytest.raises(NotRecordedError):
        CLAIMS["ib.fig2.order_gap"](metrics, experiments)
    with pytest.raises(NotRecordedError):
        CLAIMS["ib.fig2.gd_norm_log"](metrics, experiments)


def curves(experiment_name: str, metric: str, **values: np.ndarray) -> Metrics:
    traces = {}
    for optimizer, rows in values.items():
        traces[optimizer] = Trace(range(len(rows)))
        traces[optimizer].record(metric, np.arange(200, 200 + rows.shape[1]), rows)
    return Metrics({experiment_name: traces})


def test_order_is_judged_seed_by_seed_at_every_common_step() -> None:
    slow = np.full((2, 6), 1.0)
    fast = np.full((2, 4), 0.5)
    crossing = fast.copy()
    crossing[1, 2] = 1.0
    clean = curves("x", "gap", gd=slow, ngd=fast, polyak=fast)
    crossed = curves("x", "gap", gd=slow, ngd=fast, polyak=crossing)
    assert below_gd("x", "gap", clean, {}).tolist() == [1, 1]
    assert below_gd("x", "gap", crossed, {}).tolist() == [1, 0]


def test_rates_find_the_laws_they_are_named_after() -> None:
    steps = recorded_steps(1000)[1:]
    power = Curve((0,), steps, 3.0 * steps[None] ** -1.5)
    exponential = Curve((0,), steps, 2.0 * np.exp(-0.2 * steps[None]))
    assert rates.power(power, (50, 1000)) == pytest.approx([-1.5])
    assert rates.exponential(exponential, (100, 1000)) == pytest.approx([-0.2])
    assert rates.straightness(exponential, (100, 1000)) == pytest.approx([1.0])
    assert rates.straightness(power, (1, 1000))[0] < 0.7
    with pytest.raises(NotRecordedError, match="no step from 2000"):
        rates.straightness(power, (2000, np.inf))
