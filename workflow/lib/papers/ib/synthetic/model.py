"""Loss and slopes of one self-attention layer, stacked over runs, from the features of its `parameters`.

Nothing is formed by subtracting nearly equal numbers: late in training attention on the optimal token differs
from 1, and the loss from its floor, by as little as 1e-200 (docs/papers/ib.md, section 4.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.parameters import Parameters
from workflow.lib.papers.ib.synthetic.span import others


class Layer(ABC):
    """Phi(W, u; X) = u^T X^T softmax(X W q) on the data of several runs; arrays of tokens have the shape (runs, T, n).

    `evaluate` sets the gradients of the parameters; `gap` and `distraction` then speak of the same point.
    """

    _attention: torch.Tensor

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def evaluate(self) -> None:
        """Compute everything at the present parameters, gradients included."""
        self.parameters.map()
        self._evaluate()
        self.parameters.pull_back()

    @abstractmethod
    def _evaluate(self) -> None:
        """From the features to `slopes`, n times the derivative of the loss in each of them."""

    @abstractmethod
    def gap(self) -> torch.Tensor:
        """Loss minus its infimum over what is trained, shape (runs,)."""

    @abstractmethod
    def loss(self) -> torch.Tensor:
        """The loss itself, shape (runs,)."""

    def distraction(self) -> torch.Tensor:
        """Attention on all but the optimal token, 1 - p_opt, mean over the samples, shape (runs,)."""
        return self._attention[:, 1:].sum(1).mean(-1)


class FixedDecoderLayer(Layer):
    """The layer with W trained and u fixed.

    With margins m_t of the non-optimal tokens, p = softmax(0, -m), score differences D_t = gamma_opt - gamma_t and
    delta = sum_t p_t D_t, a sample's margin is y Phi = gamma_opt - delta, its loss exceeds the floor by
    log1p(sigmoid(-gamma_opt) expm1(delta)), and dL/dlogit_t = (1/n) sigmoid(delta - gamma_opt) p_t (D_t - delta).
    """

    def __init__(self, data: Sequence[Arrays], parameters: Parameters) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size, with what is trained."""
        super().__init__(parameters)
        shape = (len(data), parameters.length, parameters.samples)
        self._logits, self._logit_slopes = (t.view(shape) for t in (parameters.features, parameters.slopes))
        best, behind = zip(*(_scores(arrays) for arrays in data), strict=True)
        self._best = torch.from_numpy(np.stack(best))[:, None]
        self._behind = torch.from_numpy(np.stack(behind).swapaxes(1, 2).copy())
        self._floor_slope = torch.sigmoid(-self._best)

    def _evaluate(self) -> None:
        self._attention = torch.softmax(self._logits, 1)
        self._delta = (self._attention * self._behind).sum(1, keepdim=True)
        slopes = torch.sub(self._behind, self._delta, out=self._logit_slopes)
        slopes.mul_(self._attention).mul_(torch.sigmoid(self._delta - self._best))

    def gap(self) -> torch.Tensor:  # noqa: D102
        return torch.log1p(self._floor_slope * torch.expm1(self._delta)).mean((1, 2))

    def loss(self) -> torch.Tensor:  # noqa: D102
        outputs = (self._attention * (self._best - self._behind)).sum(1)
        return torch.nn.functional.softplus(-outputs).mean(-1)


class JointLayer(Layer):
    """The layer with W and u trained together; the infimum of the loss is 0.

    With scores -gamma_t = -y u^T x_t, -Phi = -sum_t p_t gamma_t and s = sigmoid(-Phi):
    dL/d(-gamma_t) = (1/n) s p_t and dL/dlogit_t = (1/n) s p_t (Phi - gamma_t).
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        shape = (-1, 2, parameters.length, parameters.samples)
        self._logits, self._scores = parameters.features.view(shape).unbind(1)
        self._logit_slopes, self._score_slopes = parameters.slopes.view(shape).unbind(1)

    def _evaluate(self) -> None:
        self._attention = torch.softmax(self._logits, 1)
        self._output = (self._attention * self._scores).sum(1, keepdim=True)
        torch.mul(self._attention, torch.sigmoid(self._output), out=self._score_slopes)
        torch.sub(self._scores, self._output, out=self._logit_slopes).mul_(self._score_slopes)

    def gap(self) -> torch.Tensor:  # noqa: D102
        # Above the threshold torch takes softplus(x) = x: exact there in float64.
        return torch.nn.functional.softplus(self._output, threshold=40.0).mean((1, 2))

    def loss(self) -> torch.Tensor:  # noqa: D102
        return self.gap()


def _scores(data: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """With the fixed decoder: the optimal tokens' scores (n,), and how far each token scores behind (n, T), 0 first."""
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    best = np.take_along_axis(scores, data["optimal"][:, None], axis=1)
    return best[:, 0], np.concatenate([np.zeros_like(best), best - others(scores, data["optimal"])], axis=1)
