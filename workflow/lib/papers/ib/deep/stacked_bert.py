"""The BERTs of `transformers` that classify or fill in words, several runs at once and with gradients written out.

Names and shapes of the weights are those of `transformers`, which the tests hold them against. Letters as in `stacked`,
but rows are sorted by example: its texts have too many tokens for `Attention`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name everybody knows)

from workflow.lib.papers.ib.deep.stacked import Linear, Norm, Normalised, Parameters, cross_entropy

EPSILON = 1e-12  # of BERT's layer normalisations


class Texts(NamedTuple):
    """A batch for each run: token ids and segment ids (R, B, T), lengths (R, B)."""

    ids: Tensor
    segments: Tensor
    lengths: Tensor


class StackedBert:
    """R BERT classifiers without dropout; their last layer computes [CLS] only, since nobody reads the other tokens.

    Args:
        parameters: the weights, with the names of `transformers.BertForSequenceClassification`.
        heads: number of heads H.
        layers: number of layers.
        prefix: what stands before those names.
    """

    def __init__(self, parameters: Parameters, heads: int, layers: int, prefix: str = "") -> None:
        self.encoder = _Encoder(parameters, f"{prefix}bert", heads, layers, only_first=True)
        self.pooler = Linear(parameters, f"{prefix}bert.pooler.dense")
        self.head = Linear(parameters, f"{prefix}classifier")

    def losses(self, texts: Texts, labels: Tensor) -> Tensor:
        """The losses of a batch (R,), labels (R, B); their gradients are written to the parameters."""
        final, kept = self.encoder.forward(texts)
        pooled = self.pooler.forward(final).tanh_()
        losses, gradient = cross_entropy(self.head.forward(pooled), labels)
        self.head.backward(pooled, gradient)
        gradient = torch.bmm(gradient, self.head.weight) * (1 - pooled.square())
        self.pooler.backward(final, gradient)
        self.encoder.backward(texts, torch.bmm(gradient, self.pooler.weight), kept)
        return losses

    def logits(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Logits (R, B, classes) and the attention of [CLS] (R, layers, B, H, T)."""
        final, (_, kept) = self.encoder.forward(texts)
        runs, batch = texts.lengths.shape
        rows = [own.shares[:, :, 0].reshape(runs, batch, own.shares.shape[1], -1) for own in kept]
        return self.head.forward(self.pooler.forward(final).tanh_()), torch.stack(rows, dim=1)


class StackedMaskedBert:
    """R BERTs that fill in masked words, without dropout.

    Args:
        parameters: the weights, with the names of `transformers.BertForMaskedLM`, whose last map is the table of words.
        heads: number of heads H.
        layers: number of layers.
    """

    def __init__(self, parameters: Parameters, heads: int, layers: int) -> None:
        self.encoder = _Encoder(parameters, "bert", heads, layers, only_first=False)
        self.dense = Linear(parameters, "cls.predictions.transform.dense")
        self.norm = Norm(parameters, "cls.predictions.transform.LayerNorm", EPSILON)
        both = (parameters.weights, parameters.gradients)
        self.bias, self.bias_gradient = (named["cls.predictions.bias"].unsqueeze(1) for named in both)

    def losses(self, texts: Texts, places: Tensor, wanted: Tensor) -> Tensor:
        """The mean losses of what is to be found (R,); their gradients are written to the parameters.

        Args:
            texts: with what is shown.
            places: which of a batch's B T tokens are to be found, each once, shape (R, M).
            wanted: the words there, shape (R, M).
        """
        words, word_gradients = self.encoder.tables["word"], self.encoder.table_gradients["word"]
        x, kept = self.encoder.forward(texts)
        index = places.unsqueeze(2).expand(-1, -1, x.shape[2])
        rows = x.gather(1, index)
        hidden = self.dense.forward(rows)
        y, normed = self.norm.forward(F.gelu(hidden))
        losses, gradient = cross_entropy(torch.baddbmm(self.bias, y, words.transpose(1, 2)), wanted)
        torch.sum(gradient, 1, keepdim=True, out=self.bias_gradient)
        inwards = self.norm.backward(normed, torch.bmm(gradient, words))
        inwards = torch.ops.aten.gelu_backward(inwards, hidden)
        self.dense.backward(rows, inwards)
        of_x = torch.zeros_like(x).scatter_(1, index, torch.bmm(inwards, self.dense.weight))
        self.encoder.backward(texts, of_x, kept)
        word_gradients.baddbmm_(gradient.transpose(1, 2), y)
        return losses


