"""The data of one seed: a bigram, and the state at the end of the boosting stage.

Boosting is the first stage of the training algorithm and the same for every optimizer of an experiment, which only
differ after the switch. So it is run once, here, and every optimizer's runs go on from its end state.
"""

from __future__ import annotations

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.scb.descent import Batches, Descent, preconditioned_prox
from workflow.lib.papers.scb.problem import Problem, stationary
from workflow.lib.papers.scb.settings import Bigram
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Bigram], seed: Seed) -> Arrays:
    """Draw P and Q and run the boosting stage.

    Returns:
        The arrays of `Problem`; `boosted/attention` (N, T) and `boosted/value` (N, N), the state before the
        switch; `boosted/steps` (n,) and `boosted/<metric>` (n,), what was recorded on the way.
    """
    settings = experiment.settings
    problem = draw_problem(settings, seed)
    arrays = problem.arrays()
    stacked = Problem.stacked([arrays], settings.positions)
    descent = Descent(stacked, stacked.uniform, stacked.memoryless, settings.record_every)
    batches = [Batches(problem, settings.batch_size, seed, "boosting batches")]
    update = preconditioned_prox(descent, lr=settings.boosting_step_size)
    descent.record(0)
    descent.run(update, batches, 0, settings.boosting_steps)
    curves = descent.curves()
    arrays |= {"boosted/attention": descent.free[0], "boosted/value": descent.value[0]}
    arrays["boosted/steps"] = curves.pop("steps")
    return arrays | {f"boosted/{name}": values[0] for name, values in curves.items()}


def draw_problem(settings: Bigram, seed: Seed) -> Problem:
    """Draw P by its rule, and Q: positions without replacement, independently for every state."""
    generator = seed.generator("transition")
    while True:
        if settings.transition is not None:
            transition = np.asarray(settings.transition, dtype=np.float64)
        else:
            transition = generator.dirichlet([settings.transition_concentration] * settings.states, settings.states)
        drawn = _with_attention(settings, transition, seed)
        if settings.transition is not None or drawn.transition_correlation >= settings.minimum_correlation:
            return drawn


def _with_attention(settings: Bigram, transition: np.ndarray, seed: Seed) -> Problem:
    generator = seed.generator("attention")
    support = np.sort(
        [generator.choice(settings.positions, settings.support, replace=False) for _ in range(settings.states)]
    )
    if settings.weight_concentration is None:
        weights = np.full(support.shape, 1 / settings.support)
    else:
        weights = generator.dirichlet([settings.weight_concentration] * settings.support, settings.states)
    return Problem(transition, stationary(transition), support, weights, settings.positions)
