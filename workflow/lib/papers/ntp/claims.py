"""The measured side of the ledger (docs/papers/ntp.md, section 8). Every claim about a run looks at the entry `ngd`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.max_margin import max_margin
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.published import PANELS, readings
from workflow.lib.papers.ntp.settings import Strings, TwoStage, TwoStageOptions, learning_rates
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[TwoStage, TwoStageOptions]]

# The entry under `optimizers` that the ledger is about: Algorithm 1 of the paper.
NGD = "ngd"


def _curve(metrics: Metrics, experiment: str, metric: str) -> Curve:
    return metrics.curve(experiment, metric, NGD)


def _step_sizes(experiments: Experiments, experiment: str) -> tuple[float, float]:
    """eta_0 of stage 1 and eta of stage 2; NaN where the rule has no step size."""
    optimizers = experiments[experiment].optimizers
    if NGD not in optimizers:
        raise NotRecordedError(f"{experiment} has no optimizer {NGD!r}")
    return learning_rates(optimizers[NGD])


def _targets(metrics: Metrics, experiment: str) -> tuple[np.ndarray, np.ndarray]:
    """The norms of W_ov* and W_kq*, each of shape (seeds,)."""
    return metrics.value(experiment, "norm_value_target"), metrics.value(experiment, "norm_key_query_target")


# ---- the language ----


@CLAIMS("ntp.fig1.collocation_orders")
def collocation_orders(metrics: Metrics, experiments: Mapping[str, Experiment[Strings]]) -> float:
    """Whether the collocation and the roles that the run found in the strings are the printed ones."""
    alphabet = "".join(dict.fromkeys("".join(experiments["example"].settings.strings)))
    collocation = metrics.array("example", "collocation")[0].astype(int)
    role = metrics.array("example", "role")[0].astype(int)
    orders = {
        f"{better}>{worse} for {query}"
        for query, mine in zip(alphabet, role, strict=True)
        for better, high in zip(alphabet, mine, strict=True)
        for worse, low in zip(alphabet, mine, strict=True)
        if (high, low) == (language.OPTIMAL, language.NON_OPTIMAL)
    }
    follows = {f"{token}{alphabet[following]}" for token, following in zip(alphabet, collocation, strict=True)}
    printed = {"S>P for S", "O>S for O", "O>V for O", "V>S for V", "O>P for P"}
    return float(follows == {"SV", "VO", "OP", "PS"} and orders == printed)


def _continuation(*probes: str) -> Measured:
    """The least probability of the expected next letters of some of the example's probes."""

    def measured(metrics: Metrics, experiments: Mapping[str, Experiment[Strings]]) -> np.ndarray:
        known = experiments["example"].settings.probes
        if not set(probes) <= set(known):
            raise NotRecordedError(f"the probes {', '.join(probes)} are not all among {', '.join(known)}")
        places = [known.index(probe) for probe in probes]
        return metrics.array("example", "probe_probability", NGD)[:, places].min(axis=1)

    return measured


CLAIMS("ntp.fig1.example2")(_continuation("SPV", "OSPP"))
CLAIMS("ntp.fig1.example2_vp")(_continuation("VPO"))


