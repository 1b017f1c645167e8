"""The one-layer transformer on orthonormal tokens: losses and their gradients, stacked over runs (section 4).

Because the tokens are canonical basis vectors, X^T W x_L is a gather from W and X (...) x_L^T a scatter into it: no
embedding is ever multiplied. The forms are free of cancellation (section 8): with margins beyond 36 the textbook
p - e_y and a (g - <a, g>) lose all digits, and a normalised step would then follow rounding noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from workflow.lib.papers.ntp.language import DataSet


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, dim: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss -log softmax(logits)[target] and its gradient, both exact when the loss is tiny.

    Args:
        logits: shape (..., V, ...), with the V classes along `dim`.
        target: the index of the right class, shape of the logits without `dim`.
        dim: the dimension of the classes.

    Returns:
        The loss, shape of the target (infinite beyond 700), and softmax(logits) - e_target, shape of the logits.
    """
    at = target.unsqueeze(dim)
    # With margins m_v = logit_v - logit_target: the loss is log(1 + sum of e^m over the wrong v), and no
    # probability is ever subtracted from 1.
    wrong = (logits - logits.gather(dim, at)).scatter_(dim, at, -torch.inf).exp_()
    wrong_sum = wrong.sum(dim, keepdim=True)
    total = 1 + wrong_sum
    residual = wrong.div_(total).scatter_(dim, at, -wrong_sum / total)
    return torch.log1p(wrong_sum).squeeze(dim), residual


class Values:
    """Stage 1: the loss L0 of the value matrix W_ov on the collocation (equation before (5)).

    Args:
        data: one data set per run, all with the same vocabulary size V.
    """

    def __init__(self, data: Sequence[DataSet]) -> None:
        self.target = torch.from_numpy(np.stack([d.collocation for d in data]))

    def loss_and_gradient(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L0 summed over the vocabulary, shape (runs,), and its gradient (5), shape (runs, V, d).

        Args:
            value: W_ov, shape (runs, V, d) with d >= V.
        """
        spare = value.shape[2] - self.target.shape[1]
        loss, gradient = cross_entropy(value[:, :, : self.target.shape[1]], self.target, dim=1)
        return loss.sum(-1), torch.nn.functional.pad(gradient, (0, spare)) if spare else gradient


class KeysAndQueries:
    """Stage 2: the loss L of the key-query matrix W_kq on all sentences, the value matrix frozen.

    Args:
        data: one data set per run, all with the same numbers of sentences N and of positions L.
        value: the frozen W_ov, shape (runs, V, d).
    """

    def __init__(self, data: Sequence[DataSet], value: torch.Tensor) -> None:
        self.dimension = value.shape[2]
        sentences = torch.from_numpy(np.stack([d.sentences for d in data]))
        self.padding = sentences < 0
        tokens = sentences.clamp(min=0)
        query = torch.from_numpy(np.stack([d.last for d in data]))
        self.target = torch.from_numpy(np.stack([d.next_token for d in data]))
        # Where x_l^T W x_L stands in the flattened W, shape (runs, N * L).
        self.places = (tokens * self.dimension + query.unsqueeze(-1)).flatten(1)
        # W_ov x_l for every position, shape (runs, N, L, V); frozen, so gathered once.
        run = torch.arange(len(data))[:, None, None]
        self.outputs = value.transpose(1, 2)[run, tokens].masked_fill(self.padding.unsqueeze(-1), 0.0)
        # One-token sentences attend to themselves: a constant of the loss, without gradient.
        self.constant = Values(data).loss_and_gradient(value)[0]

    def attention(self, key_query: torch.Tensor) -> torch.Tensor:
        """softmax(X^T W_kq x_L) for every sentence, shape (runs, N, L); 0 on padding."""
        scores = key_query.flatten(1).gather(1, self.places).view(self.padding.shape)
        return torch.softmax(scores.masked_fill(self.padding, -torch.inf), -1)

    def loss_and_gradient(self, key_query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L (1), summed over all sentences, shape (runs,), and its gradient (6), shape (runs, d, d).

        Args:
            key_query: W_kq, shape (runs, d, d).
        """
        attention = self.attention(key_query)
        # For so few positions a product and a sum are faster than a batched matrix product; not so for V classes.
        logits = (attention.unsqueeze(-1) * self.outputs).sum(-2)
        loss, residual = cross_entropy(logits, self.target)
        slopes = torch.bmm(self.outputs.flatten(0, 1), residual.flatten(0, 1).unsqueeze(-1))
        # (diag(a) - a a^T) g as pairwise differences, each exact: a_l sum_k a_k (g_l - g_k).
        differences = slopes - slopes.transpose(1, 2)
        centred = torch.bmm(differences, attention.flatten(0, 1).unsqueeze(-1)).view_as(attention)
        gradient = torch.zeros_like(key_query).flatten(1)
        gradient.scatter_add_(1, self.places, (attention * centred).flatten(1))
        return loss.sum(-1) + self.constant, gradient.view_as(key_query)
