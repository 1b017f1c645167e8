"""What figures and claims read of finished runs (docs/papers/scb.md, section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.scb.problem import Problem, kept_entries, population_path, rounded
from workflow.lib.papers.scb.settings import Bigram, Checks, RunOptions, SwitchRule
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import DATA, Trace

# The rules of the switch that are compared at the end of every boosting stage, with their levels.
SWITCHES: dict[str, tuple[SwitchRule, float | None]] = {
    "robust_deviations_4.5": ("robust_deviations", 4.5),
    "robust_deviations_6": ("robust_deviations", 6.0),
    "share_of_largest_0.5": ("share_of_largest", 0.5),
    "largest": ("largest", None),
    "largest_deviations": ("largest_deviations", None),
}
# Whole matrices are kept for heat maps up to this many positions.
DRAWABLE = 200


def measure(
    experiment: Experiment[Bigram, RunOptions], data: Mapping[int, Arrays], runs: Mapping[str, Run]
) -> dict[str, Trace]:
    """Everything that the figures and claims of this paper read.

    Per optimizer: what training recorded, for runs that go on from others with what these recorded before;
    `value_alignment_population` and `attention_alignment_population`, the path of the same steps on the population loss
    (projected preconditioned runs of linear attention); `attention_distance_rounded` of the final attention cut to its
    Q largest entries; of boosting runs `switch_exact`, at the index of each rule of `SWITCHES`: 1 where what it would
    keep are the true positions; for short sequences the final matrices `attention`, at index (k, t), and `value`, at
    index (m, n). Of the data: `k_p`, `k_q`, `floor`, `start_loss`, `stationary` at index m, the true matrices under the
    same names, and the results of the checks.
    """
    settings = experiment.settings
    problem = Problem.stacked(data.values(), settings.positions)
    measured = {label: _measure_run(experiment, label, problem, runs) for label in runs}
    facts = Trace(data)
    facts.record("k_p", 0, problem.transition_correlation)
    facts.record("k_q", 0, problem.attention_correlation)
    facts.record("floor", 0, problem.floor)
    facts.record("start_loss", 0, 0.5 * (1 - (problem.stationary**2).sum(axis=-1)))
    facts.record_array("stationary", 0, problem.stationary)
    _record_matrices(facts, 0, problem.attention, problem.transition)
    if isinstance(settings, Checks):
        from workflow.lib.papers.scb.checks import check  # loads the compiler, which nothing else here needs

        found = [check(settings, problem.one(i), experiment.seed(number)) for i, number in enumerate(data)]
        for name in found[0]:
            facts.record(name, 0, [errors[name] for errors in found])
    measured[DATA] = facts
    return measured


def _measure_run(
    experiment: Experiment[Bigram, RunOptions], label: str, problem: Problem, runs: Mapping[str, Run]
) -> Trace:
    settings, optimizer, run = experiment.settings, experiment.optimizers[label], runs[label]
    trace = _whole([runs[earlier].trace for earlier in experiment.before(label)], run.trace)
    attention = run.parameters["attention"]
    with np.errstate(invalid="ignore"):
        cut = rounded(attention, settings.support)
    end = settings.boosting_steps if optimizer.options.boosting else settings.iterations
    trace.record("attention_distance_rounded", end, problem.squared_distance(cut, problem.attention))
    if optimizer.options.boosting:
        for name, (rule, level) in SWITCHES.items():
            kept = kept_entries(attention, rule, settings.support, level)
            trace.record("switch_exact", end, (kept == (problem.attention != 0)).all(axis=(1, 2)), index=name)
    _record_matrices(trace, end, attention, run.parameters["value"])
    rules = [experiment.optimizers[name] for name in (*experiment.before(label), label)]
    # A run that goes on and diverges before its first record has no alignments to be held against the path.
    recorded = "value_alignment" in trace
    if recorded and all(o.rule == "preconditioned_prox" and o.options.attention == "linear" for o in rules):
        steps = trace["value_alignment"].steps
        with np.errstate(all="ignore"):  # with steps that diverge, the path does too
            paths = predicted_alignments(settings, rules, problem)
        for name, path in zip(("value", "attention"), paths, strict=True):
            trace.record(f"{name}_alignment_population", steps, path[:, steps])
    return trace


def _whole(before: Sequence[Trace], own: Trace) -> Trace:
    """A trace with what the runs before it recorded, curve by curve; what only these recorded is left out."""
    whole = Trace(own.seeds)
    for (metric, index), curve in own.items():
        parts = [*(earlier.curve(metric, index) for earlier in before if index in earlier.indices(metric)), curve]
        steps, values = [part.steps for part in parts], [part.values for part in parts]
        if metric == "diverged_at":
            steps, values = steps[:1], [np.fmin.reduce(values)]
        whole.record(metric, np.concatenate(steps), np.concatenate(values, axis=1), index)
    return whole


def predicted_alignments(
    settings: Bigram, optimizers: Sequence[Optimizer[RunOptions]], problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """alpha_V and alpha_A of the same steps on the population loss, each (seeds, steps + 1).

    The runs of each optimizer go on from those of the one before. The switch sets alpha_A to 1; the l1 step is taken to
    keep it there.
    """
    start = optimizers[0].options.pretrained + 0 * problem.transition_correlation
    first, second, done = start[:, None], np.zeros_like(start)[:, None], 0
    for optimizer in optimizers:
        end = settings.boosting_steps if optimizer.options.boosting else settings.iterations
        state = first[:, -1], np.ones_like(start) if optimizer.options.switch else second[:, -1]
        sizes = np.full(end - done, optimizer.hyperparameters["lr"])
        rest = population_path(problem, sizes, state, optimizer.options.attention_factor)
        first, second = (
            np.concatenate([path, more[:, 1:]], axis=1) for path, more in zip((first, second), rest, strict=True)
        )
        done = end
    return first, second


def _record_matrices(trace: Trace, step: int, attention: np.ndarray, value: np.ndarray) -> None:
    if attention.shape[-1] <= DRAWABLE:
        trace.record_array("attention", step, attention)
        trace.record_array("value", step, value)
