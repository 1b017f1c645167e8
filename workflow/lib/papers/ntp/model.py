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

    All runs' sentences lie side by side along the last dimension of every array, K = runs * N of them, so that each
    operation runs along contiguous memory; positions come first (docs/papers/ntp.md, section 6).

    Args:
        data: one data set per run, all with the same numbers of sentences N and of positions L.
        value: the frozen W_ov, shape (runs, V, d).
    """

    def __init__(self, data: Sequence[DataSet], value: torch.Tensor) -> None:
        self.runs, size, dimension = value.shape
        sentences = torch.from_numpy(np.stack([d.sentences for d in data])).permute(2, 0, 1)  # (L, runs, N)
        query = torch.from_numpy(np.stack([d.last for d in data]))
        target = torch.from_numpy(np.stack([d.next_token for d in data]))
        self.padding = (sentences < 0).flatten(1)
        tokens = sentences.clamp(min=0)
        run = torch.arange(self.runs)[:, None]
        # Where x_l^T W x_L stands in the flattened W of all runs, shape (L, K).
        self.places = ((run * dimension + tokens) * dimension + query).flatten(1)
        # By how much W_ov x_l prefers each wrong class to the right one, (L, V - 1, K), frozen. A step
        # needs the first position's, and the others' less the first's.
        wrong = torch.arange(size - 1)[:, None, None]
        wrong = wrong + (wrong >= target)
        margins = value[run, wrong, tokens.unsqueeze(1)] - value[run, target, tokens].unsqueeze(1)
        self.first = margins[0].flatten(1)
        self.beyond = (margins[1:] - margins[0]).flatten(2).masked_fill_(self.padding[1:].unsqueeze(1), 0.0)
        # One-token sentences attend to themselves: a constant of the loss, without gradient.
        self.constant = Values(data).loss_and_gradient(value)[0]

    def attention(self, key_query: torch.Tensor) -> torch.Tensor:
        """softmax(X^T W_kq x_L) for every sentence of W_kq (runs, d, d), shape (L, K); 0 on padding."""
        return torch.softmax(key_query.take(self.places).masked_fill_(self.padding, -torch.inf), 0)

    def loss_and_gradient(self, key_query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """L (1), summed over all sentences, shape (runs,), and its gradient (6), shape (runs, d, d).

        Args:
            key_query: W_kq, shape (runs, d, d).
        """
        attention = self.attention(key_query)
        margins = self.first  # + sum_l a_l (M_l - M_0), as the a_l add up to 1
        for beyond, weight in zip(self.beyond, attention[1:], strict=True):
            margins = margins.addcmul(beyond, weight)
        wrong = margins.exp()
        wrong_sum = wrong.sum(0)
        slopes = torch.zeros_like(attention)  # g_l - g_0
        torch.div((self.beyond * wrong).sum(1), 1 + wrong_sum, out=slopes[1:])
        # (diag(a) - a a^T) g as pairwise differences, each exact: a_l sum_k a_k (g_l - g_k).
        centred = ((slopes.unsqueeze(1) - slopes) * attention).sum(1)
        gradient = torch.zeros_like(key_query)
        gradient.view(-1).scatter_add_(0, self.places.flatten(), (attention * centred).flatten())
        return torch.log1p(wrong_sum).view(self.runs, -1).sum(1) + self.constant, gradient
