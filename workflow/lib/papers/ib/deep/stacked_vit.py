"""The small vision transformer of `vit`, for several runs at once and with its gradients written out.

Names and shapes of the weights are those of `vit.ViT`, which the tests hold it against. Letters as in `stacked`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name everybody knows)

from workflow.lib.papers.ib.deep.stacked import (
    Attention,
    Linear,
    Normalised,
    Parameters,
    cross_entropy,
    normalise,
)


class _Kept(NamedTuple):
    """What the way back through a block needs."""

    before: Normalised
    attention: Attention
    columns: Tensor
    mixed: Tensor
    between: Normalised
    hidden: Tensor
    active: Tensor


class StackedViT:
    """R vision transformers without dropout.

    Args:
        parameters: the weights, with the names of `vit.ViT`.
        heads: number of heads H.
        depth: number of blocks.
    """

    def __init__(self, parameters: Parameters, heads: int, depth: int) -> None:
        self.parameters = parameters
        self.embed = Linear(parameters, "patches.embed", "patches.norm")
        self.blocks = [_Block(parameters, b, heads, last=b == depth - 1) for b in range(depth)]
        self.head = Linear(parameters, "head.1", "head.0")
        self._class, self._class_gradient = (x["class_token"] for x in (parameters.weights, parameters.gradients))
        self._places, self._places_gradient = (x["positions"] for x in (parameters.weights, parameters.gradients))

    def losses(self, patches: Tensor, labels: Tensor) -> Tensor:
        """The losses of a batch (R,); their gradients are written to the parameters.

        Args:
            patches: normalised, shape (R, T - 1, B, W).
            labels: shape (R, B).
        """
        runs, _, batch, width = patches.shape
        rows = patches.view(runs, -1, width)
        final, kept = self._forward(rows, batch)
        losses, gradient = cross_entropy(self.head.forward(final.rows), labels)
        self.head.backward(final.rows, gradient)
        gradient = final.backward(torch.bmm(gradient, self.head.weight))
        for block, own in zip(reversed(self.blocks), reversed(kept), strict=True):
            gradient = block.backward(gradient, own, batch)
        by_place = gradient.view(runs, -1, batch, gradient.shape[2])
        torch.sum(by_place, 2, out=self._places_gradient.squeeze(1))
        self._class_gradient.copy_(self._places_gradient[:, :, :1])
        self.embed.backward(rows, gradient[:, batch:])
        return losses

    def logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, B, classes) and the class token's attention (R, depth, H, T, B)."""
        runs, _, batch, width = patches.shape
        final, kept = self._forward(patches.reshape(runs, -1, width), batch)
        return self.head.forward(final.rows), torch.stack([own.attention.shares[:, :, 0] for own in kept], dim=1)

    def _forward(self, rows: Tensor, batch: int) -> tuple[Normalised, list[_Kept]]:
        for linear in (self.embed, self.head, *(linear for block in self.blocks for linear in block.linears)):
            linear.prepare()
        embedded = self.embed.forward(rows)
        runs, _, dim = embedded.shape
        x = torch.cat([self._class.squeeze(1).expand(-1, batch, -1), embedded], dim=1)
        x.view(runs, -1, batch, dim).add_(self._places.squeeze(1).unsqueeze(2))
        kept = []
        for block in self.blocks:
            x, own = block.forward(x, batch)
            kept.append(own)
        return normalise(x), kept


