"""What is trained, for several runs at once: in the coordinates of `span`, or W and u as they are.

Both give a layer the same features, from which on loss and slopes are the same (docs/papers/ib.md, sections 4 and 6):
the logits relative to the optimal token's, and where u is trained the negative scores -y u^T x_t; n T of each for every
run, sequence by sequence, the optimal token first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan, optimal_first


class Parameters(ABC):
    """W, and u if it is trained, of several runs; at zero until `put`.

    Attributes:
        tensors: "key_query", and "decoder" if trained, the runs leading, with gradients beside them.
        features: shape (runs, n T), or (runs, 2 n T) if u is trained; filled by `map`.
        slopes: n times the derivatives of the loss in the features, which `pull_back` reads.
    """

    tensors: dict[str, torch.Tensor]

    def __init__(self, data: Sequence[Arrays], joint: bool) -> None:
        """Take the data sets of the runs (arrays of `data.sequences`), all of one size."""
        self.samples, self.length, _ = data[0]["tokens"].shape
        self.spans = [KeyQuerySpan.of(arrays) for arrays in data]
        self.decoders = [DecoderSpan.of(arrays) for arrays in data] if joint else []
        self.features = torch.zeros(len(data), (1 + joint) * self.samples * self.length, dtype=torch.float64)
        self.slopes = torch.zeros_like(self.features)

    @abstractmethod
    def map(self) -> None:
        """From the tensors to `features`."""

    @abstractmethod
    def pull_back(self) -> None:
        """From `slopes` to the gradients of the tensors."""

    @abstractmethod
    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:
        """Set one run to a matrix W (d, d), and u (d,) if it is trained."""

    @abstractmethod
    def gradients(self, run: int) -> list[np.ndarray]:
        """The gradients of one run in W (d, d), and in u (d,) if it is trained."""

    @abstractmethod
    def snapshot(self) -> dict[str, torch.Tensor]:
        """Coordinates in the spans, `key_query` and `decoder`, shape (runs, size); norms of the rest, `outside_...`."""

    def final(self) -> Arrays:
        """What the last snapshot does not hold of the parameters, the runs leading."""
        return {}


class SpanParameters(Parameters):
    """Coordinates in the spans, for rules whose steps are the same there (`Traits.rotations`).

    Attributes:
        joined: one tensor with all coordinates side by side, shape (runs, m + r); `tensors` are its views.
    """

    def __init__(self, data: Sequence[Arrays], joint: bool) -> None:
        super().__init__(data, joint)
        features = np.stack([_logits(span, self.samples) for span in self.spans])
        sizes = {"key_query": features.shape[2]}
        if joint:
            # One block-diagonal map, because one product is faster than two.
            tokens = np.stack([span.tokens for span in self.decoders])
            scores = -np.stack([arrays["labels"] for arrays in data])[..., None, None] * tokens
            rows, logits = features.shape[1], features
            sizes["decoder"] = scores.shape[3]
            features = np.zeros((len(data), 2 * rows, sum(sizes.values())))
            features[:, :rows, : sizes["key_query"]] = logits
            features[:, rows:, sizes["key_query"] :] = scores.reshape(len(data), rows, -1)
        self.joined = torch.zeros(len(data), features.shape[2], dtype=torch.float64)
        self.joined.grad = torch.zeros_like(self.joined)
        self.tensors = {}
        start = 0
        for name, size in sizes.items():
            self.tensors[name] = self.joined[:, start : start + size]
            self.tensors[name].grad = self.joined.grad[:, start : start + size]
            start += size
        self._outside = torch.zeros(len(data), dtype=torch.float64)
        # Rows times contiguous matrices, into standing buffers: torch's fast path for products of this shape.
        self._to_features = torch.from_numpy(np.ascontiguousarray(features.transpose(0, 2, 1)))
        self._to_gradient = torch.from_numpy(features / self.samples)
        self._rows = [t[:, None] for t in (self.joined, self.features, self.slopes, self.joined.grad)]

    def map(self) -> None:  # noqa: D102
        torch.bmm(self._rows[0], self._to_features, out=self._rows[1])

    def pull_back(self) -> None:  # noqa: D102
        torch.bmm(self._rows[2], self._to_gradient, out=self._rows[3])

    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:  # noqa: D102
        inside, self._outside[run] = self.spans[run].split(key_query)
        self.tensors["key_query"][run] = torch.from_numpy(inside)
        if decoder is not None:
            self.tensors["decoder"][run] = torch.from_numpy(self.decoders[run].basis @ decoder)

    def gradients(self, run: int) -> list[np.ndarray]:  # noqa: D102
        spans: list[KeyQuerySpan | DecoderSpan] = [self.spans[run], *self.decoders[run : run + 1]]
        pairs = zip(spans, self.tensors.values(), strict=True)
        return [span.dense(tensor.grad[run].numpy()) for span, tensor in pairs]  # type: ignore[index]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """What W_0 has outside the span never changes; u starts in its span."""
        found = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return found | {f"outside_{name}": self._outside * (name == "key_query") for name in self.tensors}


class PlainParameters(Parameters):
    """W (runs, d, d) and u (runs, d) themselves, right for any rule."""

    def __init__(self, data: Sequence[Arrays], joint: bool) -> None:
        super().__init__(data, joint)
        tokens = np.stack([optimal_first(arrays) for arrays in data])
        rows = np.arange(self.samples)
        d = tokens.shape[3]
        self._behind = torch.from_numpy(tokens - tokens[:, :, :1])
        self._queries = torch.from_numpy(np.stack([arrays["tokens"][rows, arrays["query"]] for arrays in data]))
        self.tensors = {"key_query": torch.zeros(len(data), d, d, dtype=torch.float64)}
        if joint:
            signed = -np.stack([arrays["labels"] for arrays in data])[..., None, None] * tokens
            self._signed = torch.from_numpy(signed.reshape(len(data), -1, d))
            self.tensors["decoder"] = torch.zeros(len(data), d, dtype=torch.float64)
        self._gradients = {name: torch.zeros_like(tensor) for name, tensor in self.tensors.items()}
        shape = (len(data), 1 + joint, self.samples, self.length)
        self._features, self._slopes = (t.view(shape).unbind(1) for t in (self.features, self.slopes))

    def map(self) -> None:  # noqa: D102
        turned = torch.bmm(self._queries, self.tensors["key_query"].transpose(1, 2))  # row i: W q_i
        self._features[0].copy_((self._behind @ turned[..., None])[..., 0])
        if "decoder" in self.tensors:
            scores = torch.bmm(self._signed, self.tensors["decoder"][..., None])
            self._features[1].copy_(scores.view_as(self._features[1]))

    def pull_back(self) -> None:
        """In W the gradient is sum_i a_i q_i^T with a_i = sum_t slope_{i,t} (x_t - x_opt): one product of rank n."""
        sums = (self._slopes[0][:, :, None] @ self._behind)[:, :, 0] / self.samples
        torch.bmm(sums.transpose(1, 2), self._queries, out=self._gradients["key_query"])
        if "decoder" in self.tensors:
            slopes = self._slopes[1].reshape(len(sums), 1, -1)
            torch.bmm(slopes / self.samples, self._signed, out=self._gradients["decoder"][:, None])
        for name, tensor in self.tensors.items():
            tensor.grad = self._gradients[name]

    def put(self, run: int, key_query: np.ndarray, decoder: np.ndarray | None = None) -> None:  # noqa: D102
        self.tensors["key_query"][run] = torch.from_numpy(key_query)
        if decoder is not None:
            self.tensors["decoder"][run] = torch.from_numpy(decoder)

    def gradients(self, run: int) -> list[np.ndarray]:  # noqa: D102
        return [gradient[run].numpy().copy() for gradient in self._gradients.values()]

    def snapshot(self) -> dict[str, torch.Tensor]:  # noqa: D102
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.tensors.items():
            spans: Sequence[KeyQuerySpan | DecoderSpan] = self.spans if name == "key_query" else self.decoders
            parts = [span.split(values.numpy()) for span, values in zip(spans, tensor, strict=True)]
            found[name] = torch.from_numpy(np.stack([inside for inside, _ in parts]))
            found[f"outside_{name}"] = torch.tensor([outside for _, outside in parts], dtype=torch.float64)
        return found

    def final(self) -> Arrays:  # noqa: D102
        return {f"final_{name}": tensor.numpy().copy() for name, tensor in self.tensors.items()}


def _logits(span: KeyQuerySpan, n: int) -> np.ndarray:
    """The map from w to all logits, relative to the optimal token's, which comes first: shape (n T, m)."""
    m = span.margins.shape[1]
    rows = -span.margins.reshape(n, -1, m)
    return np.concatenate([np.zeros((n, 1, m)), rows], axis=1).reshape(-1, m)
