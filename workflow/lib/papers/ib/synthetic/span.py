"""Coordinates in which training is small: orthonormal bases of the spaces that W and u move in.

The gradient in W is a combination of the m = n (T - 1) rank-one matrices A_k = (x_opt - x_t) q^T, one per
non-optimal token, and <A_k, W> is the margin of that token. In an orthonormal basis of their span W is a vector
w of m numbers, every margin is linear in w, norms and inner products are those of the matrices, and so every
rule that commutes with rotations takes the same steps as on W itself, for m^2 instead of n d^2 operations. What a
random W_0 has outside the span never changes: only its norm is needed. The same holds for u in the span of the tokens.

The bases are those of Gram and Schmidt: the k-th matrix, or token, has no coordinates beyond the k-th, which halves
what a step reads.

Other rules move W out of the span. They are trained on W itself; what is kept of a step is W's part in the span, which
is all that alignments need, and the norm of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow.lib.files import Arrays


@dataclass(frozen=True)
class KeyQuerySpan:
    """The span of A_k = a_k q_k^T.

    Attributes:
        differences: a_k = x_opt - x_t, shape (n, T - 1, d).
        queries: q_k, which all k of a sequence share, shape (n, d).
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

        Its Gram matrix <A_k, A_l> = <a_k, a_l> <q_k, q_l> = L L^T gives margins = L.
        """
        tokens, rows = data["tokens"], np.arange(data["tokens"].shape[0])
        ordered = optimal_first(data)
        differences = ordered[:, :1] - ordered[:, 1:]
        queries = tokens[rows, data["query"]]
        flat = differences.reshape(-1, tokens.shape[2])
        same = np.repeat(queries, tokens.shape[1] - 1, axis=0)
        return cls(differences, queries, *_roots((flat @ flat.T) * (same @ same.T)))

    def coordinates(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates of the part of a matrix (d, d) that lies in the span, shape (m,)."""
        margins = self.differences @ (self.queries @ matrix.T)[:, :, None]
        return margins.ravel() @ self.combine  # type: ignore[no-any-return]

    def dense(self, coordinates: np.ndarray) -> np.ndarray:
        """The matrix (d, d) with these coordinates (m,)."""
        weights = (self.combine @ coordinates).reshape(len(self.queries), 1, -1)
        return (weights @ self.differences)[:, 0].T @ self.queries  # type: ignore[no-any-return]

    def split(self, matrix: np.ndarray) -> tuple[np.ndarray, float]:
        """Coordinates of a matrix (d, d), shape (m,), and the norm of its part outside the span."""
        inside = self.coordinates(matrix)
        return inside, float(np.linalg.norm(matrix - self.dense(inside)))

    def constraints(self) -> np.ndarray:
        """The A_k as rows, shape (m, d^2): for small data only."""
        rows = self.differences[:, :, :, None] * self.queries[:, None, None, :]
        return rows.reshape(rows.shape[0] * rows.shape[1], -1)  # type: ignore[no-any-return]


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
        basis, coordinates = np.linalg.qr(optimal_first(data).reshape(-1, tokens.shape[2]).T)
        return cls(coordinates.T.reshape(*tokens.shape[:2], -1), basis.T)

    def dense(self, coordinates: np.ndarray) -> np.ndarray:
        """The decoder (d,) with these coordinates (r,)."""
        return coordinates @ self.basis

    def split(self, vector: np.ndarray) -> tuple[np.ndarray, float]:
        """Coordinates of a decoder (d,), shape (r,), and the norm of its part outside the span."""
        inside = self.basis @ vector
        return inside, float(np.linalg.norm(vector - self.dense(inside)))


def _roots(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R with R R^T = gram, and the transposed inverse of R; both of the shape of gram.

    R is lower triangular, except where rounding cannot tell some directions from dependent ones, which then get
    coordinates 0: gram = V diag(s) V^T gives R = V diag(s)^(1/2).
    """
    try:
        root = np.linalg.cholesky(gram)
        if root.diagonal().min() ** 2 > 1e-12 * gram.diagonal().max():
            return root, np.linalg.inv(root).T
    except np.linalg.LinAlgError:
        pass
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > 1e-12 * squares[-1]
    lengths = np.sqrt(np.where(kept, squares, 0.0))
    return vectors * lengths, vectors * np.where(kept, 1 / np.where(kept, lengths, 1.0), 0.0)


def optimal_first(data: Arrays) -> np.ndarray:
    """The tokens (n, T, d), each sequence's optimal one moved to the front."""
    tokens = data["tokens"]
    signal = tokens[np.arange(tokens.shape[0]), data["optimal"]]
    return np.concatenate([signal[:, None], others(tokens, data["optimal"])], axis=1)


def others(tokens: np.ndarray, optimal: np.ndarray) -> np.ndarray:
    """The entries of all tokens but the optimal one, in their order: (n, T, ...) -> (n, T - 1, ...)."""
    n, T = tokens.shape[:2]
    keep = np.arange(T) != optimal[:, None]
    return tokens[keep].reshape(n, T - 1, *tokens.shape[2:])
