"""The claims of the synthetic experiments (docs/papers/ib.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.ib.synthetic import rates
from workflow.lib.papers.ib.synthetic.settings import FixedDecoder, Iterations, Joint, Sequences, Variants
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()

# Of all kinds, the deep ones included.
Experiments = Mapping[str, Experiment]
Fixed = Mapping[str, Experiment[FixedDecoder, Iterations]]

# Figures 2 and 3 make the same claims about their experiments.
_FIXED = {"fig2": "orthogonal", "fig3": "antipodal"}
_FAST = ("ngd", "polyak")
# In extra_variants GD also takes steps ten and a hundred times as long.
_ANY_GD = ("gd", "gd_10", "gd_100")
# From here on all orderings hold; before, 1 - corr rises a little and curves cross.
_ORDERED_FROM = 200


def _synthetic(experiments: Experiments) -> list[tuple[str, str]]:
    """Every synthetic experiment with the index of each of its variants."""
    return [
        (name, variant)
        for name, experiment in experiments.items()
        if isinstance(experiment.settings, Sequences)
        for variant in experiment.settings.variants()
    ]


def _of_all_runs(metric: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    values = [
        metrics.value(name, metric, optimizer, index=variant)
        for name, variant in _synthetic(experiments)
        for optimizer in metrics.optimizers(name)
        if metrics.has(name, metric, optimizer, variant)
    ]
    return _joined(values, metric)


def _of_all_data(metric: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    values = [
        metrics.value(name, metric, index=variant)
        for name, variant in _synthetic(experiments)
        if metrics.has(name, metric, index=variant)
    ]
    return _joined(values, metric)


def _joined(values: list[np.ndarray], metric: str) -> np.ndarray:
    if not values:
        raise NotRecordedError(f"no synthetic experiment recorded {metric}")
    return np.concatenate(values)


@CLAIMS("ib.core.grad_exact")
def gradient_exact(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Relative error of the gradients in W and u against complex steps of the loss, every run of every experiment."""
    return _of_all_runs("gradient_error", metrics, experiments)


