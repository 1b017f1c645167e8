"""The measured side of the ledger (specification, section 7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.max_margin import max_margin
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.settings import Strings, TwoStage, TwoStageOptions, learning_rates
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[TwoStage, TwoStageOptions]]


def _curve(metrics: Metrics, experiment: str, metric: str) -> Curve:
    """A metric of the experiment's first optimizer, the one that the ledger is about."""
    return metrics.curve(experiment, metric, metrics.optimizers(experiment)[0])


def _step_sizes(experiments: Experiments, experiment: str) -> tuple[float, float]:
    """eta_0 of stage 1 and eta of stage 2; NaN where the optimizer has no step size."""
    return learning_rates(next(iter(experiments[experiment].optimizers.values())))


@CLAIMS("ntp.fig1.collocation_orders")
def collocation_orders(metrics: Metrics, experiments: Mapping[str, Experiment[Strings]]) -> float:
    """Whether the example's derived language is the printed one."""
    settings = experiments["example"].settings
    data, alphabet = language.from_strings(settings.strings)
    pairs = np.argwhere(language.orders(data))
    orders = {f"{alphabet[better]}>{alphabet[worse]} for {alphabet[query]}" for query, better, worse in pairs}
    collocation = {f"{alphabet[x]}{alphabet[following]}" for x, following in enumerate(data.collocation)}
    printed = {"S>P for S", "O>S for O", "O>V for O", "V>S for V", "O>P for P"}
    return float(collocation == {"SV", "VO", "OP", "PS"} and orders == printed)