class _Encoder:
    """Embeddings and layers; `only_first` says that of the last layer nobody reads more than [CLS]."""

    def __init__(self, parameters: Parameters, place: str, heads: int, layers: int, only_first: bool) -> None:
        kinds = ("word", "position", "token_type")
        names = {kind: f"{place}.embeddings.{kind}_embeddings.weight" for kind in kinds}
        self.tables = {kind: parameters.weights[name] for kind, name in names.items()}
        self.table_gradients = {kind: parameters.gradients[name] for kind, name in names.items()}
        self.norm = Norm(parameters, f"{place}.embeddings.LayerNorm", EPSILON)
        self.layers = [
            _Layer(parameters, f"{place}.encoder.layer.{n}", heads, last=only_first and n == layers - 1)
            for n in range(layers)
        ]

    def forward(self, texts: Texts) -> tuple[Tensor, tuple[Normalised, list[_Kept]]]:
        """What the last layer gives (R, B Q, D), Q = 1 or T, and what the way back needs."""
        runs, batch, tokens = texts.ids.shape
        rows = [
            words[ids] + kinds[segments]
            for words, kinds, ids, segments in zip(
                self.tables["word"], self.tables["token_type"], texts.ids, texts.segments, strict=True
            )
        ]
        x = torch.stack(rows).add_(self.tables["position"][:, None, :tokens])
        x, start = self.norm.forward(x.view(runs, batch * tokens, -1))
        seen = torch.arange(tokens, device=x.device) < texts.lengths.unsqueeze(2)
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill_(~seen, -math.inf)
        kept = []
        for layer in self.layers:
            x, own = layer.forward(x, mask)
            kept.append(own)
        return x, (start, kept)

    def backward(self, texts: Texts, gradient: Tensor, kept: tuple[Normalised, list[_Kept]]) -> None:
        """Write the gradients of all weights, from that of what `forward` gave."""
        for layer, own in zip(reversed(self.layers), reversed(kept[1]), strict=True):
            gradient = layer.backward(gradient, own)
        gradient = self.norm.backward(kept[0], gradient)
        runs, batch, tokens = texts.ids.shape
        by_token = gradient.view(runs, batch, tokens, -1)
        places = self.table_gradients["position"]
        torch.sum(by_token, 1, out=places[:, :tokens])
        places[:, tokens:] = 0
        for kind, index in (("word", texts.ids), ("token_type", texts.segments)):
            table = self.table_gradients[kind].zero_()
            for own_table, at, values in zip(table, index, gradient, strict=True):
                own_table.index_add_(0, at.flatten(), values)
        self.table_gradients["word"][:, 0] = 0  # padding


class _Kept(NamedTuple):
    """What the way back through a layer needs."""

    x: Tensor
    first: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    shares: Tensor
    mixed: Tensor
    attended: Normalised
    between: Tensor
    hidden: Tensor
    active: Tensor
    left: Normalised


