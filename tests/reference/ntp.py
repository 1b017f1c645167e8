"""Plain twins of the ntp room: dense one-hot embeddings, torch autograd, one seed at a time."""

from __future__ import annotations

import torch

from workflow.lib.papers.ntp.language import DataSet


def embed(data: DataSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sentences as one-hot columns X (N, V, L), their last tokens x_L (N, V), and the padding (N, L)."""
    eye = torch.eye(data.vocabulary_size, dtype=torch.float64)
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