@CLAIMS("ib.core.gap_exact")
def gap_exact(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Relative error of the cancellation-free gap against the plain difference, while that exceeds 1e-3."""
    return _of_all_runs("gap_error", metrics, experiments)


@CLAIMS("ib.core.wmm_feasible")
def margins_are_one(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The least margin of W_mm over all constraints."""
    return _of_all_data("worst_margin", metrics, experiments)


@CLAIMS("ib.core.svm_agree")
def solvers_agree(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Relative difference of W_mm and u_mm from a second solver's, over all entries, where that is small enough."""
    return _of_all_data("solver_difference", metrics, experiments)


def _linear(experiment: str, optimizer: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The power of t with which the norm grows, of two successive windows the one farther from 1."""
    norm = metrics.curve(experiment, "norm_w", optimizer)
    return rates.farthest([rates.power(norm, window) for window in rates.GROWTH[optimizer]], 1)


def _norm_per_fold(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    growth = rates.per_fold(metrics.curve(experiment, "norm_w", "gd"), rates.GROWTH["gd"][-1])
    return growth / metrics.value(experiment, "margin_norm")


def _norm_growth_power(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    return rates.growth_power(metrics.curve(experiment, "norm_w", "gd"), rates.GROWTH["gd"])


def _own_rule(experiment: Experiment, label: str) -> Mapping[str, Any]:
    """The hyper-parameters of the entry that a rule's claims speak of.

    Raises:
        NotRecordedError: a user gave it another rule, or left it out.
    """
    found = experiment.optimizers.get(label)
    if found is None or found.rule != label:
        raise NotRecordedError(
            f"{experiment.name}: {label} {f'has the rule {found.rule}' if found else 'was left out'}"
        )
    return found.hyperparameters


def _ngd_rate(experiment: str, metrics: Metrics, experiments: Fixed) -> np.ndarray:
    slopes = rates.exponential(metrics.curve(experiment, "distraction", "ngd"), rates.ATTENTION["ngd"])
    step_size = _own_rule(experiments[experiment], "ngd")["lr"]
    return slopes * metrics.value(experiment, "margin_norm") / step_size


def _ngd_straight(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    return rates.straightness(metrics.curve(experiment, "distraction", "ngd"), rates.ATTENTION["ngd"])


def _polyak_rate(experiment: str, metrics: Metrics, experiments: Fixed) -> np.ndarray:
    slopes = rates.exponential(metrics.curve(experiment, "distraction", "polyak"), rates.ATTENTION["polyak"])
    return slopes * _own_rule(experiments[experiment], "polyak")["factor"] / 2


def _gd_attention_slope(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    return rates.power(metrics.curve(experiment, "distraction", "gd"), rates.ATTENTION["gd"])


def _late_law(experiment: str, metrics: Metrics, experiments: Fixed) -> np.ndarray:
    """The largest factor, either way, between 1 - p_opt and (T - 1) exp(-||W|| / ||W_mm||)."""
    margin_norm = metrics.value(experiment, "margin_norm")[:, None]
    rivals = experiments[experiment].settings.tokens - 1
    factors = []
    for optimizer, window in rates.LAW.items():
        norm = metrics.curve(experiment, "norm_w", optimizer).window(*window).values
        distraction = metrics.curve(experiment, "distraction", optimizer).window(*window).values
        factors.append(np.exp(np.abs(np.log(distraction / rivals) + norm / margin_norm).max(axis=1)))
    return np.max(factors, axis=0)  # type: ignore[no-any-return]


def below_gd(experiment: str, metric: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Per seed 1.0 if NGD and PS lie strictly below GD at every common recorded step from 200 on."""
    slow = metrics.curve(experiment, metric, "gd")
    held = np.ones(len(slow.seeds), dtype=bool)
    for optimizer in _FAST:
        fast = metrics.curve(experiment, metric, optimizer)
        steps, i, j = np.intersect1d(fast.steps, slow.steps, return_indices=True)
        late = steps >= _ORDERED_FROM
        if not late.any():
            raise NotRecordedError(f"the runs of gd and {optimizer} share no step from {_ORDERED_FROM} on")
        held &= (fast.values[:, i[late]] < slow.values[:, j[late]]).all(axis=1)
    return held.astype(float)


def _final_misalignment(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    return np.max([metrics.value(experiment, "misalignment_w", optimizer) for optimizer in _FAST], axis=0)  # type: ignore[no-any-return]


def _ngd_alignment_slope(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    return rates.power(metrics.curve(experiment, "misalignment_w", "ngd"), rates.ALIGNMENT["ngd"])


def _distance_to_floor(experiment: str, metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """How far the plain loss of NGD and PS ends from L*, the larger of both."""
    ends = [metrics.value(experiment, "loss", optimizer) for optimizer in _FAST]
    return np.max(np.abs(np.stack(ends) - metrics.value(experiment, "floor")), axis=0)  # type: ignore[no-any-return]


for _figure, _name in _FIXED.items():
    CLAIMS(f"ib.{_figure}.ngd_norm_linear")(partial(_linear, _name, "ngd"))
    CLAIMS(f"ib.{_figure}.ps_norm_linear")(partial(_linear, _name, "polyak"))
    CLAIMS(f"ib.{_figure}.gd_norm_log")(partial(_norm_per_fold, _name))
    CLAIMS(f"ib.{_figure}.gd_norm_no_power")(partial(_norm_growth_power, _name))
    CLAIMS(f"ib.{_figure}.ngd_sparsify_rate")(partial(_ngd_rate, _name))
    CLAIMS(f"ib.{_figure}.ngd_sparsify_straight")(partial(_ngd_straight, _name))
    CLAIMS(f"ib.{_figure}.ps_sparsify_rate")(partial(_polyak_rate, _name))
    CLAIMS(f"ib.{_figure}.gd_sparsify_slow")(partial(_gd_attention_slope, _name))
    CLAIMS(f"ib.{_figure}.late_law")(partial(_late_law, _name))
    CLAIMS(f"ib.{_figure}.order_gap")(partial(below_gd, _name, "gap"))
    CLAIMS(f"ib.{_figure}.order_align")(partial(below_gd, _name, "misalignment_w"))
    CLAIMS(f"ib.{_figure}.align_to_wmm")(partial(_final_misalignment, _name))
    CLAIMS(f"ib.{_figure}.ngd_rate_bound")(partial(_ngd_alignment_slope, _name))
    CLAIMS(f"ib.{_figure}.loss_floor_value")(partial(_distance_to_floor, _name))


def _minus_log_loss(optimizer: str, metrics: Metrics) -> Curve:
    loss = metrics.curve("joint", "gap", optimizer)
    with np.errstate(divide="ignore"):
        return Curve(loss.seeds, loss.steps, -np.log(loss.values))


@CLAIMS("ib.fig5.loss_stretched_exp")
def stretched_exponent(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD: the power of t with which -log L grows, of two successive windows the one farther from 1/3."""
    curve = _minus_log_loss("ngd", metrics)
    return rates.farthest([rates.power(curve, window) for window in rates.JOINT], 1 / 3)


@CLAIMS("ib.fig5.loss_follows_u")
def loss_follows_u(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD: the growth of -log L over that of ||u||, times ||u_mm||, on the window farther from 1."""
    curve, norm = _minus_log_loss("ngd", metrics), metrics.curve("joint", "norm_u", "ngd")
    found = [rates.per_fold(curve, window) / rates.per_fold(norm, window) for window in rates.JOINT]
    return rates.farthest([ratio * metrics.value("joint", "decoder_margin_norm") for ratio in found], 1)


@CLAIMS("ib.fig5.w_norm_log")
def joint_norm_w(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD: the growth of ||W|| per fold of t over ||W_mm||, on the last window."""
    growth = rates.per_fold(metrics.curve("joint", "norm_w", "ngd"), rates.JOINT[-1])
    return growth / metrics.value("joint", "margin_norm")


@CLAIMS("ib.fig5.w_norm_no_power")
def joint_norm_w_power(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD: the power of t with which that growth itself grows."""
    return rates.growth_power(metrics.curve("joint", "norm_w", "ngd"), rates.JOINT)


@CLAIMS("ib.fig5.u_norm_rate")
def joint_norm_u(metrics: Metrics, experiments: Mapping[str, Experiment[Joint, Iterations]]) -> np.ndarray:
    """NGD: the growth of ||u|| over that of the sum of the steps' lengths, on the window farther from 1."""
    norm = metrics.curve("joint", "norm_u", "ngd")
    values = _own_rule(experiments["joint"], "ngd")
    lengths = values["lr"] * np.arange(1, norm.steps[-1] + 1) ** -values["decay"]
    path = np.concatenate([[0.0], np.cumsum(lengths)])[norm.steps]
    walked = Curve(norm.seeds, norm.steps, np.broadcast_to(path, norm.values.shape))
    return rates.farthest([rates.per_fold(norm, w) / rates.per_fold(walked, w) for w in rates.JOINT], 1)


@CLAIMS("ib.extra.separate_norms_power")
def separate_norm_w_power(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD with a norm for each block: the power of t with which the growth of ||W|| per fold itself grows."""
    return rates.growth_power(metrics.curve("joint", "norm_w", "ngd_separate"), rates.JOINT_SHORT)


@CLAIMS("ib.extra.led_norm_no_power")
def led_norm_w_power(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """NGD by the norm of u's gradient: the same of its ||W||."""
    return rates.growth_power(metrics.curve("joint", "norm_w", "ngd_led"), rates.JOINT_SHORT)


@CLAIMS("ib.extra.long_steps_exponential")
def long_steps_exponential(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Joint NGD with a constant step and the Polyak step: the power of t of -log L, the one farther from 1."""
    found = [rates.power(_minus_log_loss(o, metrics), (300, 1000)) for o in ("ngd_constant", "polyak")]
    return rates.farthest(found, 1)


@CLAIMS("ib.fig5.align_both")
def both_align(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The larger one of W's and u's final 1 - corr."""
    return np.maximum(*(metrics.value("joint", f"misalignment_{name}", "ngd") for name in "wu"))


@CLAIMS("ib.fig5.ngd_beats_gd")
def loss_ratio(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """GD's final loss over NGD's."""
    return metrics.value("joint", "gap", "gd") / metrics.value("joint", "gap", "ngd")


def _all_variants(
    fast: Sequence[str],
    slow: Sequence[str],
    metric: str,
    metrics: Metrics,
    experiments: Mapping[str, Experiment[Variants, Iterations]],
) -> np.ndarray:
    """Per seed 1.0 if in every variant all of `fast` end strictly below all of `slow`."""
    held = [
        metrics.value("variants", metric, optimizer, index=variant)
        < metrics.value("variants", metric, other, index=variant)
        for variant in experiments["variants"].settings.changes
        for optimizer in fast
        for other in slow
    ]
    return np.all(held, axis=0).astype(float)


for _metric, _word in (("gap", "gap"), ("misalignment_w", "align")):
    CLAIMS(f"ib.extra.variants_order_{_word}")(partial(_all_variants, _FAST, ("gd",), _metric))
    CLAIMS(f"ib.extra.step_sizes_order_{_word}")(partial(_all_variants, _FAST, _ANY_GD, _metric))
    CLAIMS(f"ib.extra.slow_ngd_order_{_word}")(partial(_all_variants, ("ngd_tenth",), _ANY_GD, _metric))