@CLAIMS("ntp.fig1.example2")
def example2(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The least probability of the expected continuations."""
    return metrics.array("example", "probe_probability", metrics.optimizers("example")[0]).min(axis=1)


@CLAIMS("ntp.data.realizable")
def realizable(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The number of violated assumptions in all random data sets."""
    return np.concatenate([metrics.value(name, "violations") for name in ("two_stage", "zero_init", "long_run")])


@CLAIMS("ntp.grad.stage2")
def gradient(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The relative error of gradient (6) against central differences."""
    return _curve(metrics, "two_stage", "gradient_error").final()


@CLAIMS("ntp.target.ov")
def value_target(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest difference of the QP's W_ov* and the closed form."""
    return metrics.value("two_stage", "value_target_error")


@CLAIMS("ntp.target.ov_norm")
def value_target_norm(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The norm of W_ov* less sqrt(|V| - 1)."""
    size = metrics.array("two_stage", "collocation").shape[1]
    return metrics.value("two_stage", "norm_value_target") - np.sqrt(size - 1)


@CLAIMS("ntp.target.prop2_condition")
def prop2_condition(metrics: Metrics, experiments: Experiments) -> float:
    """The counter-example to Proposition 2's closed form: optimal {0, 1}, non-optimal {2, 3, 4}, four pairs."""
    tokens = np.eye(5)
    pairs = [(0, 2), (0, 3), (0, 4), (1, 4)]
    solution = max_margin(np.array([tokens[best] - tokens[other] for best, other in pairs]))
    return float(np.abs(solution.w - np.array([2 / 3, 1 / 2, -1 / 3, -1 / 3, -1 / 2])).max())


def _at(experiment: str, metric: str, step: int) -> Measured:
    """A metric at a step the ledger names."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return _curve(metrics, experiment, metric).at(step)

    return measured


CLAIMS("ntp.fig2.loss_ov_start")(_at("two_stage", "loss_ov", 0))
CLAIMS("ntp.fig2.loss_ov_mid")(_at("two_stage", "loss_ov", 300))
CLAIMS("ntp.fig2.loss_ov_curve_end")(_at("two_stage", "loss_ov", 900))
CLAIMS("ntp.fig2.direction_ov_early")(_at("two_stage", "cos_ov", 50))
CLAIMS("ntp.fig2.direction_ov")(_at("two_stage", "cos_ov", 900))
CLAIMS("ntp.fig2.norm_ov")(_at("two_stage", "norm_ov", 900))
CLAIMS("ntp.fig2.loss_start")(_at("two_stage", "loss", 0))
CLAIMS("ntp.fig2.direction_kq_early")(_at("two_stage", "cos_kq", 100))
CLAIMS("ntp.fig2.direction_kq")(_at("two_stage", "cos_kq", 900))
CLAIMS("ntp.fig2.norm_kq")(_at("two_stage", "norm_kq", 900))
CLAIMS("ntp.fig2.norm_init")(_at("two_stage", "norm_ov", 0))
CLAIMS("ntp.fig2.norm_init_kq")(_at("two_stage", "norm_kq", 0))
CLAIMS("ntp.thm2.attention")(_at("two_stage", "attention_on_optimal", 900))
CLAIMS("ntp.thm2.accuracy")(_at("two_stage", "accuracy", 900))
CLAIMS("ntp.zero.direction_kq_first")(_at("zero_init", "cos_kq", 1))
CLAIMS("ntp.zero.direction_kq")(_at("zero_init", "cos_kq", 900))
CLAIMS("ntp.thm3.shift")(_at("long_run", "accuracy_new_token", 12000))
CLAIMS("ntp.thm3.shift_optimal")(_at("long_run", "accuracy_optimal_token", 12000))


@CLAIMS("ntp.fig2.loss_ov_curve")
def loss_ov_slope(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of log L0 over [450, 900], over its limit -eta_0 / ||W_ov*||."""
    slope = _curve(metrics, "two_stage", "loss_ov").slope(450, 900, log_values=True)
    eta_0, _ = _step_sizes(experiments, "two_stage")
    return slope / (-eta_0 / metrics.value("two_stage", "norm_value_target"))


@CLAIMS("ntp.fig2.loss_ov_curve_monotone")
def loss_ov_monotone(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest increase of L0 in one step (negative when it always falls)."""
    return np.diff(_curve(metrics, "two_stage", "loss_ov").values, axis=1).max(axis=1)


@CLAIMS("ntp.fig2.norm_ov_slope")
def norm_ov_slope(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of ||W_ov|| over [450, 900], over eta_0."""
    return _curve(metrics, "two_stage", "norm_ov").slope(450, 900) / _step_sizes(experiments, "two_stage")[0]


@CLAIMS("ntp.fig2.norm_kq_slope")
def norm_kq_slope(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of ||W_kq|| over [450, 900], over eta."""
    return _curve(metrics, "two_stage", "norm_kq").slope(450, 900) / _step_sizes(experiments, "two_stage")[1]


@CLAIMS("ntp.fig2.loss_ratio")
def loss_ratio(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """L(900) / L(0)."""
    loss = _curve(metrics, "two_stage", "loss")
    return loss.at(900) / loss.at(0)


@CLAIMS("ntp.zero.exact_stage1")
def exact_direction_and_norm(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest of 1 - cos_ov and the relative error of the norm t eta_0, for t >= 1."""
    direction = 1 - _curve(metrics, "zero_init", "cos_ov").window(1, np.inf).values
    norm = _curve(metrics, "zero_init", "norm_ov").window(1, np.inf)
    error = np.abs(norm.values / (norm.steps * _step_sizes(experiments, "zero_init")[0]) - 1)
    return np.maximum(np.abs(direction).max(axis=1), error.max(axis=1))


@CLAIMS("ntp.zero.exact_stage1_loss")
def exact_loss(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest relative error of the closed form of L0, with |V| - 1 in the place of 19."""
    loss = _curve(metrics, "zero_init", "loss_ov")
    others = metrics.array("zero_init", "collocation").shape[1] - 1
    eta_0, _ = _step_sizes(experiments, "zero_init")
    closed = np.log1p(others * np.exp(-eta_0 * loss.steps / np.sqrt(others)))
    return np.abs(loss.values / closed - 1).max(axis=1)


@CLAIMS("ntp.rate.kq")
def rate_kq(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest ratio of 1 - cos_kq to log^2 t / t over t in [100, 12000]."""
    cosine = _curve(metrics, "long_run", "cos_kq").window(100, 12000)
    return ((1 - cosine.values) / (np.log(cosine.steps) ** 2 / cosine.steps)).max(axis=1)


def _growth(metric: str) -> Measured:
    """A gap at t = 6000 over its value at t = 3000."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        gap = _curve(metrics, "long_run", metric)
        return gap.at(6000) / gap.at(3000)

    return measured


CLAIMS("ntp.thm3.gaps")(_growth("optimal_gap"))
CLAIMS("ntp.thm3.gaps_non_comparable")(_growth("non_comparable_gap"))
