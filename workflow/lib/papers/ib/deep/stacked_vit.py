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

    room: _Room
    before: Normalised
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
        return self.head.forward(final.rows), torch.stack([own.room.attention.shares[:, :, 0] for own in kept], dim=1)

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


class _Room:
    """Where a block's attention on batches of one size lies, step after step; columns are those of tokens and batch."""

    def __init__(self, look: Tensor, heads: int, tokens: int, batch: int, last: bool) -> None:
        runs, width, _ = look.shape
        inner = width // 3
        self.parts, self.gradients = (_Columns(look, inner, tokens, batch, last) for _ in range(2))

        def cut(part: Tensor) -> Tensor:
            """(R, H K, T B) -> (R, H, K, T, B)."""
            return part.view(runs, heads, inner // heads, -1, batch)

        parts, gradients = ((cut(own.query), cut(own.key), cut(own.value)) for own in (self.parts, self.gradients))
        self.attention = Attention(*parts, gradients=gradients, itself=False)
        self.of_mixed = self.attention.of_mixed.view(runs, inner, -1)
        self.mixed = self.attention.mixed.view(runs, inner, -1).transpose(1, 2)


class _Columns:
    """Queries (R, H K, Q B), keys and values (R, H K, T B).

    One product gives `rest`: all of them, or in a last block keys and values.
    """

    def __init__(self, like: Tensor, inner: int, tokens: int, batch: int, last: bool) -> None:
        self.rest = like.new_empty(len(like), (2 if last else 3) * inner, tokens * batch)
        self.query = like.new_empty(len(like), inner, batch) if last else self.rest[:, :inner]
        self.key, self.value = self.rest[:, -2 * inner : -inner], self.rest[:, -inner:]
        self.turned, self.query_turned = self.rest.transpose(1, 2), self.query.transpose(1, 2)


class _Block:
    """Attention and perceptron; the last block computes its class token only, since nobody reads the others."""

    def __init__(self, parameters: Parameters, number: int, heads: int, last: bool) -> None:
        one, two = f"attentions.{number}", f"perceptrons.{number}"
        self.heads, self.last = heads, last
        self.look = Linear(parameters, f"{one}.query_key_value", f"{one}.norm")
        self.temperature = parameters.weights[f"{one}.log_temperature"].view(-1, 1, 1)
        self.temperature_gradient = parameters.gradients[f"{one}.log_temperature"].view(-1, 1, 1)
        self.out = Linear(parameters, f"{one}.out")
        self.widen = Linear(parameters, f"{two}.1", f"{two}.0")
        self.narrow = Linear(parameters, f"{two}.4")
        self.linears = (self.look, self.out, self.widen, self.narrow)
        # The part of the queries, and what one product makes.
        look, inner = self.look, self.look.weight.shape[1] // 3
        assert look.bias is not None
        assert look.bias_gradient is not None
        own, rest = slice(inner), slice(inner if last else 0, None)
        whole = (look.weight, look.bias.transpose(1, 2), look.weight_gradient, look.bias_gradient.transpose(1, 2))
        self.of_query, self.of_rest = ([part[:, rows] for part in whole] for rows in (own, rest))
        self.rooms: dict[tuple[int, int], _Room] = {}

    def forward(self, x: Tensor, batch: int) -> tuple[Tensor, _Kept]:
        """(R, N, D) -> (R, N, D), or of the class token alone (R, B, D)."""
        size = (x.shape[1] // batch, batch)
        if size not in self.rooms:
            self.rooms[size] = _Room(self.look.weight, self.heads, *size, last=self.last)
        room = self.rooms[size]
        before = normalise(x)
        columns = before.rows.transpose(1, 2)
        (weight, bias, *_), (rest, rest_bias, *_) = self.of_query, self.of_rest
        # The temperature scales the queries, and so their part of the map.
        self.factor = self.temperature.exp()
        weight *= self.factor
        bias *= self.factor
        torch.baddbmm(rest_bias, rest, columns, out=room.parts.rest)
        if self.last:
            torch.baddbmm(bias, weight, columns[:, :, :batch], out=room.parts.query)
            x = x[:, :batch]
        room.attention.forward()
        assert self.out.bias is not None
        assert self.narrow.bias is not None
        x = torch.baddbmm(x + self.out.bias, room.mixed, self.out.turned)
        between = normalise(x)
        hidden = self.widen.forward(between.rows)
        active = F.gelu(hidden)
        x = torch.baddbmm(x + self.narrow.bias, active, self.narrow.turned)
        return x, _Kept(room, before, between, hidden, active)

    def backward(self, gradient: Tensor, kept: _Kept, batch: int) -> Tensor:
        """The gradient of what came in (R, N, D)."""
        self.narrow.backward(kept.active, gradient)
        inwards = torch.bmm(gradient, self.narrow.weight)
        torch.ops.aten.gelu_backward.grad_input(inwards, kept.hidden, grad_input=inwards)
        self.widen.backward(kept.between.rows, inwards)
        gradient = gradient + kept.between.backward(torch.bmm(inwards, self.widen.weight))
        self.out.backward(kept.room.mixed, gradient)
        torch.bmm(self.out.turned, gradient.transpose(1, 2), out=kept.room.of_mixed)
        kept.room.attention.backward()
        return self._look_back(gradient, kept.room.gradients, kept.before, batch)

    def _look_back(self, gradient: Tensor, found: _Columns, before: Normalised, batch: int) -> Tensor:
        """Through the map before the attention, whose columns are the rows of other maps."""
        weight, bias, weight_gradient, bias_gradient = self.of_query
        rest, _, rest_gradient, rest_bias_gradient = self.of_rest
        torch.bmm(found.rest, before.rows, out=rest_gradient)
        torch.sum(found.rest, 2, keepdim=True, out=rest_bias_gradient)
        of_rows = torch.bmm(found.turned, rest)
        if self.last:
            torch.bmm(found.query, before.rows[:, :batch], out=weight_gradient)
            torch.sum(found.query, 2, keepdim=True, out=bias_gradient)
            of_rows[:, :batch].baddbmm_(found.query_turned, weight)
        # d/d tau of exp(tau) M is exp(tau) M itself, for the queries' part of the weight and of the bias.
        torch.sum(weight_gradient * weight, (1, 2), keepdim=True, out=self.temperature_gradient)
        self.temperature_gradient += (bias_gradient * bias).sum(1, keepdim=True)
        weight_gradient *= self.factor
        bias_gradient *= self.factor
        self.look.finish()
        found_gradient = before.backward(of_rows)
        if self.last:
            found_gradient[:, :batch] += gradient
            return found_gradient
        return found_gradient.add_(gradient)
