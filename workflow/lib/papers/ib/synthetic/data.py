"""Sequences with one signal token among noise (docs/papers/ib.md, section 3.1)."""

from __future__ import annotations

import numpy as np

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.settings import Place, Sequences, array_name
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Sequences], seed: Seed) -> Arrays:
    """Draw the sequences of one seed; the arrays of `sequences`, each name behind its variant's (`array_name`).

    All variants of a seed use the same random numbers, so that they differ only in what their settings say.
    """
    return {
        array_name(variant, name): array
        for variant, settings in experiment.settings.variants().items()
        for name, array in sequences(settings, seed).items()
    }


def sequences(settings: Sequences, seed: Seed) -> Arrays:
    """The data set of one seed.

    Returns:
        tokens (n, T, d); labels (n,) alternating +1, -1; optimal (n,) and query (n,), places counted from 0;
        decoder (d,), the unit vector along the difference of the signals.

    Raises:
        UserError: a noise token scores as high as the signal, which then is not the optimal token.
    """
    n, T, d = settings.samples, settings.tokens, settings.dimension
    plane, _ = np.linalg.qr(seed.generator("signals").standard_normal((d, 2)))
    second = plane[:, 1] if settings.signals == "orthogonal" else -plane[:, 0]
    signals = settings.signal_norm * np.stack([plane[:, 0], second])
    labels = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    decoder = signals[0] - signals[1]
    decoder /= np.linalg.norm(decoder)

    tokens = seed.generator("noise").standard_normal((n, T, d)) * (settings.noise_norm / np.sqrt(d))
    if settings.equal_scores:
        tokens -= tokens @ plane @ plane.T
    places = seed.generator("places")
    optimal = _places(settings.optimal_position, places.integers(1, T, n))
    query = _places(settings.query_position, places.integers(0, T, n))
    tokens[np.arange(n), optimal] = signals[(labels < 0).astype(int)]

    scores = labels[:, None] * (tokens @ decoder)
    best = scores[np.arange(n), optimal]
    rivals = np.where(np.arange(T) == optimal[:, None], -np.inf, scores).max(axis=1)
    if not (best > rivals).all():
        raise UserError(
            f"seed {seed.number}: in {(best <= rivals).sum()} of {n} sequences a noise token scores at least as high "
            f"as the signal. Take a larger signal_norm (found {settings.signal_norm:g}) or a smaller noise_norm "
            f"(found {settings.noise_norm:g})."
        )
    return {"tokens": tokens, "labels": labels, "optimal": optimal, "query": query, "decoder": decoder}


def _places(place: Place, drawn: np.ndarray) -> np.ndarray:
    """Places counted from 0: those drawn, or one and the same."""
    return drawn if place == "random" else np.full_like(drawn, place - 1)
