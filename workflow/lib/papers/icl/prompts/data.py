"""Prompts of linear regression tasks over orthonormal features (docs/papers/icl.md, section 3)."""

from __future__ import annotations

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Prompts], seed: Seed) -> Arrays:
    """The features, the training prompts and the unseen prompts of one seed.

    Returns:
        features: (K, d), orthonormal rows v_1 .. v_K.
        tasks: (M, d), the regression vector w ~ N(0, I_d) of each prompt.
        tokens: (M, N), x_i = features[tokens[j, i]] in prompt j; its label is <w_j, x_i>.
        query: (M,), x_query = features[query[j]].
        fresh_counts: (R, K), how often each feature occurs in each of R unseen prompts.
    """
    settings = experiment.settings
    probabilities = np.asarray(settings.distribution)
    probabilities = probabilities / probabilities.sum()
    draw = seed.generator("tokens")

    def tokens(*shape: int) -> np.ndarray:
        return draw.choice(len(probabilities), size=shape, p=probabilities).astype(np.int32)

    return {
        "features": features(settings, seed.generator("features")),
        "tasks": seed.generator("tasks").normal(size=(settings.prompts, settings.dimension)),
        "tokens": tokens(settings.prompts, settings.context_length),
        "query": tokens(settings.prompts),
        "fresh_counts": seed.generator("fresh prompts").multinomial(
            settings.context_length, probabilities, size=settings.fresh_prompts
        ),
    }


def features(settings: Prompts, generator: np.random.Generator) -> np.ndarray:
    """The features, shape (K, d): K columns of a random orthogonal matrix, unit vectors, or the user's own.

    The random matrix is Q of the QR decomposition of a Gaussian matrix with the signs of R's diagonal moved into
    Q, which makes it uniform among the orthogonal matrices.
    """
    count, dimension = settings.feature_count, settings.dimension
    if settings.features == "basis":
        return np.eye(count, dimension)
    if settings.features == "dense":
        orthogonal, upper = np.linalg.qr(generator.normal(size=(dimension, dimension)))
        return np.ascontiguousarray((orthogonal * np.sign(np.diag(upper)))[:, :count].T)
    return np.asarray(settings.features, dtype=np.float64)
