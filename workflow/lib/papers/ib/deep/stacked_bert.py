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
    """R BERT classifiers without dropout.

    Args:
        parameters: the weights, with the names of `transformers.BertForSequenceClassification`.
        heads: number of heads H.
        layers: number of layers.
        prefix: what stands before those names.
    """

    def __init__(self, parameters: Parameters, heads: int, layers: int, prefix: str = "") -> None:
        self.encoder = _Encoder(parameters, f"{prefix}bert", heads, layers)
        self.pooler = Linear(parameters, f"{prefix}bert.pooler.dense")
        self.head = Linear(parameters, f"{prefix}classifier")

    def losses(self, texts: Texts, labels: Tensor) -> Tensor:
        """The losses of a batch (R,), labels (R, B); their gradients are written to the parameters."""
        final, kept = self.encoder.forward(texts, self._classes(texts))
        pooled = self.pooler.forward(final).tanh_()
        losses, gradient = cross_entropy(self.head.forward(pooled), labels)
        self.head.backward(pooled, gradient)
        gradient = torch.bmm(gradient, self.head.weight) * (1 - pooled.square())
        self.pooler.backward(final, gradient)
        self.encoder.backward(texts, torch.bmm(gradient, self.pooler.weight), kept)
        return losses

    def logits(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Logits (R, B, classes) and the attention of [CLS] (R, layers, B, H, T)."""
        final, (_, kept) = self.encoder.forward(texts, self._classes(texts))
        rows = [own.attention.of_first(*texts.lengths.shape) for own in kept]
        return self.head.forward(self.pooler.forward(final).tanh_()), torch.stack(rows, dim=1)

    @staticmethod
    def _classes(texts: Texts) -> Tensor:
        """Where [CLS] stands in each text."""
        return torch.zeros_like(texts.lengths).unsqueeze(2)


class StackedMaskedBert:
    """R BERTs that fill in masked words, without dropout.

    Args:
        parameters: the weights, with the names of `transformers.BertForMaskedLM`, whose last map is the table of words.
        heads: number of heads H.
        layers: number of layers.
    """

    def __init__(self, parameters: Parameters, heads: int, layers: int) -> None:
        self.encoder = _Encoder(parameters, "bert", heads, layers)
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
        looking, places = _by_text(places, texts.ids.shape)
        x, kept = self.encoder.forward(texts, looking)
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


def _by_text(places: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """From some of a batch's B T tokens, (R, M), to Q tokens of each text (R, B, Q) and their places among B Q, (R, M).

    Q is the most that a text has; a text with fewer is filled up with tokens of its own.
    """
    runs, batch, tokens = shape
    chosen = torch.zeros(runs, batch * tokens, dtype=torch.long, device=places.device).scatter_(1, places, 1)
    by_text = chosen.view(shape)
    most = int(by_text.sum(2).amax())
    before = (by_text.cumsum(2) - by_text).view(runs, -1).gather(1, places)
    return by_text.argsort(dim=2, descending=True, stable=True)[..., :most], places // tokens * most + before


class _Encoder:
    """Embeddings and layers; the last layer computes only those tokens that somebody reads."""

    def __init__(self, parameters: Parameters, place: str, heads: int, layers: int) -> None:
        kinds = ("word", "position", "token_type")
        names = {kind: f"{place}.embeddings.{kind}_embeddings.weight" for kind in kinds}
        self.tables = {kind: parameters.weights[name] for kind, name in names.items()}
        self.table_gradients = {kind: parameters.gradients[name] for kind, name in names.items()}
        self.norm = Norm(parameters, f"{place}.embeddings.LayerNorm", EPSILON)
        self.layers = [
            _Layer(parameters, f"{place}.encoder.layer.{n}", _Few if n == layers - 1 else _Everyone, heads)
            for n in range(layers)
        ]

    def forward(self, texts: Texts, read: Tensor) -> tuple[Tensor, tuple[Normalised, list[_Kept]]]:
        """What the last layer gives for the tokens `read` (R, B, Q): (R, B Q, D), and what the way back needs."""
        runs, batch, tokens = texts.ids.shape
        words, kinds = (
            torch.stack([own.index_select(0, at.flatten()) for own, at in zip(self.tables[kind], index, strict=True)])
            for kind, index in (("word", texts.ids), ("token_type", texts.segments))
        )
        words.add_(kinds).view(runs, batch, tokens, -1).add_(self.tables["position"][:, None, :tokens])
        x, start = self.norm.forward(words)
        seen = torch.arange(tokens, device=x.device) < texts.lengths.unsqueeze(2)
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill_(~seen, -math.inf)
        first_of_text = tokens * torch.arange(batch, device=x.device).unsqueeze(1)
        rows = (read + first_of_text).view(runs, -1, 1).expand(-1, -1, x.shape[2])
        kept = []
        for layer in self.layers:
            x, own = layer.forward(x, mask, rows)
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


class _Everyone:
    """Attention in which every token looks at every token; one product gives queries, keys and values of all heads."""

    class Kept(NamedTuple):
        """What the way back needs: `looks` of queries, keys, values by head, (R B, T, K); shares (H, R B, T, T)."""

        x: Tensor
        looks: tuple[tuple[Tensor, ...], ...]
        shares: Tensor

        def of_first(self, runs: int, batch: int) -> Tensor:
            """The shares of the first token, (R, B, H, T)."""
            return self.shares[:, :, 0].transpose(0, 1).view(runs, batch, len(self.shares), -1)

    def __init__(self, parameters: Parameters, place: str, heads: int) -> None:
        self.heads = heads
        both = (parameters.weights, parameters.gradients)
        kinds = [f"{place}.{kind}" for kind in ("query", "key", "value")]
        (self.maps, self.map_gradients), (self.shifts, self.shift_gradients) = (
            [[named[f"{kind}.{name}"] for kind in kinds] for named in both] for name in ("weight", "bias")
        )

    def forward(self, x: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Kept]:
        """Who looks, (R, B T, D), and what they receive, (R, B T, H K); `mask` (R, B, T) is added to the scores."""
        (runs, batch, tokens), texts = mask.shape, mask.view(-1, 1, mask.shape[2])
        self.map = torch.cat(self.maps, 1)
        found = torch.baddbmm(torch.cat(self.shifts, 1).unsqueeze(1), x, self.map.transpose(1, 2))
        looks = self._cut(found.view(runs * batch, tokens, -1))
        scores = x.new_empty(self.heads, runs * batch, tokens, tokens)
        for query, key, _, out in zip(*looks, scores, strict=True):
            torch.baddbmm(texts, query, key.transpose(1, 2), alpha=query.shape[2] ** -0.5, out=out)
        shares = scores.softmax(3)
        received = [torch.bmm(own, value) for own, value in zip(shares, looks[2], strict=True)]
        return x, torch.cat(received, 2).view(runs, batch * tokens, -1), self.Kept(x, looks, shares)

    def backward(self, gradient: Tensor, of_looking: Tensor, kept: Kept) -> Tensor:
        """The gradient of x, from those of what they receive and of who looks."""
        shares, (queries, keys, values) = kept.shares, kept.looks
        (of_received,) = self._cut(gradient.view(*values[0].shape[:2], -1), 1)
        of_shares = torch.empty_like(shares)
        for own, value, out in zip(of_received, values, of_shares, strict=True):
            torch.bmm(own, value.transpose(1, 2), out=out)
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, 3, shares.dtype)
        of_scores *= queries[0].shape[2] ** -0.5
        found = [torch.bmm(own, key) for own, key in zip(of_scores, keys, strict=True)]
        found += [torch.bmm(own.transpose(1, 2), query) for own, query in zip(of_scores, queries, strict=True)]
        found += [torch.bmm(own.transpose(1, 2), given) for own, given in zip(shares, of_received, strict=True)]
        joined = torch.cat(found, 2).view(len(gradient), gradient.shape[1], -1)
        width = self.maps[0].shape[1]
        of_map, of_shift = torch.bmm(joined.transpose(1, 2), kept.x), joined.sum(1)
        torch._foreach_copy_(self.map_gradients, torch.split(of_map, width, 1))
        torch._foreach_copy_(self.shift_gradients, torch.split(of_shift, width, 1))
        return torch.baddbmm(of_looking, joined, self.map)

    def _cut(self, rows: Tensor, kinds: int = 3) -> tuple[tuple[Tensor, ...], ...]:
        """(R B, T, kinds H K) -> of each kind and head (R B, T, K)."""
        parts = torch.chunk(rows, kinds * self.heads, 2)
        return tuple(parts[n : n + self.heads] for n in range(0, len(parts), self.heads))


class _Few:
    """Attention in which Q tokens of each text look at all T; keys and values are never made.

    With queries q, scores q (W_k x + b_k) are (q W_k) x + q b_k, and softmax does not see the last term, which is the
    same for all tokens looked at: the gradient of b_k is 0. What is received is W_v (sum of shares x) + b_v. That is
    2 H Q products of width D for a token in place of 2 D.
    """

    class Kept(NamedTuple):
        """What the way back needs: of texts R B, of rows Q H, of rows by head (R, B Q, H, D)."""

        texts: Tensor
        looking: Tensor
        rows: Tensor
        query: Tensor
        inward: Tensor
        shares: Tensor
        received: Tensor

        def of_first(self, runs: int, batch: int) -> Tensor:
            """The shares of the first token that looks, (R, B, H, T)."""
            heads = self.received.shape[2]
            return self.shares[:, :heads].view(runs, batch, heads, -1)

    def __init__(self, parameters: Parameters, place: str, heads: int) -> None:
        self.heads = heads
        self.query = Linear(parameters, f"{place}.query")
        both, each = (parameters.weights, parameters.gradients), {"dim": 1, "chunks": heads}
        self.keys, self.key_gradients = (torch.chunk(named[f"{place}.key.weight"], **each) for named in both)
        self.values, self.value_gradients = (torch.chunk(named[f"{place}.value.weight"], **each) for named in both)
        self.shift, self.shift_gradient = (named[f"{place}.value.bias"].unsqueeze(1) for named in both)
        self.no_gradient = parameters.gradients[f"{place}.key.bias"]

    def forward(self, x: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Kept]:
        """Who looks, (R, B Q, D), and what they receive, (R, B Q, H K); `rows` (R, B Q, D) says which tokens look."""
        (runs, batch, tokens), (_, count, width) = mask.shape, rows.shape
        looking = x.gather(1, rows)
        query = self.query.forward(looking)
        query *= (query.shape[2] // self.heads) ** -0.5
        inward = query.new_empty(runs, count, self.heads, width)
        for own, key, out in zip(self._cut(query), self.keys, inward.unbind(2), strict=True):
            torch.bmm(own, key, out=out)
        texts = x.view(runs * batch, tokens, width)
        inward = inward.view(runs * batch, -1, width)
        shares = torch.baddbmm(mask.view(runs * batch, 1, tokens), inward, texts.transpose(1, 2)).softmax(2)
        received = torch.bmm(shares, texts).view(runs, count, self.heads, width)
        mixed = self.shift.repeat(1, count, 1)
        for own, value, out in zip(received.unbind(2), self.values, self._cut(mixed), strict=True):
            out.baddbmm_(own, value.transpose(1, 2))
        return looking, mixed, self.Kept(texts, looking, rows, query, inward, shares, received)

    def backward(self, gradient: Tensor, of_looking: Tensor, kept: Kept) -> Tensor:
        """The gradient of x, from those of what they receive and of who looks."""
        torch.sum(gradient, 1, keepdim=True, out=self.shift_gradient)
        self.no_gradient.zero_()
        of_received = torch.empty_like(kept.received)
        weights = zip(self.values, self.value_gradients, strict=True)
        parts = zip(self._cut(gradient), kept.received.unbind(2), weights, of_received.unbind(2), strict=True)
        for own, received, (value, value_gradient), out in parts:
            torch.bmm(own.transpose(1, 2), received, out=value_gradient)
            torch.bmm(own, value, out=out)
        of_received = of_received.view_as(kept.inward)
        of_shares = torch.bmm(of_received, kept.texts.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, kept.shares, 2, of_shares.dtype)
        of_inward = torch.bmm(of_scores, kept.texts).view_as(kept.received)
        of_query = torch.empty_like(kept.query)
        weights = zip(self.keys, self.key_gradients, strict=True)
        parts = zip(self._cut(kept.query), of_inward.unbind(2), weights, self._cut(of_query), strict=True)
        for query, own, (key, key_gradient), out in parts:
            torch.bmm(query.transpose(1, 2), own, out=key_gradient)
            torch.bmm(own, key.transpose(1, 2), out=out)
        of_query *= (of_query.shape[2] // self.heads) ** -0.5
        self.query.backward(kept.looking, of_query)
        by_token = torch.cat([kept.shares, of_scores], 1).transpose(1, 2)
        found = torch.bmm(by_token, torch.cat([of_received, kept.inward], 1)).view(len(gradient), -1, gradient.shape[2])
        return found.scatter_add_(1, kept.rows, torch.baddbmm(of_looking, of_query, self.query.weight))

    def _cut(self, rows: Tensor) -> tuple[Tensor, ...]:
        """(R, N, H K) -> of each head (R, N, K)."""
        return torch.chunk(rows, self.heads, 2)


class _Kept(NamedTuple):
    """What the way back through a layer needs."""

    attention: _Everyone.Kept | _Few.Kept
    mixed: Tensor
    attended: Normalised
    between: Tensor
    hidden: Tensor
    active: Tensor
    left: Normalised


class _Layer:
    """Attention and perceptron."""

    def __init__(self, parameters: Parameters, place: str, attention: type[_Everyone | _Few], heads: int) -> None:
        self.attention: Any = attention(parameters, f"{place}.attention.self", heads)
        self.out = Linear(parameters, f"{place}.attention.output.dense")
        self.out_norm = Norm(parameters, f"{place}.attention.output.LayerNorm", EPSILON)
        self.widen = Linear(parameters, f"{place}.intermediate.dense")
        self.narrow = Linear(parameters, f"{place}.output.dense")
        self.narrow_norm = Norm(parameters, f"{place}.output.LayerNorm", EPSILON)

    def forward(self, x: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, _Kept]:
        """(R, B T, D) -> (R, B T, D) or, where few look, (R, B Q, D)."""
        looking, mixed, attention = self.attention.forward(x, mask, rows)
        y, attended = self.out_norm.forward(self.out.forward(mixed).add_(looking))
        hidden = self.widen.forward(y)
        active = F.gelu(hidden)
        z, left = self.narrow_norm.forward(self.narrow.forward(active).add_(y))
        return z, _Kept(attention, mixed, attended, y, hidden, active, left)

    def backward(self, gradient: Tensor, kept: _Kept) -> Tensor:
        """The gradient of what came in."""
        gradient = self.narrow_norm.backward(kept.left, gradient)
        self.narrow.backward(kept.active, gradient)
        inwards = torch.ops.aten.gelu_backward(torch.bmm(gradient, self.narrow.weight), kept.hidden)
        self.widen.backward(kept.between, inwards)
        gradient = self.out_norm.backward(kept.attended, torch.baddbmm(gradient, inwards, self.widen.weight))
        self.out.backward(kept.mixed, gradient)
        found: Tensor = self.attention.backward(torch.bmm(gradient, self.out.weight), gradient, kept.attention)
        return found