@CLAIMS("ntp.data.realizable")
def realizable(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The number of violated assumptions in all random data sets."""
    return np.concatenate([metrics.value(name, "violations") for name in ("two_stage", "zero_init", "long_run")])


# ---- gradients and targets ----


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
    return _targets(metrics, "two_stage")[0] - np.sqrt(size - 1)


@CLAIMS("ntp.target.prop2_condition")
def prop2_condition(metrics: Metrics, experiments: Experiments) -> float:
    """The counter-example to Proposition 2's closed form: optimal {0, 1}, non-optimal {2, 3, 4}, four pairs."""
    tokens = np.eye(5)
    pairs = [(0, 2), (0, 3), (0, 4), (1, 4)]
    solution = max_margin(np.array([tokens[best] - tokens[other] for best, other in pairs]))
    return float(np.abs(solution.w - np.array([2 / 3, 1 / 2, -1 / 3, -1 / 3, -1 / 2])).max())


@CLAIMS("ntp.target.descent")
def descent(metrics: Metrics, experiments: Experiments) -> float:
    """1 - cosine of W_kq with the QP over that with Prop. 2's form: the largest of the seeds where they differ."""
    differ = metrics.value("two_stage", "cos_proposition_2") < 1 - 1e-6
    if not differ.any():
        raise NotRecordedError("Proposition 2's closed form solves problem (3) in every seed")
    to_target, to_closed = (
        1 - _curve(metrics, "two_stage", name).final()[differ] for name in ("cos_kq", "cos_kq_proposition_2")
    )
    return float((to_target / to_closed).max())


# ---- Figure 2 beside the published curves ----


def _deviation(panel: str) -> Measured:
    """The largest deviation of our median from a published curve, for t > 0, over the reading error."""

    def measured(metrics: Metrics, experiments: Experiments) -> float:
        ours = _curve(metrics, "two_stage", PANELS[panel])
        reading = readings()[panel]
        if ours.steps[-1] < reading.steps[-1]:
            raise NotRecordedError(
                f"the run ends at t = {ours.steps[-1]}, the published curve at {reading.steps[-1]:g}"
            )
        return float(np.abs(reading.deviation(ours)[reading.steps > 0]).max())

    return measured


for _name, _panel in (("loss_ov", "L0"), ("cos_ov", "cos_ov"), ("norm_ov", "norm_ov"), ("norm_kq", "norm_kq")):
    CLAIMS(f"ntp.fig2.{_name}")(_deviation(_panel))


def _rank(panel: str, step: int) -> Measured:
    """The share of our seeds below the published value at a step, those equal to it counted half."""

    def measured(metrics: Metrics, experiments: Experiments) -> float:
        ours = _curve(metrics, "two_stage", PANELS[panel]).at(step)
        reading = readings()[panel]
        theirs = reading.values[reading.steps == step]
        if np.isnan(ours).any():
            raise NotRecordedError(f"a seed recorded nothing at t = {step}")
        return float(np.mean((ours < theirs) + 0.5 * (ours == theirs)))

    return measured


for _step in (0, 150, 300, 600):
    CLAIMS(f"ntp.fig2.rank_loss_{_step}")(_rank("L", _step))
for _step in (100, 300, 500, 900):
    CLAIMS(f"ntp.fig2.rank_cos_kq_{_step}")(_rank("cos_kq", _step))


# ---- Figure 2 and the theory ----


def _at(experiment: str, metric: str, step: int) -> Measured:
    """A metric at a step the ledger names."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        return _curve(metrics, experiment, metric).at(step)

    return measured


CLAIMS("ntp.fig2.loss_ov_curve_end")(_at("two_stage", "loss_ov", 900))
CLAIMS("ntp.fig2.direction_ov")(_at("two_stage", "cos_ov", 900))
CLAIMS("ntp.fig2.norm_init")(_at("two_stage", "norm_ov", 0))
CLAIMS("ntp.fig2.norm_init_kq")(_at("two_stage", "norm_kq", 0))
CLAIMS("ntp.thm2.attention")(_at("two_stage", "attention_on_optimal", 900))
CLAIMS("ntp.thm2.accuracy")(_at("two_stage", "accuracy", 900))
CLAIMS("ntp.other.direction_kq")(_at("other_sentences", "cos_kq", 900))
CLAIMS("ntp.zero.direction_kq_first")(_at("zero_init", "cos_kq", 1))
CLAIMS("ntp.zero.direction_kq")(_at("zero_init", "cos_kq", 900))
CLAIMS("ntp.thm3.shift")(_at("long_run", "accuracy_new_token", 12000))
CLAIMS("ntp.thm3.shift_optimal")(_at("long_run", "accuracy_optimal_token", 12000))


@CLAIMS("ntp.fig2.loss_ov_curve")
def loss_ov_slope(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of log L0 over [450, 900], over its limit -eta_0 / ||W_ov*||."""
    slope = _curve(metrics, "two_stage", "loss_ov").slope(450, 900, log_values=True)
    return slope / (-_step_sizes(experiments, "two_stage")[0] / _targets(metrics, "two_stage")[0])


@CLAIMS("ntp.fig2.loss_ov_curve_monotone")
def loss_ov_monotone(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest change of log L0 in one step (negative when it always falls)."""
    curve = _curve(metrics, "two_stage", "loss_ov")
    if curve.steps.size < 2:
        raise NotRecordedError("fewer than two steps were recorded")
    return np.diff(np.log(curve.values), axis=1).max(axis=1)


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


# ---- the start that Algorithm 1 prints ----


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


# ---- rates ----


def _outside(norm: Curve, size: float, target: np.ndarray) -> np.ndarray:
    """By how much the norm leaves [t eta / (2 ||W*||), t eta] for t >= 2, in units of t eta; negative inside."""
    part = norm.window(2, np.inf)
    ratio = part.values / (part.steps * size)
    return np.maximum(ratio - 1, 1 / (2 * target[:, None]) - ratio).max(axis=1)


@CLAIMS("ntp.prop1.norm")
def value_norm_bounds(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """By how much ||W_ov|| leaves Proposition 1's bounds, from zero."""
    norm = _curve(metrics, "zero_init", "norm_ov")
    return _outside(norm, _step_sizes(experiments, "zero_init")[0], _targets(metrics, "zero_init")[0])


@CLAIMS("ntp.thm1.norm")
def key_query_norm_bounds(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """By how much ||W_kq|| leaves Theorem 1's bounds, from zero."""
    norm = _curve(metrics, "long_run", "norm_kq")
    return _outside(norm, _step_sizes(experiments, "long_run")[1], _targets(metrics, "long_run")[1])


def _turning(experiment: str, metric: str, first: int, last: int, power: int) -> Measured:
    """The factor by which 1 - cosine falls from one step to another, over that of log^power t / t."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        cosine = _curve(metrics, experiment, metric)
        bound = (np.log(last) / np.log(first)) ** power * first / last
        return (1 - cosine.at(last)) / (1 - cosine.at(first)) / bound

    return measured


CLAIMS("ntp.rate.ov")(_turning("two_stage", "cos_ov", 300, 900, 1))
CLAIMS("ntp.rate.kq")(_turning("long_run", "cos_kq", 3000, 12000, 2))


def _growing(late: np.ndarray, early: np.ndarray) -> np.ndarray:
    """A late slope over the size of an early one: 1 for a straight line that rises, 0 for one that stands still."""
    return np.divide(late, np.abs(early), out=np.zeros_like(late), where=early != 0)


def _loss_gap_slope(metrics: Metrics, first: int, last: int) -> np.ndarray:
    """The slope of log(L - floor) in the long run, shape (seeds,)."""
    loss = _curve(metrics, "long_run", "loss")
    floor = _curve(metrics, "long_run", "loss_floor").final()
    with np.errstate(invalid="ignore", divide="ignore"):  # a loss below the floor has no logarithm
        return Curve(loss.seeds, loss.steps, loss.values - floor[:, None]).slope(first, last, log_values=True)


@CLAIMS("ntp.thm2.linear")
def linear(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of log(L - floor) over [4000, 8000], over that over [2000, 4000]; a power of t gives one half."""
    return -_growing(_loss_gap_slope(metrics, 4000, 8000), _loss_gap_slope(metrics, 2000, 4000))


@CLAIMS("ntp.thm2.rate")
def rate(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The slope of log(L - floor) over [2000, 4000], over its limit -eta / ||W_kq*||."""
    eta = _step_sizes(experiments, "long_run")[1]
    return _loss_gap_slope(metrics, 2000, 4000) / (-eta / _targets(metrics, "long_run")[1])


def _growth(metric: str) -> Measured:
    """The slope of a gap over [6000, 12000], over the size of that over [3000, 6000]; negative where it shrinks."""

    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        gap = _curve(metrics, "long_run", metric)
        return _growing(gap.slope(6000, 12000), gap.slope(3000, 6000))

    return measured


CLAIMS("ntp.thm3.gaps")(_growth("optimal_gap"))
CLAIMS("ntp.thm3.gaps_non_comparable")(_growth("non_comparable_gap"))
