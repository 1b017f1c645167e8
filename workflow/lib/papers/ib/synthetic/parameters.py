"""What is trained, for several runs at once: in the coordinates of `span`, or W and u as they are.

Both give a layer the same logits and scores, from which on loss and slopes are the same (docs/papers/ib.md, section 6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic import kernels
from workflow.lib.papers.ib.synthetic.along import Along
from workflow.lib.papers.ib.synthetic.model import JointLayer, Layer
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan, optimal_first


class Parameters(ABC):
    """W, and u if it is trained, of several runs; at zero until `put`.

    Attributes:
        layer: what they make of the data, as of the last `evaluate`.
        values: "key_query", and "decoder" if trained, the runs leading.
        gradients: of the loss in each of them, as of the last `evaluate`.
    """

    values: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]

    def __init__(self, data: Sequence[Arrays], layer: Layer) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size."""
        self.layer, self.joint = layer, isinstance(layer, JointLayer)
        self.spans = [KeyQuerySpan.of(arrays) for arrays in data]
        self.decoders = [DecoderSpan.of(arrays) for arrays in data] if self.joint else []

    @abstractmethod
    def evaluate(self) -> None:
        """Compute layer and gradients at the present values."""

    @abstractmethod
    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:
        """Set one run to a matrix W (d, d), and u (d,) if it is trained."""

    @abstractmethod
    def gradient(self, run: int) -> list[np.ndarray]:
        """The gradients of one run in W (d, d), and in u (d,) if it is trained."""

    @abstractmethod
    def snapshot(self) -> Arrays:
        """Coordinates in the spans, `key_query` and `decoder`, shape (runs, size); norms of the rest, `outside_...`."""

    def final(self) -> Arrays:
        """What the last snapshot does not hold of the values, the runs leading."""
        return {}


class SpanParameters(Parameters):
    """Coordinates in the spans, for rules whose steps are the same there (`Traits.rotations`)."""

    def __init__(self, data: Sequence[Arrays], layer: Layer) -> None:
        super().__init__(data, layer)
        runs, samples, length = layer.scores.shape
        logits = -np.stack([span.margins.reshape(samples, length - 1, -1) for span in self.spans])
        scores = np.zeros((runs, samples, length, 0))
        if self.joint:
            labels = np.stack([arrays["labels"] for arrays in data])
            scores = -labels[:, :, None, None] * np.stack([span.tokens for span in self.decoders])
        maps = np.ascontiguousarray(logits), scores
        size = logits.shape[3]
        point, gradient = np.zeros((2, runs, size + scores.shape[3]))
        places = {"key_query": np.s_[:, :size]} | ({"decoder": np.s_[:, size:]} if self.joint else {})
        self.values = {name: point[place] for name, place in places.items()}
        self.gradients = {name: gradient[place] for name, place in places.items()}
        seen = layer.scores, layer.best, layer.attention, layer.output
        self._arrays = point, gradient, *maps, np.stack([*map(_reach, maps)]), *seen
        self._outside = np.zeros(runs)

    def evaluate(self) -> None:  # noqa: D102
        kernels.descend(*self._arrays, *_NO_STEP, -1, 0)

    def descend(self, rule: Along, first: int, last: int) -> None:
        """Take the steps first, ..., last - 1 from where `evaluate` was called last, and evaluate there."""
        kernels.descend(*self._arrays, *rule, first, last)

    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:  # noqa: D102
        self.values["key_query"][run], self._outside[run] = self.spans[run].split(key_query)
        if decoder is not None:
            self.values["decoder"][run] = self.decoders[run].basis @ decoder

    def gradient(self, run: int) -> list[np.ndarray]:  # noqa: D102
        spans: list[KeyQuerySpan | DecoderSpan] = [self.spans[run], *self.decoders[run : run + 1]]
        return [span.dense(slope[run]) for span, slope in zip(spans, self.gradients.values(), strict=True)]

    def snapshot(self) -> Arrays:
        """What W_0 has outside the span never changes; u starts in its span."""
        found = {name: value.copy() for name, value in self.values.items()}
        return found | {f"outside_{name}": self._outside * (name == "key_query") for name in self.values}


class PlainParameters(Parameters):
    """W (runs, d, d) and u (runs, d) themselves, right for any rule."""

    def __init__(self, data: Sequence[Arrays], layer: Layer) -> None:
        super().__init__(data, layer)
        tokens = np.stack([optimal_first(arrays) for arrays in data])
        runs, samples, _, d = tokens.shape
        rows = np.arange(samples)
        self._behind = tokens - tokens[:, :, :1]
        self._queries = np.stack([arrays["tokens"][rows, arrays["query"]] for arrays in data])
        self.values = {"key_query": np.zeros((runs, d, d))}
        if self.joint:
            self._signed = -np.stack([arrays["labels"] for arrays in data])[..., None, None] * tokens
            self.values["decoder"] = np.zeros((runs, d))
        self.gradients = {name: np.zeros_like(value) for name, value in self.values.items()}
        self._slopes = np.zeros_like(layer.scores), np.zeros_like(layer.scores)

    def evaluate(self) -> None:
        """In W the gradient is sum_i a_i q_i^T with a_i = sum_t slope_{i,t} (x_t - x_opt): one product of rank n."""
        layer, (logit_slopes, score_slopes) = self.layer, self._slopes
        turned = self._queries @ self.values["key_query"].swapaxes(1, 2)  # row i: W q_i
        logits = (self._behind @ turned[..., None])[..., 0]
        if self.joint:
            layer.scores[:] = (self._signed @ self.values["decoder"][:, None, :, None])[..., 0]
        kernels.slopes(logits, layer.scores, layer.best, layer.attention, layer.output, logit_slopes, score_slopes)
        sums = (logit_slopes[:, :, None] @ self._behind)[:, :, 0]
        np.matmul(sums.swapaxes(1, 2), self._queries, out=self.gradients["key_query"])
        if self.joint:
            self.gradients["decoder"][:] = (score_slopes[:, :, None] @ self._signed)[:, :, 0].sum(1)

    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:  # noqa: D102
        self.values["key_query"][run] = key_query
        if decoder is not None:
            self.values["decoder"][run] = decoder

    def gradient(self, run: int) -> list[np.ndarray]:  # noqa: D102
        return [gradient[run].copy() for gradient in self.gradients.values()]

    def snapshot(self) -> Arrays:  # noqa: D102
        found: Arrays = {}
        for name, value in self.values.items():
            spans: Sequence[KeyQuerySpan | DecoderSpan] = self.spans if name == "key_query" else self.decoders
            parts = [span.split(own) for span, own in zip(spans, value, strict=True)]
            found[name] = np.stack([inside for inside, _ in parts])
            found[f"outside_{name}"] = np.array([outside for _, outside in parts])
        return found

    def final(self) -> Arrays:  # noqa: D102
        return {f"final_{name}": value.copy() for name, value in self.values.items()}


_NO_STEP = Along(np.zeros(2), np.zeros(2), np.zeros((2, 2), bool), 0)


def _reach(maps: np.ndarray) -> np.ndarray:
    """From which coordinate on a sample's rows are 0: (runs, n, rows, size) -> (runs, n)."""
    return ((maps != 0).any(2) * np.arange(1, maps.shape[3] + 1)).max(2, initial=0)  # type: ignore[no-any-return]
