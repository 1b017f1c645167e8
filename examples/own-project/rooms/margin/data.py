"""Separable points."""

from __future__ import annotations

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.margin.settings import Separable
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Separable], seed: Seed) -> Arrays:
    """Draw `signed` of shape (points, dimension): each point times its label, `gap` or more beyond the plane."""
    settings, random = experiment.settings, seed.generator("data")
    normal = random.standard_normal(settings.dimension)
    normal /= np.linalg.norm(normal)
    points = random.standard_normal((settings.points, settings.dimension))
    beside = points - np.outer(points @ normal, normal)
    return {"signed": beside + np.outer(settings.gap + np.abs(points @ normal), normal)}
