"""The measured sides of this paper's claims (docs/papers/scb.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import DATA, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Bigram, RunOptions]]


def _check(name: str) -> Measured:
    """A result of the checks, per seed."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return metrics.value("checks", name)

    return measured


CLAIMS("scb.core.grad_exact")(_check("gradient_error"))
CLAIMS("scb.core.grad_differences")(_check("finite_difference_error"))
CLAIMS("scb.core.pop_grad")(_check("mean_value_direction_error"))
CLAIMS("scb.core.pop_grad_attention")(_check("mean_attention_direction_error"))
CLAIMS("scb.core.pop_loss")(_check("loss_error"))


# The fewest seeds with the right support that a statement about such seeds is judged on.
FEWEST = 3


@CLAIMS("scb.core.invariants")
def invariants(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest deviation of a conserved sum, over all preconditioned runs of the main experiment."""
    labels = [label for label, o in experiments["main"].optimizers.items() if o.rule == "preconditioned_prox"]
    if not labels:
        raise NotRecordedError("main: no preconditioned runs")
    return np.max([metrics.curve("main", "drift", label).values.max(axis=1) for label in labels], axis=0)


@CLAIMS("scb.core.start_values")
def start_values(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest difference of a start value from what it has to be."""
    pairs = (("value_distance", "k_p"), ("attention_distance", "k_q"), ("loss", "start_loss"))
    return np.max([np.abs(metrics.value("main", m, "prox", 0) - metrics.value("main", k)) for m, k in pairs], axis=0)


# ---- Figure 1, printed steps ----


@CLAIMS("scb.fig1.prox_recovers_q")
def prox_recovers_q(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DA of the proximal method at the end."""
    return metrics.value("main", "attention_distance", "prox")


@CLAIMS("scb.fig1.prox_recovers_p")
def prox_recovers_p(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DV of the proximal method at the start over its end."""
    curve = metrics.curve("main", "value_distance", "prox")
    return curve.at(0) / curve.final()


def _support_exact(experiment: str) -> Measured:
    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return metrics.value(experiment, "support_exact", "prox")

    return measured


CLAIMS("scb.fig1.support_exact")(_support_exact("main"))


def final(metrics: Metrics, experiment: str, metric: str, optimizer: str) -> np.ndarray:
    """The values of all seeds at the end, shape (seeds,); infinite where a run diverged."""
    values = metrics.value(experiment, metric, optimizer)
    if metrics.has(experiment, "diverged_at", optimizer):
        values = np.where(np.isnan(metrics.value(experiment, "diverged_at", optimizer)), values, np.inf)
    return np.asarray(values)


def _over(experiment: str, metric: str, optimizer: str, other: str = "prox") -> Measured:
    """A final value of an optimizer over that of another one; a run that diverged counts as infinite."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return final(metrics, experiment, metric, optimizer) / final(metrics, experiment, metric, other)

    return measured


CLAIMS("scb.fig1.sgd_large_variance")(_over("main", "attention_distance", "sgd_large"))
CLAIMS("scb.fig1.sgd_small_slow")(_over("main", "value_distance", "sgd_small"))


@CLAIMS("scb.fig1.sgd_large_level")
def sgd_large_level(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DA of SGD with the larger step at the end."""
    return metrics.value("main", "attention_distance", "sgd_large")


def _with_the_right_support(metrics: Metrics, experiment: str, optimizer: str) -> np.ndarray:
    """Which seeds have it, shape (seeds,).

    Raises:
        NotRecordedError: too few for a statement about them.
    """
    right = metrics.value(experiment, "support_exact", optimizer) == 1
    if right.sum() < FEWEST:
        told = f"{experiment}: the support is right in {right.sum()} of {right.size} seeds"
        raise NotRecordedError(f"{told}; this is judged on {FEWEST} or more")
    return right


def _alignment_law(optimizer: str) -> Measured:
    """alpha_V of an optimizer at the end, on the seeds whose attention is the true one from the switch on."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        right = _with_the_right_support(metrics, "main", optimizer)
        return metrics.value("main", "value_alignment", optimizer)[right]

    return measured


CLAIMS("scb.fig1.alpha_v_law")(_alignment_law("prox"))
CLAIMS("scb.fig1.alpha_v_law_small")(_alignment_law("sgd_small"))


@CLAIMS("scb.fig1.kink")
def kink(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DA of the proximal method at the switch over dA 20 steps later."""
    switch = experiments["main"].settings.boosting_steps
    curve = metrics.curve("main", "attention_distance", "prox")
    return curve.at(switch) / curve.at(switch + 20)


@CLAIMS("scb.fig1.no_switch_stalls")
def no_switch_stalls(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The smaller of the ratios of dV and of dA at the end to the start."""
    curves = [metrics.curve("main", name, "no_switch") for name in ("value_distance", "attention_distance")]
    return np.min([curve.final() / curve.at(0) for curve in curves], axis=0)


@CLAIMS("scb.fig1.literal_lambda")
def literal_lambda(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Final dA with the printed lambda over that of SGD with the same steps."""
    literal, plain = (metrics.value("main", "attention_distance", o) for o in ("prox_literal", "sgd_large"))
    return literal / plain


@CLAIMS("scb.fig1.vanilla_fails")
def vanilla_fails(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The smaller final dA over its start of plain SGD with either step; a run that diverged counts as infinite."""
    ends = [final(metrics, "main", "attention_distance", label) for label in ("raw_large", "raw_small")]
    return np.asarray(np.min(ends, axis=0) / metrics.value("main", "k_q"))


# ---- Figure 1, steps ten times as large ----


@CLAIMS("scb.extra.scaled_failure")
def scaled_failure(metrics: Metrics, experiments: Experiments) -> float:
    """The share of seeds with K_P >= 0.072 on which the proximal method converges and SGD does not."""
    strong = metrics.value("scaled_steps", "k_p") >= 0.072
    prox, sgd = (final(metrics, "scaled_steps", "attention_distance", o) for o in ("prox", "sgd_large"))
    return float(((prox <= 0.01) & (sgd >= 0.5))[strong].mean())


CLAIMS("scb.fig1.scaled_variance_p")(_over("scaled_steps", "value_distance", "sgd_large"))
CLAIMS("scb.fig1.scaled_small_lower")(_over("scaled_steps", "attention_distance", "sgd_small", "sgd_large"))


@CLAIMS("scb.fig1.scaled_small_slower")
def scaled_small_slower(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DV of SGD with the smaller step over that with the larger one, 40 steps after the switch."""
    step = experiments["scaled_steps"].settings.boosting_steps + 40
    small, large = (metrics.value("scaled_steps", "value_distance", o, step) for o in ("sgd_small", "sgd_large"))
    return small / large


# ---- Figure 2 ----


@CLAIMS("scb.fig2.same_support")
def same_support(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """1 where the Q largest positions agree for every state and hold more than half of either model's attention."""
    width = experiments["softmax"].settings.support
    rows = [metrics.array("softmax", "attention", model) for model in ("softmax", "linear")]
    softmax, linear = (np.sort(np.argsort(matrix, axis=-1)[..., -width:], axis=-1) for matrix in rows)
    held = [np.sort(matrix, axis=-1)[..., -width:].sum(axis=-1) > 0.5 for matrix in rows]
    agree = (softmax == linear).all(axis=-1) & held[0] & held[1]
    return agree.all(axis=-1).astype(float)


def _final_losses(metrics: Metrics) -> np.ndarray:
    return np.stack([metrics.value("softmax", "loss", optimizer) for optimizer in ("softmax", "linear")])


@CLAIMS("scb.fig2.similar_loss")
def similar_loss(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The larger excess of the two final losses over the floor, in shares of the excess at the start."""
    floor = metrics.value("softmax", "floor")
    excess = (_final_losses(metrics) - floor) / (metrics.value("softmax", "start_loss") - floor)
    return excess.max(axis=0)


@CLAIMS("scb.fig2.similar_loss_difference")
def similar_loss_difference(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The difference of the two final losses over the smaller of their falls from the start."""
    losses = _final_losses(metrics)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.ptp(losses, axis=0) / (metrics.value("softmax", "start_loss") - losses.max(axis=0))


@CLAIMS("scb.fig2.similar_values")
def similar_values(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest squared mu-distance among the two final value matrices and P, in shares of K_P."""
    softmax, linear, truth = (metrics.array("softmax", "value", o) for o in ("softmax", "linear", DATA))
    mu = metrics.array("softmax", "stationary")
    pairs = ((softmax, linear), (softmax, truth), (linear, truth))
    distances = [(mu * ((a - b) ** 2).sum(axis=-1)).sum(axis=-1) for a, b in pairs]
    return np.asarray(np.max(distances, axis=0) / metrics.value("softmax", "k_p"))


# ---- Figures 3 to 6 ----


def ahead(metrics: Metrics, experiment: str) -> tuple[np.ndarray, np.ndarray]:
    """Which seeds have the right support, and on which the proximal method is ahead of both SGD runs, each (seeds,).

    Ahead: dA at most a tenth of that of SGD with the larger step and below that with the smaller one, dV below that
    with the smaller one.
    """
    d_a = {o: metrics.value(experiment, "attention_distance", o) for o in ("prox", "sgd_large", "sgd_small")}
    d_v = {o: metrics.value(experiment, "value_distance", o) for o in ("prox", "sgd_small")}
    won = (d_a["prox"] <= 0.1 * d_a["sgd_large"]) & (d_v["prox"] < d_v["sgd_small"])
    won &= d_a["prox"] < d_a["sgd_small"]
    return metrics.value(experiment, "support_exact", "prox") == 1, won


def _prox_beats_sgd(experiment: str) -> Measured:
    """1 for each seed with the right support on which the proximal method is ahead of both SGD runs."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        right = _with_the_right_support(metrics, experiment, "prox")
        return ahead(metrics, experiment)[1][right].astype(float)

    return measured


for _figure, _experiment in {3: "another_problem", 4: "more_states", 5: "shorter", 6: "larger_batch"}.items():
    CLAIMS(f"scb.fig{_figure}.prox_beats_sgd")(_prox_beats_sgd(_experiment))
    CLAIMS(f"scb.fig{_figure}.support_exact")(_support_exact(_experiment))


# ---- extras ----


@CLAIMS("scb.extra.transfer_samples")
def transfer_samples(metrics: Metrics, experiments: Experiments) -> float:
    """Median steps to the whole support with theta = 0.05 or 0.3, the larger, over that with theta = 0."""
    medians = {o: np.median(first_found(metrics, "transfer", o)) for o in ("theta_0", "theta_005", "theta_03")}
    with np.errstate(invalid="ignore"):
        return float(max(medians["theta_005"], medians["theta_03"]) / medians["theta_0"])


def first_found(metrics: Metrics, experiment: str, optimizer: str) -> np.ndarray:
    """The first recorded step of each seed with all true positions found; infinite when there is none."""
    curve = metrics.curve(experiment, "support_found", optimizer)
    whole = curve.values == 1
    return np.where(whole.any(axis=1), curve.steps[whole.argmax(axis=1)], np.inf)


def _rate(metrics: Metrics, rule: str) -> float:
    """The share of the many seeds in which a rule of the switch keeps exactly the true positions."""
    return float(metrics.value("switch_main", "switch_exact", "boosting", index=rule).mean())


@CLAIMS("scb.extra.switch_rate")
def switch_rate(metrics: Metrics, experiments: Experiments) -> float:
    """The share of seeds in which the shipped rule of the switch keeps exactly the true positions."""
    return _rate(metrics, "largest_deviations")


@CLAIMS("scb.extra.switch_gain")
def switch_gain(metrics: Metrics, experiments: Experiments) -> float:
    """What the shipped rule is right in more often than each rule that looks above 1/T only, the least difference."""
    others = ("robust_deviations_4.5", "robust_deviations_6", "share_of_largest_0.5", "largest")
    return min(_rate(metrics, "largest_deviations") - _rate(metrics, rule) for rule in others)


@CLAIMS("scb.extra.switch_mirrored")
def switch_mirrored(metrics: Metrics, experiments: Experiments) -> float:
    """Of the seeds in which the shipped rule is right and the Q largest are not, the share with alpha_A below 0."""
    two, one = (
        metrics.value("switch_main", "switch_exact", "boosting", index=rule) == 1
        for rule in ("largest_deviations", "largest")
    )
    only = two & ~one
    if not only.any():
        raise NotRecordedError("switch_main: the two rules are right in the same seeds")
    return float((metrics.value("switch_main", "attention_alignment", "boosting")[only] < 0).mean())
