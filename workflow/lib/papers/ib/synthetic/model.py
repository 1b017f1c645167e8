"""Loss and gradient of one self-attention layer, stacked over runs, in the coordinates of `span`.

Nothing is formed by subtracting nearly equal numbers: late in training attention on the optimal token differs
from 1, and the loss from its floor, by as little as 1e-200 (docs/papers/ib.md, section 4.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan, others


class Layer(ABC):
    """Phi(W, u; X) = u^T X^T softmax(X W q) on the data of several runs.

    `evaluate` sets the gradients of the parameters; `gap` and `distraction` then speak of the same point.

    Attributes:
        parameters: named tensors (runs, size) with gradients beside them: "key_query", and "decoder" if trained.
        joined: one tensor with all of them side by side; they are its views.
    """

    parameters: dict[str, torch.Tensor]
    joined: torch.Tensor
    _attention: torch.Tensor

    def __init__(self, features: np.ndarray, samples: int, sizes: dict[str, int]) -> None:
        """Start at zero.

        Args:
            features: the linear map from all parameters to the features of `_evaluate`, shape
                (runs, features, sum(sizes)).
            samples: n, over which the gradient is a mean.
            sizes: name -> size of each parameter.
        """
        runs, count, size = features.shape
        self.joined = torch.zeros(runs, size, dtype=torch.float64)
        self.joined.grad = torch.zeros_like(self.joined)
        ends = np.cumsum(list(sizes.values())).tolist()
        self.parameters = {}
        for name, width, end in zip(sizes, sizes.values(), ends, strict=True):
            self.parameters[name] = self.joined[:, end - width : end]
            self.parameters[name].grad = self.joined.grad[:, end - width : end]
        # Rows times contiguous matrices, into standing buffers: torch's fast path for products of this shape.
        self._to_features = torch.from_numpy(np.ascontiguousarray(features.transpose(0, 2, 1)))
        self._to_gradient = torch.from_numpy(features / samples)
        self._features = torch.empty(runs, count, dtype=torch.float64)
        self._slopes = torch.empty_like(self._features)
        self._rows = [t[:, None] for t in (self.joined, self._features, self._slopes, self.joined.grad)]

    def evaluate(self) -> None:
        """Compute everything at the present parameters, gradients included."""
        parameters, features, slopes, gradient = self._rows
        torch.bmm(parameters, self._to_features, out=features)
        self._evaluate()
        torch.bmm(slopes, self._to_gradient, out=gradient)

    @abstractmethod
    def _evaluate(self) -> None:
        """From `_features` to `_slopes`, n times the derivative of the loss in each of them."""

    @abstractmethod
    def gap(self) -> torch.Tensor:
        """Loss minus its infimum over what is trained, shape (runs,)."""

    @abstractmethod
    def loss(self) -> torch.Tensor:
        """The loss itself, shape (runs,)."""

    def distraction(self) -> torch.Tensor:
        """Attention on all but the optimal token, 1 - p_opt, mean over the samples, shape (runs,)."""
        return self._attention[..., 1:].sum(-1).mean(-1)


class FixedDecoderLayer(Layer):
    """The layer with W trained and u fixed.

    With margins m_t of the non-optimal tokens, p = softmax(0, -m), score differences D_t = gamma_opt - gamma_t and
    delta = sum_t p_t D_t, a sample's margin is y Phi = gamma_opt - delta, its loss exceeds the floor by
    log1p(sigmoid(-gamma_opt) expm1(delta)), and dL/dlogit_t = (1/n) sigmoid(delta - gamma_opt) p_t (D_t - delta).
    """

    def __init__(self, data: Sequence[Arrays], spans: Sequence[KeyQuerySpan]) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size, with their spans."""
        n, T, _ = data[0]["tokens"].shape
        features = np.stack([_logits(span, n) for span in spans])
        super().__init__(features, n, {"key_query": features.shape[2]})
        self._logits, self._logit_slopes = (t.view(-1, n, T) for t in (self._features, self._slopes))
        best, behind = zip(*(_scores(arrays) for arrays in data), strict=True)
        self._best = torch.from_numpy(np.stack(best))[..., None]
        self._behind = torch.from_numpy(np.stack(behind))
        self._floor_slope = torch.sigmoid(-self._best)

    def _evaluate(self) -> None:
        self._attention = torch.softmax(self._logits, -1)
        self._delta = (self._attention * self._behind).sum(-1, keepdim=True)
        slopes = torch.sub(self._behind, self._delta, out=self._logit_slopes)
        slopes.mul_(self._attention).mul_(torch.sigmoid(self._delta - self._best))

    def gap(self) -> torch.Tensor:  # noqa: D102
        return torch.log1p(self._floor_slope * torch.expm1(self._delta)).mean((1, 2))

    def loss(self) -> torch.Tensor:  # noqa: D102
        outputs = (self._attention * (self._best - self._behind)).sum(-1)
        return torch.nn.functional.softplus(-outputs).mean(-1)


