"""Training: the boosting stage, what comes after it, or all of it from scratch (docs/papers/scb.md, section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.scb.descent import WITHOUT_TORCH, Batches, Descent, any_optimizer
from workflow.lib.papers.scb.problem import Problem, rounded, switch
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace


def train(
    experiment: Experiment[Bigram, RunOptions],
    optimizer: Optimizer[RunOptions],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Run one optimizer on all seeds at once.

    The batches of a step are the same for every optimizer (common random numbers).

    Returns:
        The trace holds the metrics of `Problem.metrics` and `training_loss` (the mean of the batch losses since
        the last record); `diverged_at` for seeds that diverged; for runs that went through the switch
        `kept` (entries kept, at index k for state k) and `support_exact` (1 where they are the true positions).
        A run that goes on from another one records its own steps only. The parameters are the final `attention`
        (seeds, N, T) and `value` (seeds, N, N).
    """
    settings, options = experiment.settings, optimizer.options
    problem = Problem.stacked(data.values(), settings.positions)
    trace = Trace(data)
    attention, value = _start(problem, options, job.start)
    if options.switch:
        attention = switch(attention, settings.switch_rule, settings.support, settings.switch_level)
        kept = attention != 0
        trace.record_array("kept", settings.boosting_steps, kept.sum(axis=-1))
        trace.record("support_exact", settings.boosting_steps, (kept == (problem.attention != 0)).all(axis=(1, 2)))

    descent = Descent(problem, attention, value, settings.record_every, logits=options.attention == "softmax")
    if optimizer.rule in WITHOUT_TORCH:
        of_rule = WITHOUT_TORCH[optimizer.rule]
        update = of_rule(descent, **optimizer.hyperparameters, attention_factor=options.attention_factor)
    else:
        update = any_optimizer(descent, optimizer, options.attention_factor)

    def batches(purpose: str) -> list[Batches]:
        streams: list[Batches] = []
        for i, number in enumerate(data):
            seed, first = experiment.seed(number), streams[0] if streams else None
            streams.append(Batches(problem.one(i), settings.batch_size, seed, purpose, first))
        return streams

    if job.start is None:
        descent.record(0)
        descent.run(update, batches("boosting batches"), 0, settings.boosting_steps)
    if not options.boosting:
        middle = settings.iterations - (settings.rounding_steps if options.rounding else 0)
        stream = batches("batches")
        descent.run(update, stream, settings.boosting_steps, middle)
        if options.rounding:
            descent.free[:] = rounded(descent.free, settings.support)
            descent.run(update, stream, middle, settings.iterations, fixed=True)

    if not descent.steps:  # what these runs go on from had diverged: that is all there is to record
        descent.record(settings.boosting_steps if options.boosting else settings.iterations)
    curves = descent.curves()
    steps = curves.pop("steps")
    for name, values in curves.items():
        trace.record(name, steps, values)
    if not np.isnan(descent.diverged_at).all():
        trace.record("diverged_at", 0, descent.diverged_at)
    return Run(trace, {"attention": descent.attention, "value": descent.value})


def _start(problem: Problem, options: RunOptions, start: Arrays | None) -> tuple[np.ndarray, np.ndarray]:
    """The attention (its logits, for softmax) and the value matrix that runs begin with."""
    if start is not None:
        return start["attention"], start["value"]
    attention = np.zeros_like(problem.uniform) if options.attention == "softmax" else problem.uniform
    share = options.pretrained
    return attention, share * problem.transition + (1 - share) * problem.memoryless
