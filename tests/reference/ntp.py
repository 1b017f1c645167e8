"""Plain twins of the ntp room: dense one-hot embeddings, torch autograd, one seed at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workflow.lib.papers.ntp.language import DataSet


def embed(data: DataSet, dimension: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sentences as one-hot columns X (N, d, L), their last tokens x_L (N, d), the padding (N, L); d = V by default."""
    eye = torch.eye(data.vocabulary_size, dimension or data.vocabulary_size, dtype=torch.float64)
    sentences = torch.from_numpy(data.sentences)
    padding = sentences < 0
    columns = eye[sentences.clamp(min=0)] * ~padding.unsqueeze(-1)
    return columns.transpose(1, 2), eye[torch.from_numpy(data.last)], padding


def value_loss(value: torch.Tensor, data: DataSet) -> torch.Tensor:
    """L0, summed over the vocabulary, in the textbook form."""
    return -torch.log_softmax(value.T, dim=-1)[torch.arange(len(value)), torch.from_numpy(data.collocation)].sum()


def loss(key_query: torch.Tensor, value: torch.Tensor, data: DataSet, embedded: tuple) -> torch.Tensor:
    """L, summed over all sentences, batched over them, in the textbook form (1)."""
    columns, query, padding = embedded
    scores = torch.einsum("nvl,vw,nw->nl", columns, key_query, query).masked_fill(padding, -torch.inf)
    attention = torch.softmax(scores, dim=-1)
    logits = torch.einsum("uv,nvl,nl->nu", value, columns, attention)
    chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(logits)), torch.from_numpy(data.next_token)]
    return value_loss(value, data) - chosen.sum()


def train(
    data: DataSet, value: torch.Tensor, key_query: torch.Tensor, steps: tuple[int, int], step_sizes: tuple[float, float]
) -> dict[str, list[torch.Tensor]]:
    """Algorithm 1 as printed, by autograd: losses and norms before each step, the matrices after each stage."""
    value = value.clone().requires_grad_()
    losses_ov, losses, norms_ov, norms = [], [], [], []
    for _ in range(steps[0]):
        current = value_loss(value, data)
        (gradient,) = torch.autograd.grad(current, value)
        losses_ov.append(current.detach() / data.vocabulary_size)
        norms_ov.append(value.detach().norm())
        with torch.no_grad():
            value -= step_sizes[0] * gradient / gradient.norm()
    value = value.detach()
    key_query = key_query.clone().requires_grad_()
    embedded = embed(data)
    for _ in range(steps[1]):
        current = loss(key_query, value, data, embedded)
        (gradient,) = torch.autograd.grad(current, key_query)
        losses.append(current.detach())
        norms.append(key_query.detach().norm())
        with torch.no_grad():
            key_query -= step_sizes[1] * gradient / gradient.norm()
    curves = {"loss_ov": losses_ov, "loss": losses, "norm_ov": norms_ov, "norm_kq": norms}
    return {**curves, "value": [value], "key_query": [key_query.detach()]}


def train_by(
    make: Callable[[torch.Tensor, int], torch.optim.Optimizer],
    data: DataSet,
    value: torch.Tensor,
    key_query: torch.Tensor,
    steps: tuple[int, int],
) -> dict[str, list[torch.Tensor]]:
    """Both stages by autograd and any optimizer, which `make` gives for a parameter and its stage (0 or 1)."""

    def stage(number: int, parameter: torch.Tensor, objective: Callable[[torch.Tensor], torch.Tensor]) -> list:
        parameter.requires_grad_()
        optimizer = make(parameter, number)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            found = objective(parameter)
            found.backward()
            return found

        losses = []
        for _ in range(steps[number]):
            losses.append(objective(parameter).detach())
            optimizer.step(closure)
        return [*losses, objective(parameter).detach()]

    value, key_query = value.clone(), key_query.clone()
    losses_ov = stage(0, value, lambda v: value_loss(v, data))
    frozen, embedded = value.detach(), embed(data, value.shape[1])
    losses = stage(1, key_query, lambda w: loss(w, frozen, data, embedded))
    return {"loss_ov": losses_ov, "loss": losses, "value": [frozen], "key_query": [key_query.detach()]}