class JointLayer(Layer):
    """The layer with W and u trained together; the infimum of the loss is 0.

    With scores -gamma_t = -y u^T x_t, -Phi = -sum_t p_t gamma_t and s = sigmoid(-Phi):
    dL/d(-gamma_t) = (1/n) s p_t and dL/dlogit_t = (1/n) s p_t (Phi - gamma_t).
    """

    def __init__(self, data: Sequence[Arrays], spans: Sequence[KeyQuerySpan], decoders: Sequence[DecoderSpan]) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size, with their spans."""
        self.decoders = decoders
        n, T, _ = data[0]["tokens"].shape
        logits = np.stack([_logits(span, n) for span in spans])
        tokens = np.stack([span.tokens for span in decoders])
        scores = -np.stack([arrays["labels"] for arrays in data])[..., None, None] * tokens
        sizes = {"key_query": logits.shape[2], "decoder": scores.shape[3]}
        # One block-diagonal map, because one product is faster than two.
        features = np.zeros((len(data), 2 * n * T, sum(sizes.values())))
        features[:, : n * T, : sizes["key_query"]] = logits
        features[:, n * T :, sizes["key_query"] :] = scores.reshape(len(data), n * T, -1)
        super().__init__(features, n, sizes)
        self._logits, self._scores = self._features.view(-1, 2, n, T).unbind(1)
        self._logit_slopes, self._score_slopes = self._slopes.view(-1, 2, n, T).unbind(1)

    def _evaluate(self) -> None:
        self._attention = torch.softmax(self._logits, -1)
        self._output = (self._attention * self._scores).sum(-1, keepdim=True)
        torch.mul(self._attention, torch.sigmoid(self._output), out=self._score_slopes)
        torch.sub(self._scores, self._output, out=self._logit_slopes).mul_(self._score_slopes)

    def gap(self) -> torch.Tensor:  # noqa: D102
        # Above the threshold torch takes softplus(x) = x: exact there in float64.
        return torch.nn.functional.softplus(self._output, threshold=40.0).mean((1, 2))

    def loss(self) -> torch.Tensor:  # noqa: D102
        return self.gap()


def _logits(span: KeyQuerySpan, n: int) -> np.ndarray:
    """The map from w to all logits, relative to the optimal token's, which comes first: shape (n T, m)."""
    m = span.margins.shape[1]
    rows = -span.margins.reshape(n, -1, m)
    return np.concatenate([np.zeros((n, 1, m)), rows], axis=1).reshape(-1, m)


def _scores(data: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """With the fixed decoder: the optimal tokens' scores (n,), and how far each token scores behind (n, T), 0 first."""
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    best = np.take_along_axis(scores, data["optimal"][:, None], axis=1)
    return best[:, 0], np.concatenate([np.zeros_like(best), best - others(scores, data["optimal"])], axis=1)
