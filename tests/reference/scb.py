"""Plain twins of the scb room: dense one-hot matrices, one sequence after the other, one run at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from workflow.lib.papers.scb.problem import Problem

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_words(state: list[list[int]], count: int) -> list[int]:
    """xoshiro256++ in plain integers: `count` words, one from each of the generators in turn."""
    words = []
    for index in range(count):
        s = state[index % len(state)]
        words.append((_rotated((s[0] + s[3]) % 2**64, 23) + s[0]) % 2**64)
        shifted = (s[1] << 17) % 2**64
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = _rotated(s[3], 45)
    return words


def _rotated(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) % 2**64


def sample(words: Iterable[np.ndarray], problem: Problem) -> Batch:
    """A batch from the random words of each sequence, by looking every number up in a cumulative distribution."""
    batch = []
    for drawn in words:
        halves = drawn.view(np.uint16)[: problem.positions] / 2**16
        cuts = np.round(np.cumsum(problem.stationary) * 2**16) / 2**16
        tokens = np.searchsorted(cuts[:-1], halves, side="right")
        uniform = (drawn[-16:-13] >> np.uint64(11)) * 2.0**-53
        k = np.searchsorted(np.cumsum(problem.stationary)[:-1], uniform[0], side="right")
        place = np.searchsorted(np.cumsum(problem.weights[k])[:-1], uniform[1], side="right")
        following = np.cumsum(problem.transition[tokens[problem.support[k, place]]])
        batch.append((tokens, k, np.searchsorted(following[:-1], uniform[2], side="right")))
    tokens, queries, targets = zip(*batch, strict=True)
    return np.array(tokens), np.array(queries), np.array(targets)


def batch_loss(batch: Batch, A: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Mean of 1/2 ||x_o - V X a^(k)||^2 with the paper's columns: A (T, N), V (N, N); for autograd."""
    eye = torch.eye(len(V), dtype=V.dtype)
    total = torch.zeros((), dtype=V.dtype)
    for tokens, k, x_o in zip(*batch, strict=True):
        X = eye[:, torch.from_numpy(tokens).long()]
        residual = V @ X @ A[:, k] - eye[x_o]
        total = total + 0.5 * residual @ residual
    return total / len(batch[1])


def gradients(batch: Batch, A: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The batch gradients as they are written down: a loop over dense one-hot sequences."""
    eye = np.eye(len(V))
    grad_A, grad_V = np.zeros_like(A), np.zeros_like(V)
    for tokens, k, x_o in zip(*batch, strict=True):
        X = eye[:, tokens]
        h = X @ A[:, k]
        r = V @ h - eye[x_o]
        grad_V += np.outer(r, h)
        grad_A[:, k] += X.T @ (V.T @ r)
    return grad_A / len(batch[1]), grad_V / len(batch[1])


def preconditioned(grad_A: np.ndarray, grad_V: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ghat_A = (I - 11^T/T) grad_A diag(1/mu); Ghat_V likewise, then projected to Ghat_V mu = 0."""
    T, N = grad_A.shape
    ghat_A = (grad_A - np.ones((T, 1)) @ grad_A.sum(axis=0, keepdims=True) / T) @ np.diag(1 / mu)
    ghat_V = (np.eye(N) - np.ones((N, N)) / N) @ grad_V @ np.diag(1 / mu)
    ghat_V -= np.outer(ghat_V @ mu, np.ones(N))
    return ghat_A, ghat_V


def proximal(A: np.ndarray, threshold: float) -> np.ndarray:
    """Soft threshold, then column by column what is missing to a sum of 1, in equal shares on non-zeros (or all)."""
    A = np.sign(A) * np.maximum(np.abs(A) - threshold, 0)
    for k in range(A.shape[1]):
        support = np.flatnonzero(A[:, k])
        if not len(support):
            support = np.arange(len(A))
        A[support, k] += (1 - A[:, k].sum()) / len(support)
    return A


def switch(A: np.ndarray, count: int) -> np.ndarray:
    """Keep the entries that are farthest from 1/T, column by column, and share out what is missing to a sum of 1."""
    switched = np.zeros_like(A)
    for k, column in enumerate(A.T):
        kept = np.argsort(np.abs(column - 1 / len(column)))[-count:]
        switched[kept, k] = column[kept] + (1 - column[kept].sum()) / count
    return switched


def descend(
    batches: Iterable[Batch], A: np.ndarray, V: np.ndarray, mu: np.ndarray, step_size: float, penalty: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The states after each step of the preconditioned method, with the l1 step when there is a penalty."""
    states = []
    for batch in batches:
        ghat_A, ghat_V = preconditioned(*gradients(batch, A, V), mu)
        A, V = A - step_size * ghat_A, V - step_size * ghat_V
        if penalty:
            A = proximal(A, step_size * penalty)
        states.append((A, V))
    return states
