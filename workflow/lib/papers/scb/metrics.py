"""What figures and claims read of finished runs (docs/papers/scb.md, section 7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.scb.problem import Problem, population_path, rounded
from workflow.lib.papers.scb.settings import Bigram, Checks, RunOptions
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.runs import DATA, Trace

# Whole matrices are kept for heat maps up to this many positions.
DRAWABLE = 200


def measure(
    experiment: Experiment[Bigram, RunOptions], data: Mapping[int, Arrays], runs: Mapping[str, Run]
) -> dict[str, Trace]:
    """Everything that the figures and claims of this paper read.

    Per optimizer: what training recorded; `value_alignment_population` and `attention_alignment_population`,
    the path of the same steps on the population loss (projected preconditioned runs of linear attention);
    `attention_distance_rounded` of the final attention cut to its Q largest entries; for short sequences the
    final matrices `attention`, at index (k, t), and `value`, at index (m, n). Of the data: `k_p`, `k_q`, `floor`,
    `start_loss`, `stationary` at index m, the true matrices under the same names, and the results of the checks.
    """
    settings = experiment.settings
    problem = Problem.stacked(data.values(), settings.positions)
    measured = {
        label: _measure_run(settings, experiment.optimizers[label], problem, run) for label, run in runs.items()
    }
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


def _measure_run(settings: Bigram, optimizer: Optimizer[RunOptions], problem: Problem, run: Run) -> Trace:
    trace = Trace(run.seeds)
    trace.update(run.trace)
    attention = run.parameters["attention"]
    with np.errstate(invalid="ignore"):
        cut = rounded(attention, settings.support)
    trace.record("attention_distance_rounded", settings.iterations, problem.squared_distance(cut, problem.attention))
    _record_matrices(trace, settings.iterations, attention, run.parameters["value"])
    if optimizer.rule == "preconditioned_prox" and optimizer.options.attention == "linear":
        steps = run.trace["value_alignment"].steps
        paths = predicted_alignments(settings, optimizer, problem)
        for name, path in zip(("value", "attention"), paths, strict=True):
            trace.record(f"{name}_alignment_population", steps, path[:, steps])
    return trace


def predicted_alignments(
    settings: Bigram, optimizer: Optimizer[RunOptions], problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """alpha_V and alpha_A of the same steps on the population loss, each (seeds, iterations + 1).

    The switch sets alpha_A to 1; the l1 step is taken to keep it there.
    """
    options = optimizer.options
    size, factor = optimizer.hyperparameters["lr"], options.attention_factor
    before, after = settings.boosting_steps, settings.iterations - settings.boosting_steps
    if options.start == "scratch":
        return population_path(problem, np.full(settings.iterations, size), (options.pretrained, 0.0), factor)
    first, second = population_path(problem, np.full(before, settings.boosting_step_size))
    end = (first[:, -1], np.ones_like(first[:, -1]) if options.start == "switched" else second[:, -1])
    rest = population_path(problem, np.full(after, size), end, factor)
    return (
        np.concatenate([first, rest[0][:, 1:]], axis=1),
        np.concatenate([second, rest[1][:, 1:]], axis=1),
    )


def _record_matrices(trace: Trace, step: int, attention: np.ndarray, value: np.ndarray) -> None:
    if attention.shape[-1] <= DRAWABLE:
        trace.record_array("attention", step, attention)
        trace.record_array("value", step, value)