class _Layer:
    """Attention and perceptron; if `last`, of [CLS] only."""

    def __init__(self, parameters: Parameters, place: str, heads: int, last: bool) -> None:
        self.heads, self.last = heads, last
        self.query, self.key, self.value = (
            Linear(parameters, f"{place}.attention.self.{kind}") for kind in ("query", "key", "value")
        )
        self.out = Linear(parameters, f"{place}.attention.output.dense")
        self.out_norm = Norm(parameters, f"{place}.attention.output.LayerNorm", EPSILON)
        self.widen = Linear(parameters, f"{place}.intermediate.dense")
        self.narrow = Linear(parameters, f"{place}.output.dense")
        self.narrow_norm = Norm(parameters, f"{place}.output.LayerNorm", EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, _Kept]:
        """(R, B T, D) -> (R, B Q, D) with Q = T or, in a last layer, 1; mask (R, B, T) is added to the scores."""
        runs, batch, tokens = mask.shape
        first = x.view(runs, batch, tokens, -1)[:, :, 0] if self.last else x
        query, key, value = (
            self._split(linear.forward(rows), batch)
            for linear, rows in ((self.query, first), (self.key, x), (self.value, x))
        )
        query *= query.shape[2] ** -0.5
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.view(runs * batch, self.heads, -1, tokens).add_(mask.view(runs * batch, 1, 1, tokens))
        shares = scores.softmax(2)
        mixed = self._join(torch.bmm(shares, value), runs, batch)
        y, attended = self.out_norm.forward(self.out.forward(mixed).add_(first))
        hidden = self.widen.forward(y)
        active = F.gelu(hidden)
        z, left = self.narrow_norm.forward(self.narrow.forward(active).add_(y))
        shares = shares.view(runs * batch, self.heads, -1, tokens)
        return z, _Kept(x, first, query, key, value, shares, mixed, attended, y, hidden, active, left)

    def backward(self, gradient: Tensor, kept: _Kept) -> Tensor:
        """The gradient of what came in."""
        runs, batch = kept.x.shape[0], len(kept.shares) // kept.x.shape[0]
        gradient = self.narrow_norm.backward(kept.left, gradient)
        self.narrow.backward(kept.active, gradient)
        inwards = torch.ops.aten.gelu_backward(torch.bmm(gradient, self.narrow.weight), kept.hidden)
        self.widen.backward(kept.between, inwards)
        gradient = self.out_norm.backward(kept.attended, torch.baddbmm(gradient, inwards, self.widen.weight))
        self.out.backward(kept.mixed, gradient)
        of_mixed = self._split(torch.bmm(gradient, self.out.weight), batch)
        shares = kept.shares.flatten(0, 1)
        of_shares = torch.bmm(of_mixed, kept.value.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, 2, shares.dtype)
        of_query = torch.bmm(of_scores, kept.key).mul_(kept.query.shape[2] ** -0.5)
        of_key = torch.bmm(of_scores.transpose(1, 2), kept.query)
        of_value = torch.bmm(shares.transpose(1, 2), of_mixed)
        query, key, value = (self._join(part, runs, batch) for part in (of_query, of_key, of_value))
        self.query.backward(kept.first, query)
        self.key.backward(kept.x, key)
        self.value.backward(kept.x, value)
        found = torch.baddbmm(torch.bmm(key, self.key.weight), value, self.value.weight)
        gradient = torch.baddbmm(gradient, query, self.query.weight)
        if not self.last:
            return found.add_(gradient)
        found.view(runs, batch, -1, found.shape[2])[:, :, 0] += gradient
        return found

    def _split(self, rows: Tensor, batch: int) -> Tensor:
        """(R, B Q, H K) -> (R B H, Q, K)."""
        runs, _, width = rows.shape
        by_head = rows.view(runs * batch, -1, self.heads, width // self.heads).transpose(1, 2)
        return by_head.reshape(runs * batch * self.heads, -1, width // self.heads)

    def _join(self, parts: Tensor, runs: int, batch: int) -> Tensor:
        """(R B H, Q, K) -> (R, B Q, H K)."""
        by_head: Any = parts.view(runs * batch, self.heads, *parts.shape[1:])
        joined: Tensor = by_head.transpose(1, 2).reshape(runs, batch * parts.shape[1], -1)
        return joined
