"""The small vision transformer: shifted patch tokenisation and locality self-attention.

Both are from Lee, Lee and Song, "Vision Transformer for Small-Size Datasets" (arXiv 2112.13492).
Letters in shapes: B images, T tokens (class token first), D embedding dimension, H heads, K dimension per head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows)


def shifted_patches(images: Tensor, patch: int) -> Tensor:
    """An image and its four one-pixel shifts, cut into patches: (B, channels, height, width) -> (B, patches, W)."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1))
    corners = ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1))  # unshifted, left, right, up, down
    shifted = [padded[..., y : y + height, x : x + width] for y, x in corners]
    # (B, W, patches): as fast as a reshape, and shorter.
    return F.unfold(torch.cat(shifted, dim=1), patch, stride=patch).transpose(1, 2)


class ShiftedPatches(nn.Module):
    """An image and its four one-pixel shifts, cut into patches, normalised and embedded."""

    def __init__(self, channels: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        width = 5 * channels * patch**2
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Linear(width, dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, patches, D)."""
        embedded: Tensor = self.embed(self.norm(shifted_patches(images, self.patch)))
        return embedded


class LocalAttention(nn.Module):
    """Multi-head self-attention in which no token attends to itself, with one learned temperature.

    Weights are softmax(exp(tau) q k^T) with the diagonal left out; exp(tau) starts at K^(-1/2).

    Tokens are compared and mixed as they are, because q k^T = x (W_q^T W_k) x^T, and because what is mixed may pass the
    maps of values and outputs afterwards, as one map. No key and no value is formed: where K is D, as in the full net,
    that is half of the products, and all heads of an image share one.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(-0.5 * math.log(dim_head)))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(heads * dim_head, dim)

    def forward(self, x: Tensor, queries: int) -> Tensor:
        """What the first tokens receive: (B, T, D) -> (B, queries, D)."""
        x = self.norm(x)
        shares = self.dropout(self._shares(x, queries))
        mixed = torch.bmm(shares.flatten(1, 2), x).view(len(x), queries, -1)
        to_value = self._maps()[2]  # (H, K, D)
        to_out = self.out.weight.view(-1, *to_value.shape[:2]).permute(1, 0, 2)  # (H, D, K)
        outputs = torch.bmm(to_out, to_value).permute(1, 0, 2).flatten(1)  # (D, H D)
        received: Tensor = self.dropout(F.linear(mixed, outputs, self.out.bias))
        return received

    def class_weights(self, x: Tensor) -> Tensor:
        """The attention of the class token: (B, T, D) -> (B, H, T)."""
        return self._shares(self.norm(x), 1)[:, 0]

    def _maps(self) -> Tensor:
        """Of queries, keys and values, (3, H, K, D)."""
        return self.query_key_value.weight.view(3, self.heads, -1, self.query_key_value.in_features)

    def _shares(self, x: Tensor, queries: int) -> Tensor:
        """Of all tokens in what the first of them receive: (B, T, D) -> (B, queries, H, T)."""
        to_query, to_key, _ = self._maps()
        compare = torch.bmm(to_key.transpose(1, 2), to_query * self.log_temperature.exp()).flatten(0, 1)  # (H D, D)
        asked = F.linear(x[:, :queries], compare).view(len(x), -1, x.shape[2])
        scores = torch.bmm(asked, x.transpose(1, 2)).view(len(x), queries, self.heads, -1)
        itself = torch.eye(queries, x.shape[1], dtype=torch.bool, device=x.device).unsqueeze(1)
        return scores.masked_fill(itself, -math.inf).softmax(-1)


class ViT(nn.Module):
    """Pre-norm vision transformer with a class token.

    Args:
        channels: of the images.
        size: height and width of the images, a multiple of `patch`.
        classes: number of classes.
        patch: height and width of a patch.
        dim: embedding dimension D.
        depth: number of blocks.
        heads: number of heads H.
        dim_head: dimension per head K.
        mlp: hidden width of the blocks' perceptrons.
        dropout: inside the blocks.
        embedding_dropout: after the positional embedding.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        mlp: int,
        dropout: float,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        self.patches = ShiftedPatches(channels, patch, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.dropout = nn.Dropout(embedding_dropout)
        self.attentions = nn.ModuleList(LocalAttention(dim, heads, dim_head, dropout) for _ in range(depth))
        self.perceptrons = nn.ModuleList(_perceptron(dim, mlp, dropout) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, images: Tensor, with_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, channels, size, size) -> logits (B, classes), and the class token's attention (depth, B, H, T)."""
        tokens = self.patches(images)
        x = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        x = self.dropout(x)
        rows = []
        for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
            if with_attention:
                rows.append(attention.class_weights(x))  # type: ignore[operator]
            # Nobody reads the other tokens of the last block, so only its class token is computed.
            queries = 1 if attention is self.attentions[-1] else x.shape[1]
            x = x[:, :queries] + attention(x, queries)
            x = x + perceptron(x)
        return self.head(x[:, 0]), torch.stack(rows) if rows else None


def _perceptron(dim: int, width: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, dim),
        nn.Dropout(dropout),
    )
