"""Layers of small nets that train several runs at once, with their gradients written out.

At laptop scale the arithmetic of a step takes less time than autograd's book-keeping and the views it works on. So
the runs of several seeds go through one matrix product each, gradients land in one buffer without autograd, and every
view of the weights is made once. Run r of a stack computes what it would compute alone.

Letters in shapes: R runs, T tokens (class token first), B examples of a batch, N = T B rows, D embedding dimension,
H heads, K dimension per head. The rows of an activation (R, N, D) are sorted by token: the class tokens of a batch are
its first B rows, and a batch is the inner loop of everything that goes from token to token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED = 16  # numbers of 4 bytes in 64


class Parameters:
    """The weights of R runs in one leaf (R, all entries), and their gradients in another.

    An optimizer then takes its step, and its norm, with one kernel instead of one per tensor. Every tensor of every run
    begins at a multiple of 64 bytes, filled up with zeros that never move: matrix products add up in an order that
    depends on where their operands lie, and a run must not depend on its place in the stack.

    Args:
        runs: the first weights of each run, by name.
        device: where they lie.
    """

    def __init__(self, runs: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in runs[0].items()}
        some = next(iter(runs[0].values()))
        sizes = [-(-math.prod(shape) // ALIGNED) * ALIGNED for shape in self.shapes.values()]
        self.flat = torch.zeros(len(runs), sum(sizes), dtype=some.dtype, device=device)
        self.flat.grad = torch.zeros_like(self.flat)
        self.weights, self.gradients = (self._named(flat, sizes) for flat in (self.flat, self.flat.grad))
        for row, run in enumerate(runs):
            for name, weight in self.weights.items():
                weight[row] = run[name]

    def separate(self) -> list[Tensor]:
        """The same memory as one leaf (R, ...) per tensor, for rules that treat tensors one by one."""
        for name, weight in self.weights.items():
            weight.grad = self.gradients[name]
        return list(self.weights.values())

    def _named(self, flat: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        parts = zip(self.shapes.items(), torch.split(flat, sizes, dim=1), strict=True)
        return {name: part[:, : math.prod(shape)].view(len(flat), *shape) for (name, shape), part in parts}


class Linear:
    """x W^T + b, run by run, if asked for with the layer normalisation before it.

    The weights g and h of a normalisation are multiplied into the map, W (g x + h) + b = (W g) x + (W h + b), because
    W has fewer entries than the activations.

    Args:
        parameters: where weights and gradients are.
        name: of the map: `{name}.weight` (R, out, in) and perhaps `{name}.bias` (R, out).
        norm: of the normalisation: `{norm}.weight` and `{norm}.bias` (R, in); inputs then come from `normalise`.
    """

    def __init__(self, parameters: Parameters, name: str, norm: str | None = None) -> None:
        weights, gradients = parameters.weights, parameters.gradients
        self.given, self.given_gradient = weights[f"{name}.weight"], gradients[f"{name}.weight"]
        self.weight, self.weight_gradient = self.given, self.given_gradient
        bias = weights.get(f"{name}.bias")
        self.bias = None if bias is None else bias.unsqueeze(1)
        self.bias_gradient = None if bias is None else gradients[f"{name}.bias"].unsqueeze(1)
        self.normed = norm is not None
        if norm is not None:
            self.scale, self.scale_gradient = (x[f"{norm}.weight"].unsqueeze(1) for x in (weights, gradients))
            self.shift, self.shift_gradient = (x[f"{norm}.bias"].unsqueeze(1) for x in (weights, gradients))
            self.weight, self.weight_gradient = torch.empty_like(self.given), torch.empty_like(self.given)
            self.given_turned = self.given.transpose(1, 2)
            self.plain_bias = torch.zeros_like(self.given[:, :1, :1]) if self.bias is None else self.bias
            self.bias = self.given.new_empty(len(self.given), 1, self.given.shape[1])
            if self.bias_gradient is None:
                self.bias_gradient = torch.empty_like(self.bias)
            self.bias_gradient_turned = self.bias_gradient.transpose(1, 2)
        self.turned = self.weight.transpose(1, 2)

    def prepare(self) -> None:
        """Bring the map up to date with the weights, once a step."""
        if self.normed:
            torch.mul(self.given, self.scale, out=self.weight)
            torch.baddbmm(self.plain_bias, self.shift, self.given_turned, out=self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(R, N, in) -> (R, N, out)."""
        return torch.bmm(x, self.turned) if self.bias is None else torch.baddbmm(self.bias, x, self.turned)

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """Write the gradients of the weights, from those of the outputs; `gradient @ self.weight` are the inputs'."""
        torch.bmm(gradient.transpose(1, 2), x, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(gradient, 1, keepdim=True, out=self.bias_gradient)
        self.finish()

    def finish(self) -> None:
        """From the gradients of the folded map to those of the given one and of the normalisation."""
        if not self.normed:
            return
        assert self.bias_gradient is not None
        torch.mul(self.weight_gradient, self.scale, out=self.given_gradient)
        self.given_gradient.baddbmm_(self.bias_gradient_turned, self.shift)
        torch.sum(self.weight_gradient * self.given, 1, keepdim=True, out=self.scale_gradient)
        torch.bmm(self.bias_gradient, self.given, out=self.shift_gradient)


class Normalised(NamedTuple):
    """Rows of mean 0 and variance 1, and what the way back needs."""

    rows: Tensor
    source: Tensor
    mean: Tensor
    rate: Tensor

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the source from that of the rows."""
        found: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, self.source, [self.rows.shape[-1]], self.mean, self.rate, None, None, [True, False, False]
        )[0]
        return found


def normalise(x: Tensor, epsilon: float = 1e-5) -> Normalised:
    """Layer normalisation over the last dimension, without weights; torch's own takes twice as long on short rows."""
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    rate = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square_()
    rate.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return Normalised(centred.mul_(rate), x, mean, rate)


class Norm:
    """Layer normalisation with weights, run by run, where its outputs are read by more than one linear map.

    Args:
        parameters: where weights and gradients are.
        name: `{name}.weight` and `{name}.bias`, each (R, D).
        epsilon: added to the variance.
    """

    def __init__(self, parameters: Parameters, name: str, epsilon: float) -> None:
        both = (parameters.weights, parameters.gradients)
        self.scale, self.scale_gradient = (named[f"{name}.weight"].unsqueeze(1) for named in both)
        self.shift, self.shift_gradient = (named[f"{name}.bias"].unsqueeze(1) for named in both)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Normalised]:
        """(R, N, D) -> (R, N, D), and what the way back needs."""
        found = normalise(x, self.epsilon)
        return torch.addcmul(self.shift, found.rows, self.scale), found

    def backward(self, kept: Normalised, gradient: Tensor) -> Tensor:
        """Write the gradients of the weights and return that of x."""
        torch.sum(gradient, 1, keepdim=True, out=self.shift_gradient)
        torch.sum(gradient * kept.rows, 1, keepdim=True, out=self.scale_gradient)
        return kept.backward(gradient * self.scale)


