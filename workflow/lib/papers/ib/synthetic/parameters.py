"""What is trained, for several runs at once: in the coordinates of `span`, or W and u as they are.

Both give a layer the same features, from which on loss and slopes are the same (docs/papers/ib.md, sections 4 and 6):
the logits relative to the optimal token's, and where u is trained the negative scores -y u^T x_t; n T of each for every
run, token by token (the optimal ones first), the sequences inside: sums over tokens are then sums of whole rows, four
times as fast as sums of a few neighbours.
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
        joined: one tensor with all coordinates side by side, shape (runs, m), or (runs, 2 max(m, r)) if u is trained,
            where the shorter part is filled up with zeros that never move; `tensors` are its views.
    """

    def __init__(self, data: Sequence[Arrays], joint: bool) -> None:
        super().__init__(data, joint)
        parts = {"key_query": np.stack([_logits(span, self.samples) for span in self.spans])}
        if joint:
            tokens = np.stack([span.tokens for span in self.decoders])
            scores = -np.stack([arrays["labels"] for arrays in data])[..., None, None] * tokens
            parts["decoder"] = scores.swapaxes(1, 2).reshape(len(data), -1, scores.shape[3])
        size = max(part.shape[2] for part in parts.values())
        self.joined = torch.zeros(len(data), len(parts) * size, dtype=torch.float64)
        self.joined.grad = torch.zeros_like(self.joined)
        self.tensors = {}
        maps = np.zeros((len(data), len(parts), self.samples * self.length, size))
        for number, (name, part) in enumerate(parts.items()):
            own = slice(number * size, number * size + part.shape[2])
            self.tensors[name] = self.joined[:, own]
            self.tensors[name].grad = self.joined.grad[:, own]
            maps[:, number, :, : part.shape[2]] = part
        self._outside = torch.zeros(len(data), dtype=torch.float64)
        # Rows times matrices, into standing buffers: torch's fast path for products of this shape. One product for the
        # parts of all runs, and both ways read the same matrices, since what is read is what a step costs.
        self._map = torch.from_numpy(maps.reshape(-1, *maps.shape[2:]))
        self._turned = self._map.transpose(1, 2)
        every = (self.joined, self.features, self.slopes, self.joined.grad)
        self._rows = [t.view(len(self._map), 1, -1) for t in every]

    def map(self) -> None:  # noqa: D102
        torch.bmm(self._rows[0], self._turned, out=self._rows[1])

    def pull_back(self) -> None:  # noqa: D102
        *_, slopes, gradient = self._rows
        torch.baddbmm(gradient, slopes, self._map, beta=0, alpha=1 / self.samples, out=gradient)

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
        shape = (len(data), 1 + joint, self.length, self.samples)
        both = (t.view(shape).transpose(2, 3) for t in (self.features, self.slopes))
        self._features, self._slopes = (t.unbind(1) for t in both)

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
    """The map from w to all logits, relative to the optimal token's, which comes first: shape (T n, m)."""
    m = span.margins.shape[1]
    rows = -span.margins.reshape(n, -1, m).swapaxes(0, 1)
    return np.concatenate([np.zeros((n, m)), rows.reshape(-1, m)])
