"""The synthetic experiments of ib as the formulas stand: dense W, automatic differentiation, one run at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def logits(tokens: torch.Tensor, key_query: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """X W q for every sample, from left to right as it stands: tokens (n, T, d), query (n, d) -> (n, T)."""
    return (tokens @ key_query @ query[:, :, None])[:, :, 0]


def bracketed_logits(tokens: torch.Tensor, key_query: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """X (W q): the same numbers for T times fewer operations."""
    return (tokens @ (key_query @ query[:, :, None]))[:, :, 0]


def output(key_query: torch.Tensor, decoder: torch.Tensor, tokens: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Phi(W, u; X) = u^T X^T softmax(X W q) for every sample: tokens (n, T, d), query (n, d) -> (n,)."""
    attention = torch.softmax(logits(tokens, key_query, query), dim=1)  # (n, T)
    return (attention[:, None, :] @ tokens)[:, 0] @ decoder


def loss(key_query: torch.Tensor, decoder: torch.Tensor, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean logistic loss."""
    samples = torch.arange(len(data["labels"]))
    query = data["tokens"][samples, data["query"]]
    margins = data["labels"] * output(key_query, decoder, data["tokens"], query)
    return torch.nn.functional.softplus(-margins).mean()


def gap(key_query: torch.Tensor, data: dict[str, torch.Tensor], product: Product = logits) -> torch.Tensor:
    """L - L* with the decoder fixed, formed without cancellation, so that it may be followed below 1e-16."""
    samples = torch.arange(len(data["labels"]))
    query = data["tokens"][samples, data["query"]]
    attention = torch.softmax(product(data["tokens"], key_query, query), dim=1)
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    best = scores[samples, data["optimal"]]
    delta = (attention * (best[:, None] - scores)).sum(dim=1)
    return torch.log1p(torch.sigmoid(-best) * torch.expm1(delta)).mean()


def floor(data: dict[str, torch.Tensor]) -> torch.Tensor:
    """L*: the loss of full attention on the optimal token, decoder fixed."""
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    return torch.nn.functional.softplus(-scores.max(dim=1).values).mean()


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


Rule = Callable[[int, torch.Tensor, list[torch.Tensor]], list[torch.Tensor]]


def gd(step_size: float) -> Rule:
    return lambda t, gap, gradients: [step_size * g for g in gradients]


def ngd(step_size: float, decay: float = 0.0) -> Rule:
    def step(t: int, gap: torch.Tensor, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        return [step_size * (t + 1) ** -decay * g / norm for g in gradients]

    return step


def separate_ngd(step_size: float, decay: float = 0.0) -> Rule:
    def step(t: int, gap: torch.Tensor, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        norms = [torch.sqrt((g**2).sum()) for g in gradients]
        steps = zip(gradients, norms, strict=True)
        return [step_size * (t + 1) ** -decay * g / norm if norm > 0 else g for g, norm in steps]

    return step


def led_ngd(step_size: float, decay: float, other_step_size: float, other_decay: float) -> Rule:
    def step(t: int, gap: torch.Tensor, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        key_query, decoder = gradients
        norm = torch.sqrt((decoder**2).sum())
        return [
            other_step_size * (t + 1) ** -other_decay * key_query / norm,
            step_size * (t + 1) ** -decay * decoder / norm,
        ]

    return step


def polyak(factor: float) -> Rule:
    return lambda t, gap, gradients: [gap / (factor * sum((h**2).sum() for h in gradients)) * g for g in gradients]


def train(
    data: dict[str, torch.Tensor],
    rule: Rule,
    iterations: int,
    start: torch.Tensor,
    joint: bool = False,
    product: Product = logits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train W (and u, from 0, if `joint`) for a number of steps: the final (W, u)."""
    key_query = start.clone().requires_grad_()
    decoder = torch.zeros_like(data["decoder"]) if joint else data["decoder"].clone()
    decoder.requires_grad_(joint)
    parameters = [key_query, decoder] if joint else [key_query]
    for t in range(iterations):
        value = loss(key_query, decoder, data) if joint else gap(key_query, data, product)
        gradients = list(torch.autograd.grad(value, parameters))
        with torch.no_grad():
            for parameter, step in zip(parameters, rule(t, value, gradients), strict=True):
                parameter -= step
    return key_query.detach(), decoder.detach()
