"""Coordinates in which training is small: orthonormal bases of the spaces that W and u move in.

The gradient in W is a combination of the m = n (T - 1) rank-one matrices A_k = (x_opt - x_t) q^T, one per
non-optimal token, and <A_k, W> is the margin of that token. In an orthonormal basis of their span W is a vector
w of m numbers, every margin is linear in w, norms and inner products are those of the matrices, and so every
optimizer takes the same steps as on W itself, for m^2 instead of n d^2 operations. What a random W_0 has outside
the span never changes: only its norm is needed. The same holds for u in the span of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow.lib.files import Arrays


@dataclass(frozen=True)
class KeyQuerySpan:
    """The span of A_k = a_k q_k^T.

    Attributes:
        differences: a_k = x_opt - x_t, shape (m, d), sequence by sequence.
        queries: q_k, shape (m, d).
        margins: coordinates of the A_k, shape (m, m): margins @ w are the margins of the matrix W with coordinates w.
        combine: shape (m, m); the basis matrices are B_b = sum_k combine[k, b] A_k.
    """

    differences: np.ndarray
    queries: np.ndarray
    margins: np.ndarray
    combine: np.ndarray

    @classmethod
    def of(cls, data: Arrays) -> KeyQuerySpan:
        """The span for one data set (arrays of `data.sequences`).

        Its Gram matrix <A_k, A_l> = <a_k, a_l> <q_k, q_l> = V diag(s) V^T gives margins = V diag(s)^(1/2).
        Directions that rounding cannot tell from dependent ones get coordinates 0.
        """
        tokens, rows = data["tokens"], np.arange(data["tokens"].shape[0])
        count = tokens.shape[1] - 1
        signal = tokens[rows, data["optimal"]]
        differences = (signal[:, None] - others(tokens, data["optimal"])).reshape(-1, tokens.shape[2])
        queries = np.repeat(tokens[rows, data["query"]], count, axis=0)
        gram = (differences @ differences.T) * (queries @ queries.T)
        squares, vectors = np.linalg.eigh(gram)
        kept = squares > 1e-12 * squares[-1]
        lengths = np.sqrt(np.where(kept, squares, 0.0))
        combine = vectors * np.where(kept, 1 / np.where(kept, lengths, 1.0), 0.0)
        return cls(differences, queries, vectors * lengths, combine)

    def coordinates(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates of the part of a matrix (d, d) that lies in the span, shape (m,)."""
        return np.einsum("kd,kd->k", self.differences, self.queries @ matrix.T) @ self.combine

    def dense(self, coordinates: np.ndarray) -> np.ndarray:
        """The matrix (d, d) with these coordinates (m,)."""
        weights = self.combine @ coordinates
        return (self.differences * weights[:, None]).T @ self.queries  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DecoderSpan:
    """The span of all tokens.

    Attributes:
        tokens: coordinates of the tokens, the optimal one first, shape (n, T, r), r = min(n T, d).
        basis: orthonormal rows, shape (r, d).
    """

    tokens: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, data: Arrays) -> DecoderSpan:
        """The span for one data set (arrays of `data.sequences`)."""
        tokens = data["tokens"]
        signal = tokens[np.arange(tokens.shape[0]), data["optimal"]]
        ordered = np.concatenate([signal[:, None], others(tokens, data["optimal"])], axis=1)
        left, lengths, basis = np.linalg.svd(ordered.reshape(-1, tokens.shape[2]), full_matrices=False)
        return cls((left * lengths).reshape(*tokens.shape[:2], -1), basis)

    def dense(self, coordinates: np.ndarray) -> np.ndarray:
        """The decoder (d,) with these coordinates (r,)."""
        return coordinates @ self.basis


def others(tokens: np.ndarray, optimal: np.ndarray) -> np.ndarray:
    """The entries of all tokens but the optimal one, in their order: (n, T, ...) -> (n, T - 1, ...)."""
    n, T = tokens.shape[:2]
    keep = np.arange(T) != optimal[:, None]
    return tokens[keep].reshape(n, T - 1, *tokens.shape[2:])