class _Block:
    """Attention and perceptron; the last block computes its class token only, since nobody reads the others."""

    def __init__(self, parameters: Parameters, number: int, heads: int, last: bool) -> None:
        one, two = f"attentions.{number}", f"perceptrons.{number}"
        self.heads, self.last = heads, last
        self.look = Linear(parameters, f"{one}.query_key_value", f"{one}.norm")
        self.inner = self.look.weight.shape[1] // 3
        self.temperature = parameters.weights[f"{one}.log_temperature"].view(-1, 1, 1)
        self.temperature_gradient = parameters.gradients[f"{one}.log_temperature"].view(-1, 1, 1)
        self.out = Linear(parameters, f"{one}.out.0")
        self.widen = Linear(parameters, f"{two}.1", f"{two}.0")
        self.narrow = Linear(parameters, f"{two}.4")
        self.linears = (self.look, self.out, self.widen, self.narrow)

    def forward(self, x: Tensor, batch: int) -> tuple[Tensor, _Kept]:
        before = normalise(x)
        columns = before.rows.transpose(1, 2)
        assert self.look.bias is not None
        weight, bias, inner = self.look.weight, self.look.bias.transpose(1, 2), self.inner
        # The temperature scales the queries, and so their part of the map.
        factor = self.temperature.exp()
        weight[:, :inner] *= factor
        bias[:, :inner] *= factor
        if self.last:
            query = torch.baddbmm(bias[:, :inner], weight[:, :inner], columns[:, :, :batch])
            rest = torch.baddbmm(bias[:, inner:], weight[:, inner:], columns)
            x = x[:, :batch]
        else:
            both = torch.baddbmm(bias, weight, columns)
            query, rest = both[:, :inner], both[:, inner:]
        key, value = rest[:, :inner], rest[:, inner:]
        attention = Attention.of(self._cut(query, batch), self._cut(key, batch), self._cut(value, batch), itself=False)
        mixed = attention.mixed().view(len(x), inner, -1)
        assert self.out.bias is not None
        assert self.narrow.bias is not None
        x = torch.baddbmm(x + self.out.bias, mixed.transpose(1, 2), self.out.turned)
        between = normalise(x)
        hidden = self.widen.forward(between.rows)
        active = F.gelu(hidden)
        x = torch.baddbmm(x + self.narrow.bias, active, self.narrow.turned)
        return x, _Kept(before, attention, columns, mixed, between, hidden, active)

    def backward(self, gradient: Tensor, kept: _Kept, batch: int) -> Tensor:
        """The gradient of what came in (R, N, D)."""
        self.narrow.backward(kept.active, gradient)
        inwards = torch.ops.aten.gelu_backward(torch.bmm(gradient, self.narrow.weight), kept.hidden)
        self.widen.backward(kept.between.rows, inwards)
        gradient = gradient + kept.between.backward(torch.bmm(inwards, self.widen.weight))
        self.out.backward(kept.mixed.transpose(1, 2), gradient)
        of_mixed = torch.bmm(self.out.turned, gradient.transpose(1, 2)).view_as(kept.attention.query)
        return self._look_back(gradient, of_mixed, kept, batch)

    def _look_back(self, gradient: Tensor, of_mixed: Tensor, kept: _Kept, batch: int) -> Tensor:
        """Through attention and the map before it, whose columns are the rows of other maps."""
        look, inner, weight = self.look, self.inner, self.look.weight
        assert look.bias_gradient is not None
        rows, (runs, _, count) = kept.before.rows, kept.columns.shape
        found = of_mixed.new_empty(runs, (2 if self.last else 3) * inner, count)
        rest = found if self.last else found[:, inner:]
        query = of_mixed.new_empty(runs, inner, batch) if self.last else found[:, :inner]
        parts = (query, rest[:, :inner], rest[:, inner:])
        kept.attention.backward(of_mixed, *(self._cut(part, batch) for part in parts))
        bias = look.bias_gradient.transpose(1, 2)
        if self.last:
            torch.bmm(query, rows[:, :batch], out=look.weight_gradient[:, :inner])
            torch.bmm(rest, rows, out=look.weight_gradient[:, inner:])
            torch.sum(query, 2, keepdim=True, out=bias[:, :inner])
            torch.sum(rest, 2, keepdim=True, out=bias[:, inner:])
            of_rows = torch.bmm(rest.transpose(1, 2), weight[:, inner:])
            of_rows[:, :batch] += torch.bmm(query.transpose(1, 2), weight[:, :inner])
        else:
            torch.bmm(found, rows, out=look.weight_gradient)
            torch.sum(found, 2, keepdim=True, out=bias)
            of_rows = torch.bmm(found.transpose(1, 2), weight)
        # d/d tau of exp(tau) M is exp(tau) M itself, for the queries' part of the weight and of the bias.
        on_queries = (look.weight_gradient[:, :inner] * weight[:, :inner]).sum((1, 2), keepdim=True)
        assert look.bias is not None
        on_queries += torch.bmm(look.bias_gradient[:, :, :inner], look.bias[:, :, :inner].transpose(1, 2))
        self.temperature_gradient.copy_(on_queries)
        factor = self.temperature.exp()
        look.weight_gradient[:, :inner] *= factor
        look.bias_gradient[:, :, :inner] *= factor
        look.finish()
        found_gradient = kept.before.backward(of_rows)
        if self.last:
            found_gradient[:, :batch] += gradient
            return found_gradient
        return found_gradient.add_(gradient)

    def _cut(self, columns: Tensor, batch: int) -> Tensor:
        """(R, H K, T B) -> (R, H, K, T, B)."""
        return columns.view(len(columns), self.heads, columns.shape[1] // self.heads, -1, batch)
