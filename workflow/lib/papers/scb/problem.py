"""The sparse contextual bigram: its distribution, distances to it, and what holds in expectation.

Rows here are the paper's columns: `transition[m]` is P's column m (the distribution after state m), `value[m]` is
V's, and `attention[k]` is a^(k). Arrays may carry leading dimensions (runs), the same ones in all arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays


def stationary(transition: object) -> np.ndarray:
    """The stationary distribution mu of a transition matrix with rows that sum to 1, shape (N,).

    Raises:
        ValueError: there are several, because the chain falls into parts that are never left.
    """
    rows = np.asarray(transition, dtype=np.float64)
    states = len(rows)
    equations = np.vstack([rows.T - np.eye(states), np.ones(states)])
    mu, _, rank, _ = np.linalg.lstsq(equations, np.r_[np.zeros(states), 1.0], rcond=1e-12)
    if rank < states:
        raise ValueError("expected one stationary distribution; found a chain with several parts that are never left")
    mu = np.where(np.abs(mu) < 1e-12, 0.0, mu)
    return np.asarray(mu / mu.sum())


def draw_transition(
    states: int, concentration: float, least: float, generator: np.random.Generator, tries: int
) -> np.ndarray:
    """A transition matrix whose rows are drawn from a symmetric Dirichlet distribution, shape (N, N).

    Args:
        states: N.
        concentration: of the Dirichlet distribution.
        least: the correlation K_P that it must reach. One whose mu has a zero, or is not the only one, is drawn again.
        generator: of the random numbers.
        tries: how many matrices are drawn at most.

    Raises:
        UserError: none of them will do.
    """
    largest = 0.0
    for _ in range(tries):
        transition = generator.dirichlet([concentration] * states, states)
        try:
            mu = stationary(transition)
        except (ValueError, np.linalg.LinAlgError):  # several of them; numbers that are none
            continue
        if (mu > 0).all():
            gap = transition - mu
            correlation = float((mu * np.vecdot(gap, gap)).sum())
            if correlation >= least:
                return transition
            largest = max(largest, correlation)
    raise UserError(
        f"minimum_correlation: expected about {largest:.3g} or less, the largest K_P of {tries} random matrices of "
        f"{states} states with a transition_concentration of {concentration:g}; found {least:g}"
    )


# The arrays of a problem, as the data of a seed hold them.
ARRAYS = ("transition", "stationary", "support", "weights")


@dataclass(frozen=True)
class Problem:
    """One bigram, or several stacked.

    Attributes:
        transition: P, shape (..., N, N).
        stationary: mu, shape (..., N).
        support: positions that the next token may be copied from, sorted, shape (..., N, Q).
        weights: their probabilities, shape (..., N, Q).
        positions: T.
    """

    transition: np.ndarray
    stationary: np.ndarray
    support: np.ndarray
    weights: np.ndarray
    positions: int

    @classmethod
    def stacked(cls, blocks: Iterable[Arrays], positions: int) -> Problem:
        """The problems of several seeds, stacked along a leading dimension."""
        blocks = list(blocks)
        return cls(**{name: np.stack([block[name] for block in blocks]) for name in ARRAYS}, positions=positions)

    def arrays(self) -> Arrays:
        """The arrays by name, as `stacked` takes them."""
        return {name: getattr(self, name) for name in ARRAYS}

    def one(self, index: int) -> Problem:
        """One of several stacked problems."""
        return Problem(**{name: array[index] for name, array in self.arrays().items()}, positions=self.positions)

    @cached_property
    def attention(self) -> np.ndarray:
        """Q, the true attention, shape (..., N, T)."""
        dense = np.zeros((*self.support.shape[:-1], self.positions))
        np.put_along_axis(dense, self.support, self.weights, axis=-1)
        return dense

    @cached_property
    def uniform(self) -> np.ndarray:
        """A_0 = 1 1^T / T, shape (..., N, T)."""
        return np.full((*self.support.shape[:-1], self.positions), 1 / self.positions)

    @cached_property
    def memoryless(self) -> np.ndarray:
        """V_0 = mu 1^T, shape (..., N, N)."""
        return np.broadcast_to(self.stationary[..., None, :], self.transition.shape).copy()

    @cached_property
    def transition_correlation(self) -> np.ndarray:
        """K_P = ||P - mu 1^T||_mu^2, shape (...)."""
        return self.squared_distance(self.transition, self.memoryless)

    @cached_property
    def attention_correlation(self) -> np.ndarray:
        """K_Q = ||Q - 1 1^T / T||_mu^2, shape (...)."""
        return self.squared_distance(self.attention, self.uniform)

    def product(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """<V, W>_mu = sum_m mu_m <V_m, W_m>, shape (...); arrays of shape (..., N, anything)."""
        return np.asarray((self.stationary * np.vecdot(first, second)).sum(axis=-1))

    def squared_distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """||V - W||_mu^2, shape (...)."""
        gap = first - second
        return self.product(gap, gap)

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Cov(V, W) = <V, W>_mu - <V mu, W mu>, from centred rows, shape (...)."""
        means = [np.einsum("...m,...mi->...i", self.stationary, rows)[..., None, :] for rows in (first, second)]
        return self.product(first - means[0], second - means[1])

    def loss(self, attention: np.ndarray, value: np.ndarray) -> np.ndarray:
        """The exact population loss 1/2 E||x_o - V X a^(k)||^2 of any parameters, shape (...)."""
        shared = (self.weights * self._at_support(attention)).sum(axis=-1)
        return self._loss(attention.sum(axis=-1), np.vecdot(attention, attention), shared, value)

    def _loss(self, sums: np.ndarray, squared: np.ndarray, shared: np.ndarray, value: np.ndarray) -> np.ndarray:
        """The same from s_k, ||a^(k)||^2 and <a^(k), q^(k)>, each (..., N)."""
        mu = self.stationary
        mean = np.einsum("...m,...mi->...i", mu, value)
        c_ff = (mu * sums**2).sum(-1) * (mean**2).sum(-1) + (mu * squared).sum(-1) * self.covariance(value, value)
        c_xf = (mu * sums).sum(-1) * (mu * mean).sum(-1) + (mu * shared).sum(-1) * self.covariance(
            value, self.transition
        )
        return np.asarray(0.5 * (1 - 2 * c_xf + c_ff))

    def _at_support(self, attention: np.ndarray) -> np.ndarray:
        """The entries at the true positions, shape (..., N, Q)."""
        return np.take_along_axis(attention, self.support, axis=-1)

    @cached_property
    def floor(self) -> np.ndarray:
        """The smallest loss, at V = P and A = Q: 1/2 (1 - ||mu||^2 - ||Q||_mu^2 K_P), shape (...)."""
        squared = self.product(self.attention, self.attention)
        return np.asarray(0.5 * (1 - (self.stationary**2).sum(-1) - squared * self.transition_correlation))

    def expected_directions(self, attention: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The means of the projected preconditioned gradients, (..., N, T) and (..., N, N).

        They hold where rows of both parameters sum to 1 and V mu = mu.
        """
        squared = self.product(attention, attention)[..., None, None]
        shared = self.product(attention, self.attention)[..., None, None]
        for_value = squared * (value - self.memoryless) - shared * (self.transition - self.memoryless)
        own = self.covariance(value, value)[..., None, None]
        cross = self.covariance(value, self.transition)[..., None, None]
        for_attention = own * (attention - self.uniform) - cross * (self.attention - self.uniform)
        return for_attention, for_value

    def metrics(self, attention: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
        """What is recorded of a state; everything of shape (...).

        Training asks often, so no more than four passes are made over the attention: Q is known by its few entries.
        """
        mu, size = self.stationary, self.positions
        value_change = value - self.memoryless
        entries, sums = self._at_support(attention), attention.sum(axis=-1)
        shared = (self.weights * entries).sum(axis=-1)
        gap = attention.copy()
        np.put_along_axis(gap, self.support, entries - self.weights, axis=-1)
        # <a - 1/T, q - 1/T> of each column
        aligned = (self.weights * (entries - 1 / size)).sum(axis=-1) - (sums - 1) / size
        drifts = [
            np.abs(sums - 1).max(-1),
            np.abs(value.sum(-1) - 1).max(-1),
            np.abs(np.einsum("...m,...mi->...i", mu, value) - mu).max(-1),
        ]
        return {
            "value_distance": self.squared_distance(value, self.transition),
            "attention_distance": self.product(gap, gap),
            "value_alignment": self.product(value_change, self.transition - self.memoryless)
            / self.transition_correlation,
            "attention_alignment": (mu * aligned).sum(axis=-1) / self.attention_correlation,
            "loss": self._loss(sums, np.vecdot(attention, attention), shared, value),
            "drift": np.max(drifts, axis=0),
            "support_found": self._found(attention, entries),
        }

    def support_found(self, attention: np.ndarray) -> np.ndarray:
        """The share of true positions among the Q largest entries of each row, shape (...)."""
        return self._found(attention, self._at_support(attention))

    def _found(self, attention: np.ndarray, entries: np.ndarray) -> np.ndarray:
        width = self.support.shape[-1]
        # Ties count against: in uniform attention nothing is found.
        ranks = [np.count_nonzero(attention >= entries[..., [i]], axis=-1) for i in range(width)]
        return np.asarray((np.stack(ranks, axis=-1) <= width).mean(axis=(-2, -1)))


def switch(attention: np.ndarray, rule: str, width: int, level: float | None = None) -> np.ndarray:
    """The stage switch: keep some entries, zero the rest, share out what is missing to a sum of 1.

    Args:
        attention: shape (..., T).
        rule: which entries are kept; see `kept_entries`.
        width: the number of true positions.
        level: of rules that have one.

    Returns:
        The same shape; a row of which nothing is kept becomes uniform.
    """
    return _filled_up(attention, kept_entries(attention, rule, width, level))


def kept_entries(attention: np.ndarray, rule: str, width: int, level: float | None = None) -> np.ndarray:
    """Which entries of attention (..., T) a rule of the switch keeps (docs/papers/scb.md, section 5).

    `largest_deviations`, the `width` entries of a row that are farthest from 1/T; `largest`, the `width` largest;
    `robust_deviations`, what exceeds the row's median by `level` robust standard deviations (1.4826 MAD);
    `share_of_largest`, what exceeds 1/T by `level` times as much as the row's largest entry; `threshold`, what exceeds
    `level`.
    """
    if rule == "largest_deviations":
        return _largest(np.abs(attention - 1 / attention.shape[-1]), width)
    if rule == "largest":
        return _largest(attention, width)
    assert level is not None, rule
    if rule == "robust_deviations":
        middle = np.median(attention, axis=-1, keepdims=True)
        spread = np.median(np.abs(attention - middle), axis=-1, keepdims=True)
        return np.asarray(attention > middle + level * 1.4826 * spread)
    if rule == "share_of_largest":
        above = attention - 1 / attention.shape[-1]
        return np.asarray(above > level * above.max(axis=-1, keepdims=True))
    return np.asarray(attention > level)


def rounded(attention: np.ndarray, width: int) -> np.ndarray:
    """Keep the `width` largest entries of each row (..., T) and scale them to a sum of 1."""
    kept = np.where(_largest(attention, width), attention, 0.0)
    return kept / kept.sum(axis=-1, keepdims=True)


def _largest(heights: np.ndarray, width: int) -> np.ndarray:
    """Where the `width` largest entries of each row are, shape (..., T)."""
    where = np.zeros(heights.shape, dtype=bool)
    np.put_along_axis(where, np.argpartition(heights, -width, axis=-1)[..., -width:], True, axis=-1)
    return where


def _filled_up(attention: np.ndarray, kept: np.ndarray) -> np.ndarray:
    sparse = np.where(kept, attention, 0.0)
    count = kept.sum(axis=-1, keepdims=True)
    missing = 1 - sparse.sum(axis=-1, keepdims=True)
    filled = np.where(kept, sparse + missing / np.maximum(count, 1), 0.0)
    return np.where(count > 0, filled, 1 / attention.shape[-1])


def population_path(
    problem: Problem,
    sizes: np.ndarray,
    start: tuple[np.ndarray | float, np.ndarray | float] = (0.0, 0.0),
    attention_factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """alpha_V and alpha_A of gradient descent on the population loss, from `start`, each (..., steps + 1).

    With V = mu 1^T + alpha_V (P - mu 1^T) and A = 11^T/T + alpha_A (Q - 11^T/T), a step of size eta adds
    eta ((1 - alpha_V) / T + K_Q alpha_A (1 - alpha_V alpha_A)) and eta K_P alpha_V (1 - alpha_V alpha_A),
    the latter times `attention_factor`.
    """
    k_p, k_q = problem.transition_correlation, problem.attention_correlation
    first, second = np.asarray(start[0]) + 0 * k_p, np.asarray(start[1]) + 0 * k_p
    path = [(first, second)]
    for eta in sizes:
        rest = 1 - first * second
        first, second = (
            first + eta * ((1 - first) / problem.positions + k_q * second * rest),
            second + eta * attention_factor * k_p * first * rest,
        )
        path.append((first, second))
    both = np.moveaxis(np.asarray(path), 0, -1)
    return both[0], both[1]