class Attention:
    """Attention among few tokens, with or without a token's weight on itself: Q tokens look, T are looked at.

    Products of matrices as small as these cost more than their entries, so sums run over whole batches of entries. They
    are many and short: what they read and write lies where it lay the step before, and is cut into its terms once.

    Args:
        query: memory for scaled queries, shape (R, H, K, Q, B), as its gradient.
        key: for keys, shape (R, H, K, T, B), as its gradient.
        value: for values, as keys.
        gradients: memory for the gradients of the three.
        itself: whether a token looks at itself.
    """

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, gradients: tuple[Tensor, Tensor, Tensor], itself: bool
    ) -> None:
        runs, heads, _, queries, batch = query.shape
        self.shares = query.new_empty(runs, heads, queries, key.shape[3], batch)
        self.mixed, self.of_mixed = query.new_empty(query.shape), query.new_empty(query.shape)
        self._scores, self._of_shares = torch.empty_like(self.shares), torch.empty_like(self.shares)
        self._itself = None if itself else self._scores.diagonal(dim1=2, dim2=3)
        of_scores = self._scores  # nobody reads the scores any more
        inner, shares, gradient = of_scores.unsqueeze(2), self.shares.unsqueeze(2), self.of_mixed.unsqueeze(4)
        query, key, value = query.unsqueeze(4), key.unsqueeze(3), value.unsqueeze(3)
        self._to_scores = _Sum(query, key, 2, self._scores)
        self._to_mixed = _Sum(shares, value, 4, self.mixed)
        self._to_shares = _Sum(gradient, value, 2, self._of_shares)
        terms = ((inner, key, 4), (inner, query, 3), (shares, gradient, 3))
        self._back = [_Sum(*three, out=own) for three, own in zip(terms, gradients, strict=True)]

    def forward(self) -> None:
        """Write `shares` (R, H, Q, T, B), softmax(q k^T), and what the tokens receive, `mixed` (R, H, K, Q, B)."""
        self._to_scores()
        if self._itself is not None:
            self._itself.fill_(-math.inf)
        torch.softmax(self._scores, 3, out=self.shares)
        self._to_mixed()

    def backward(self) -> None:
        """Write the gradients of queries, keys and values from that of `mixed`, which is in `of_mixed`."""
        self._to_shares()
        shares, kind = self.shares, self.shares.dtype
        torch.ops.aten._softmax_backward_data.out(self._of_shares, shares, 3, kind, grad_input=self._scores)
        for sum_ in self._back:
            sum_()


class _Sum:
    """(one * other).sum(dimension) into given memory, term by term: the whole product would not fit into the cache."""

    def __init__(self, one: Tensor, other: Tensor, dimension: int, out: Tensor) -> None:
        self._first, *self._rest = zip(one.unbind(dimension), other.unbind(dimension), strict=True)
        self._out = out

    def __call__(self) -> None:
        torch.mul(*self._first, out=self._out)
        for a, b in self._rest:
            self._out.addcmul_(a, b)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of each run (R,) and its gradient in the logits (R, B, classes)."""
    logs = logits.transpose(1, 2).contiguous().log_softmax(1)  # examples are the inner loop: classes may be few
    chosen = labels.unsqueeze(1)
    gradient = logs.exp()
    gradient.scatter_add_(1, chosen, gradient.new_full((1, 1, 1), -1.0).expand_as(chosen)).div_(labels.shape[1])
    return -logs.gather(1, chosen).squeeze(1).mean(1), gradient.transpose(1, 2)
