"""One softmax-attention layer on prompts reduced to feature counts (docs/papers/icl.md, section 6.1).

All tokens of one feature get the same attention weight and, as labels are noise-free, carry the same label. So a
prompt is its feature counts c and its labels u_m = <w, v_m>, and with the logits S_mk = v_m^T Q v_k

    Attn_m given query v_k = c_m exp(S_mk) / sum_j c_j exp(S_jk),    yhat = sum_m Attn_m u_m:

work M K an epoch instead of M N d. Where the query is left among the keys (`mask_query` off), it adds one to the
keys of its feature but carries no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from workflow.lib.files import Arrays


@dataclass(frozen=True)
class Evaluation:
    """What the training prompts see at one Q.

    Per seed: `loss` (seeds,); `logits` S (seeds, K, K), rows for keys and columns for queries; `largest_entry`
    max |Q_ij| (seeds,). Per prompt: `residual` yhat - y and `on_target`, Attn_k for its query v_k, both (seeds, M).
    """

    loss: torch.Tensor
    logits: torch.Tensor
    largest_entry: torch.Tensor
    residual: torch.Tensor
    on_target: torch.Tensor


class TrainingPrompts:
    """The training prompts of several seeds, stacked, as counts and labels.

    Arrays have the shape (seeds, K, M): sums over few features are then sums of whole rows of prompts, with a softmax
    eight times as fast as one over a few neighbours.

    Args:
        data: seed -> arrays of `data.generate`.
        mask_query: whether the query token is left out of the keys.
    """

    def __init__(self, data: Mapping[int, Arrays], mask_query: bool) -> None:
        blocks = list(data.values())
        query = np.stack([block["query"] for block in blocks])
        count = blocks[0]["features"].shape[0]
        seeds, prompts = query.shape
        tokens = np.stack([block["tokens"] for block in blocks])
        flat = np.arange(seeds * prompts)[:, None] * count + tokens.reshape(seeds * prompts, -1)
        found = np.bincount(flat.ravel(), minlength=seeds * prompts * count).reshape(seeds, prompts, count)
        counts = np.ascontiguousarray(found.swapaxes(1, 2))
        is_query = np.arange(count)[:, None] == query[:, None]
        keys = counts if mask_query else counts + is_query
        labels = np.stack([block["features"] @ block["tasks"].T for block in blocks])
        with np.errstate(divide="ignore"):
            self._log_keys = torch.from_numpy(np.log(keys))
        self._labelled = torch.from_numpy(counts / np.maximum(keys, 1))
        self._labels = self._labelled * torch.from_numpy(labels)
        self._target = torch.from_numpy((labels * is_query).sum(1))
        self._is_query = torch.from_numpy(is_query.astype(np.float64))
        # Where the logits of a prompt's query lie among those of all seeds, keys and queries.
        column = np.arange(seeds * count).reshape(seeds, count, 1) * count
        self._own_logits = torch.from_numpy(column + query[:, None])
        self._features = torch.from_numpy(np.stack([block["features"] for block in blocks]))

    def evaluate(
        self, key_query: torch.Tensor, look: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, Evaluation | None]:
        """L_hat = 1/(2M) sum_j (yhat_j - <w_j, x_query,j>)^2 at Q (seeds, d, d), (seeds,), and its gradient in Q.

        And where one is to `look`, what the prompts see, which only what is recorded asks for.
        """
        features = self._features
        logits = features @ key_query @ features.mT
        weights = torch.softmax(self._log_keys + logits.take(self._own_logits), dim=1)
        predicted = (weights * self._labels).sum(1, keepdim=True)
        residual = predicted[:, 0] - self._target
        prompts = residual.shape[1]
        per_prompt = (residual / prompts)[:, None] * weights * (self._labels - predicted)
        slope = per_prompt @ self._is_query.mT
        loss, gradient = residual.square().sum(1) / (2 * prompts), features.mT @ slope @ features
        if not look:
            return loss, gradient, None
        seen = Evaluation(
            loss=loss,
            logits=logits,
            largest_entry=key_query.abs().amax((1, 2)),
            residual=residual,
            on_target=(weights * self._labelled * self._is_query).sum(1),
        )
        return loss, gradient, seen

    def mean_per_query(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the prompts of each query, (seeds, M) to (seeds, K); NaN for a feature that is no query."""
        return (self._is_query @ values[..., None])[..., 0] / self._is_query.sum(-1)


def population_loss(logits: torch.Tensor, counts: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """L = sum_k p_k L_k with the tasks integrated out, over given counts: what autograd differentiates in a check.

    Args:
        logits: S, shape (K, K), rows for keys.
        counts: shape (R, K).
        probabilities: shape (K,).
    """
    weights = torch.softmax(counts.log()[:, :, None] + logits, dim=1)
    missing = torch.eye(len(probabilities), dtype=logits.dtype) - weights
    return (missing.square().sum(1).mean(0) * probabilities).sum() / 2
