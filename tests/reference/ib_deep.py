"""Plain twins of the deep nets of `ib`: a ViT as its papers tell it, the rules on lists of tensors, a plain loop."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class PlainAttention(nn.Module):
    """Locality self-attention, head by head, with the full matrix of weights."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.ModuleList(nn.Linear(dim, dim_head, bias=False) for _ in range(heads))
        self.keys = nn.ModuleList(nn.Linear(dim, dim_head, bias=False) for _ in range(heads))
        self.values = nn.ModuleList(nn.Linear(dim, dim_head, bias=False) for _ in range(heads))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(dim_head**-0.5)))
        self.out = nn.Linear(heads * dim_head, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        itself = torch.eye(x.shape[1], dtype=torch.bool)
        found, weights = [], []
        for query, key, value in zip(self.queries, self.keys, self.values, strict=True):
            scores = query(x) @ key(x).transpose(1, 2) * torch.exp(self.log_temperature)
            attention = torch.softmax(scores.masked_fill(itself, -math.inf), dim=-1)
            found.append(attention @ value(x))
            weights.append(attention)
        return self.out(torch.cat(found, dim=-1)), torch.stack(weights, dim=1)


class PlainViT(nn.Module):
    """Every token of every block; no dropout."""

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        mlp: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        width = 5 * channels * patch**2
        self.patch_norm, self.embed = nn.LayerNorm(width), nn.Linear(width, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.attentions = nn.ModuleList(PlainAttention(dim, heads, dim_head) for _ in range(depth))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim)) for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def tokens(self, images: Tensor) -> Tensor:
        left, right = F.pad(images[..., 1:], (0, 1)), F.pad(images[..., :-1], (1, 0))
        up, down = F.pad(images[..., 1:, :], (0, 0, 0, 1)), F.pad(images[..., :-1, :], (0, 0, 1, 0))
        # To the left means that a pixel shows what was on its left: the picture moves to the right.
        shifted = torch.cat([images, right, left, down, up], dim=1)
        p = self.patch
        patches = [
            shifted[:, :, y : y + p, x : x + p].flatten(1)
            for y in range(0, images.shape[2], p)
            for x in range(0, images.shape[3], p)
        ]
        return self.embed(self.patch_norm(torch.stack(patches, dim=1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(images)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        rows = []
        for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
            added, weights = attention(x)
            rows.append(weights[:, :, 0])
            x = x + added
            x = x + perceptron(x)
        return self.head(x[:, 0]), torch.stack(rows)


def copy_weights(fast: nn.Module, plain: PlainViT) -> None:
    """Give the plain ViT the weights of the fast one."""
    with torch.no_grad():
        plain.class_token.copy_(fast.class_token)
        plain.positions.copy_(fast.positions)
        plain.patch_norm.load_state_dict(fast.patches.norm.state_dict())
        plain.embed.load_state_dict(fast.patches.embed.state_dict())
        plain.head.load_state_dict(fast.head.state_dict())
        for mine, theirs in zip(plain.attentions, fast.attentions, strict=True):
            mine.norm.load_state_dict(theirs.norm.state_dict())
            mine.log_temperature.copy_(theirs.log_temperature)
            mine.out.load_state_dict(theirs.out.state_dict())
            heads = len(mine.queries)
            parts = theirs.query_key_value.weight.view(3, heads, -1, theirs.query_key_value.in_features)
            for kind, part in zip((mine.queries, mine.keys, mine.values), parts, strict=True):
                for head, weight in zip(kind, part, strict=True):
                    head.weight.copy_(weight)
        for mine, theirs in zip(plain.perceptrons, fast.perceptrons, strict=True):
            for own, other in zip([mine[0], mine[1], mine[3]], [theirs[0], theirs[1], theirs[4]], strict=True):
                own.load_state_dict(other.state_dict())


def sngd_step(weights: list[Tensor], gradients: list[Tensor], step_size: float, eta_max: float) -> list[Tensor]:
    """w - min(step_size / ||g||, eta_max) g."""
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    eta = min(step_size / norm, eta_max)
    return [w - eta * g for w, g in zip(weights, gradients, strict=True)]


def sps_step(
    weights: list[Tensor], gradients: list[Tensor], loss: float, c: float, eta_max: float, epsilon: float
) -> list[Tensor]:
    """w - min(f / (c ||g||^2 + epsilon), eta_max) g."""
    squared = sum(float((g**2).sum()) for g in gradients)
    eta = min(loss / (c * squared + epsilon), eta_max)
    return [w - eta * g for w, g in zip(weights, gradients, strict=True)]


def train(model: PlainViT, images: Tensor, labels: Tensor, batches: list[Tensor], step_size: float) -> list[float]:
    """SGD over the given batches; the loss of each before its step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=step_size)
    losses = []
    for index in batches:
        optimizer.zero_grad()
        logits, _ = model(images[index])
        loss = F.cross_entropy(logits, labels[index])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
