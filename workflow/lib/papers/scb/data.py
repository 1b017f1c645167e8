"""The data of one seed: a bigram."""

from __future__ import annotations

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.scb.problem import Problem, draw_transition, stationary
from workflow.lib.papers.scb.settings import Bigram
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Bigram], seed: Seed) -> Arrays:
    """Draw P and Q: the arrays of `Problem`."""
    return draw_problem(experiment.settings, seed).arrays()


def draw_problem(settings: Bigram, seed: Seed) -> Problem:
    """Draw P by its rule, and Q: positions without replacement, independently for every state."""
    if settings.transition is not None:
        transition = np.asarray(settings.transition, dtype=np.float64)
    else:
        tries = 100 * settings.tries  # planning has found one in a hundredth of them
        transition = draw_transition(*settings.drawn, seed.generator("transition"), tries)
    generator = seed.generator("attention")
    support = np.sort(
        [generator.choice(settings.positions, settings.support, replace=False) for _ in range(settings.states)]
    )
    if settings.weight_concentration is None:
        weights = np.full(support.shape, 1 / settings.support)
    else:
        weights = generator.dirichlet([settings.weight_concentration] * settings.support, settings.states)
    return Problem(transition, stationary(transition), support, weights, settings.positions)
