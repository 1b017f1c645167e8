"""The formulas themselves, held against definitions and against samples (docs/papers/scb.md, sections 4 and 8)."""

from __future__ import annotations

import numpy as np

from workflow.lib.optim.preconditioned_prox import proximal_step
from workflow.lib.papers.scb.descent import Batches
from workflow.lib.papers.scb.problem import Problem
from workflow.lib.papers.scb.settings import Checks
from workflow.lib.streams import Seed

_CHUNK = 100_000


def check(settings: Checks, problem: Problem, seed: Seed) -> dict[str, float]:
    """Errors of one seed: `gradient_error`, `finite_difference_error`, `mean_*_error` and `loss_error`."""
    attention, value = random_parameters(settings, problem, seed)
    return gradient_errors(settings, problem, seed, attention, value) | sampling_errors(
        settings, problem, seed, attention, value
    )


def random_parameters(settings: Checks, problem: Problem, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """Random A (N, T) and V (N, N) with rows that sum to 1 and V mu = mu."""
    generator = seed.generator("check parameters")
    noise = [settings.scale * generator.standard_normal(rows.shape) for rows in (problem.uniform, problem.memoryless)]
    attention = proximal_step(problem.uniform, noise[0], lr=1, penalty=0)
    value = proximal_step(problem.memoryless, noise[1], lr=1, penalty=0, weights=problem.stationary, keep_mean=True)
    return attention, value


def direct_gradients(
    batch: tuple[np.ndarray, np.ndarray, np.ndarray], attention: np.ndarray, value: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients as they are defined: dense one-hot matrices, one sequence after the other."""
    states = len(value)
    loss, attention_gradient, value_gradient = 0.0, np.zeros_like(attention), np.zeros_like(value)
    for tokens, query, target in zip(*batch, strict=True):
        X = np.eye(states)[:, tokens]
        hidden = X @ attention[query]
        residual = value.T @ hidden - np.eye(states)[target]
        loss += 0.5 * residual @ residual
        attention_gradient[query] += X.T @ (value @ residual)
        value_gradient += np.outer(hidden, residual)
    count = len(batch[1])
    return loss / count, attention_gradient / count, value_gradient / count


def gradient_errors(
    settings: Checks, problem: Problem, seed: Seed, attention: np.ndarray, value: np.ndarray
) -> dict[str, float]:
    """The compiled gradients of a batch against the direct ones, and those against central differences."""
    compiled = np.zeros_like(attention), np.zeros_like(value)
    batches = Batches(problem, settings.batch_size, seed, "checks")
    batch = batches.draw()
    batches.gradients(attention, value, *compiled)
    _, *direct = direct_gradients(batch, attention, value)
    generator = seed.generator("check directions")
    step, worst = 1e-5, 0.0
    for _ in range(10):
        along = generator.standard_normal(attention.shape), generator.standard_normal(value.shape)
        ahead, _, _ = direct_gradients(batch, attention + step * along[0], value + step * along[1])
        behind, _, _ = direct_gradients(batch, attention - step * along[0], value - step * along[1])
        slope = sum((gradient * a).sum() for gradient, a in zip(compiled, along, strict=True))
        worst = max(worst, abs((ahead - behind) / (2 * step) / slope - 1))
    return {
        "gradient_error": max(float(np.abs(c - d).max()) for c, d in zip(compiled, direct, strict=True)),
        "finite_difference_error": worst,
    }


def sampling_errors(
    settings: Checks, problem: Problem, seed: Seed, attention: np.ndarray, value: np.ndarray
) -> dict[str, float]:
    """Means over many samples against the formulas for expectations; the largest differences."""
    batches = Batches(problem, _CHUNK, seed, "check samples")
    sums = np.zeros_like(attention), np.zeros_like(value)
    loss, chunk = 0.0, (np.zeros_like(attention), np.zeros_like(value))
    rounds = -(-settings.samples // _CHUNK)
    for _ in range(rounds):
        batches.draw()
        loss += batches.gradients(attention, value, *chunk) / rounds
        for total, part in zip(sums, chunk, strict=True):
            total += part / rounds
    zero = np.zeros_like(attention), np.zeros_like(value)
    mu = problem.stationary
    directions = (
        -proximal_step(zero[0], sums[0], lr=1, penalty=0, weights=mu),
        -proximal_step(zero[1], sums[1], lr=1, penalty=0, weights=mu, keep_mean=True),
    )
    errors = [
        float(np.abs(found - expected).max())
        for found, expected in zip(directions, problem.expected_directions(attention, value), strict=True)
    ]
    return {
        "mean_attention_direction_error": errors[0],
        "mean_value_direction_error": errors[1],
        "loss_error": float(abs(loss - problem.loss(attention, value))),
    }
