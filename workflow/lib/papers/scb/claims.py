"""The measured sides of this paper's claims (docs/papers/scb.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

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


@CLAIMS("scb.core.invariants")
def invariants(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest deviation of a conserved sum, over all preconditioned runs of the main experiment."""
    labels = [label for label, o in experiments["main"].optimizers.items() if o.rule == "preconditioned_prox"]
    return np.max([metrics.curve("main", "drift", label).values.max(axis=1) for label in labels], axis=0)


@CLAIMS("scb.core.start_values")
def start_values(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest difference of a start value from what it has to be."""
    pairs = (("value_distance", "k_p"), ("attention_distance", "k_q"), ("loss", "start_loss"))
    return np.max([np.abs(metrics.value("main", m, "prox", 0) - metrics.value("main", k)) for m, k in pairs], axis=0)


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


def _over_prox(optimizer: str, metric: str) -> Measured:
    """A final value of an optimizer over that of the proximal method."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return metrics.value("main", metric, optimizer) / metrics.value("main", metric, "prox")

    return measured


CLAIMS("scb.fig1.sgd_large_variance")(_over_prox("sgd_large", "attention_distance"))
CLAIMS("scb.fig1.sgd_small_slow")(_over_prox("sgd_small", "value_distance"))


@CLAIMS("scb.fig1.sgd_large_level")
def sgd_large_level(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DA of SGD with the larger step at the end."""
    return metrics.value("main", "attention_distance", "sgd_large")


@CLAIMS("scb.fig1.alpha_v_law")
def alpha_v_law(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """alpha_V of the proximal method at the end."""
    return metrics.value("main", "value_alignment", "prox")


@CLAIMS("scb.fig1.alpha_v_law_small")
def alpha_v_law_small(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """alpha_V of SGD with the smaller step at the end."""
    return metrics.value("main", "value_alignment", "sgd_small")


@CLAIMS("scb.fig1.kink")
def kink(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """DA at the switch over dA 20 steps later."""
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


@CLAIMS("scb.fig2.same_support")
def same_support(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """1 where the Q largest positions agree for every state."""
    width = experiments["softmax"].settings.support

    def largest(optimizer: str) -> np.ndarray:
        rows = metrics.array("softmax", "attention", optimizer)
        return np.sort(np.argsort(rows, axis=-1)[..., -width:], axis=-1)

    return (largest("softmax") == largest("linear")).all(axis=(1, 2)).astype(float)


def _final_losses(metrics: Metrics) -> np.ndarray:
    return np.stack([metrics.value("softmax", "loss", optimizer) for optimizer in ("softmax", "linear")])


@CLAIMS("scb.fig2.similar_loss")
def similar_loss(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The larger excess of the two final losses over the floor."""
    return (_final_losses(metrics) - metrics.value("softmax", "floor")).max(axis=0)


@CLAIMS("scb.fig2.similar_loss_difference")
def similar_loss_difference(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The difference of the two final losses."""
    return np.ptp(_final_losses(metrics), axis=0)


@CLAIMS("scb.fig2.similar_values")
def similar_values(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The squared mu-distance of the two final value matrices."""
    softmax, linear = (metrics.array("softmax", "value", o) for o in ("softmax", "linear"))
    weighted = metrics.array("softmax", "stationary") * ((softmax - linear) ** 2).sum(axis=-1)
    return np.asarray(weighted.sum(axis=-1))


def _prox_beats_sgd(experiment: str) -> Measured:
    """1 for each seed with the right support on which the proximal method is ahead of both SGD runs."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        d_a = {o: metrics.value(experiment, "attention_distance", o) for o in ("prox", "sgd_large", "sgd_small")}
        d_v = {o: metrics.value(experiment, "value_distance", o) for o in ("prox", "sgd_small")}
        ahead = (d_a["prox"] <= 0.1 * d_a["sgd_large"]) & (d_v["prox"] < d_v["sgd_small"])
        ahead &= d_a["prox"] < d_a["sgd_small"]
        right = metrics.value(experiment, "support_exact", "prox") == 1
        return ahead[right].astype(float) if right.any() else np.array([np.nan])

    return measured


for _figure, _experiment in {3: "another_problem", 4: "more_states", 5: "shorter", 6: "larger_batch"}.items():
    CLAIMS(f"scb.fig{_figure}.prox_beats_sgd")(_prox_beats_sgd(_experiment))
    CLAIMS(f"scb.fig{_figure}.support_exact")(_support_exact(_experiment))


@CLAIMS("scb.extra.transfer_samples")
def transfer_samples(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Iterations to the whole support with theta = 0.05 or 0.3, the larger, over those with theta = 0."""
    found = {o: first_found(metrics, "transfer", o) for o in ("theta_0", "theta_005", "theta_03")}
    with np.errstate(invalid="ignore"):
        return np.maximum(found["theta_005"], found["theta_03"]) / found["theta_0"]


def first_found(metrics: Metrics, experiment: str, optimizer: str) -> np.ndarray:
    """The first recorded iteration of each seed with all true positions found; infinite when there is none."""
    curve = metrics.curve(experiment, "support_found", optimizer)
    whole = curve.values == 1
    return np.where(whole.any(axis=1), curve.steps[whole.argmax(axis=1)], np.inf)


@CLAIMS("scb.extra.scaled_failure")
def scaled_failure(metrics: Metrics, experiments: Experiments) -> float:
    """The share of seeds with K_P >= 0.072 on which the proximal method converges and SGD does not."""
    strong = metrics.value("scaled_steps", "k_p") >= 0.072
    prox, sgd = (metrics.value("scaled_steps", "attention_distance", o) for o in ("prox", "sgd_large"))
    return float(((prox <= 0.01) & (sgd >= 0.5))[strong].mean())
