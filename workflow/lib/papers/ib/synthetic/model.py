"""What one self-attention layer makes of its samples, and its loss, for several runs (docs/papers/ib.md, section 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.span import others


class Layer(ABC):
    """Phi(W, u; X) = u^T X^T softmax(X W q) on the data of several runs, as `Parameters.evaluate` found it last.

    The loops of `kernels` write it. Of every sample the optimal token comes first.

    Attributes:
        scores: how far the tokens score behind `best`, shape (runs, n, T).
        best: shape (runs, n).
        attention: shape (runs, n, T).
        output: best - y Phi, the mean of the scores under the attention, shape (runs, n).
    """

    def __init__(self, best: np.ndarray, scores: np.ndarray) -> None:
        self.best, self.scores = best, scores
        self.attention, self.output = np.zeros_like(scores), np.zeros_like(best)

    @abstractmethod
    def gap(self) -> np.ndarray:
        """Loss minus its infimum over what is trained, shape (runs,)."""

    @abstractmethod
    def loss(self) -> np.ndarray:
        """The loss itself, shape (runs,)."""

    def distraction(self) -> np.ndarray:
        """Attention on all but the optimal token, 1 - p_opt, mean over the samples, shape (runs,)."""
        return np.asarray(self.attention[:, :, 1:].sum(2).mean(1))


class FixedDecoderLayer(Layer):
    """The layer with W trained and u fixed: the optimal tokens' scores are the best that can be had.

    With score differences D_t = gamma_opt - gamma_t and delta = sum_t p_t D_t, a sample's margin is
    y Phi = gamma_opt - delta, and its loss exceeds the floor by log1p(sigmoid(-gamma_opt) expm1(delta)).
    """

    def __init__(self, data: Sequence[Arrays]) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size."""
        best, behind = zip(*(_scores(arrays) for arrays in data), strict=True)
        super().__init__(np.stack(best), np.stack(behind))

    def gap(self) -> np.ndarray:  # noqa: D102
        return np.log1p(np.expm1(self.output) / (1 + np.exp(self.best))).mean(1)

    def loss(self) -> np.ndarray:  # noqa: D102
        outputs = (self.attention * (self.best[:, :, None] - self.scores)).sum(2)
        return np.logaddexp(0.0, -outputs).mean(1)


class JointLayer(Layer):
    """The layer with W and u trained together, whose loss has the infimum 0: scores are -y u^T x_t, behind 0."""

    def __init__(self, data: Sequence[Arrays]) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size."""
        samples, length, _ = data[0]["tokens"].shape
        super().__init__(np.zeros((len(data), samples)), np.zeros((len(data), samples, length)))

    def gap(self) -> np.ndarray:  # noqa: D102
        return np.logaddexp(0.0, self.output).mean(1)

    def loss(self) -> np.ndarray:  # noqa: D102
        return self.gap()


def _scores(data: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """With the fixed decoder: the optimal tokens' scores (n,), and how far each token scores behind (n, T), 0 first."""
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    best = np.take_along_axis(scores, data["optimal"][:, None], axis=1)
    return best[:, 0], np.concatenate([np.zeros_like(best), best - others(scores, data["optimal"])], axis=1)
