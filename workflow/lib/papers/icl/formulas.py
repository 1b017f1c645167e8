"""Errors, attention scores and drifts of the population, exact in the tasks (docs/papers/icl.md, section 4)."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

# Within this range of logits no square of an exponential underflows, whichever features a prompt lacks.
NEAR = 300.0
# As many columns are worked on at a time as stay in a processor's cache with 2,000 prompts.
AT_ONCE = 32


def errors_and_attention(
    logits: np.ndarray, counts: np.ndarray, mask_query: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The per-feature errors L_k and the mean attention scores Attn_m given query v_k.

        L_k = 1/2 E[ (1 - Attn_k)^2 + sum_{m != k} Attn_m^2 ]

    The task w is integrated out; the expectation is over the given counts. With Z_r = sum_m c_rm exp(S_mk) all means
    over prompts are matrix products, so that no exponential is taken per prompt. Columns whose logits lie too far
    apart for that are taken prompt by prompt.

    Args:
        logits: S, shape (n, K, K), rows for keys and columns for queries.
        counts: feature counts of R prompts, shape (R, K).
        mask_query: whether the query is left out of the keys.

    Returns:
        L of shape (n, K) and the scores of shape (n, K, K), rows for keys; NaN where the logits are not finite.
    """
    size = logits.shape[-1]
    c = counts.astype(np.float64)
    own_key = 0.0 if mask_query else 1.0
    errors = np.empty(logits.shape[:2])
    attention = np.empty(logits.shape)
    with np.errstate(invalid="ignore"):
        below = logits - logits.max(axis=1, keepdims=True)
        near = (below >= -NEAR).all(axis=1)  # not so where they are NaN
    weights = np.exp(np.where(near[:, None], below, 0.0))
    squares = c**2
    for k, first in product(range(size), range(0, len(logits), AT_ONCE)):
        some = slice(first, first + AT_ONCE)
        others = weights[some, :, k].T.copy()
        target = others[k].copy()
        others[k] = 0.0
        rest = c @ others
        inverse = (c[:, k : k + 1] + own_key) * target
        inverse += rest
        np.reciprocal(inverse, out=inverse)
        attention[some, :, k] = weights[some, :, k] * (c.T @ inverse).T / len(c)
        rest += own_key * target
        rest *= inverse  # 1 - Attn_k without cancellation
        elsewhere = squares.T @ np.square(inverse, out=inverse)  # summed over prompts before the features
        errors[some, k] = (np.einsum("rn,rn->n", rest, rest) + (elsewhere * others**2).sum(axis=0)) / (2 * len(c))
    for n, k in np.argwhere(~near):
        scores = attention_scores(logits[n, :, k], counts, None if mask_query else k)
        attention[n, :, k] = scores.attention.mean(axis=0)
        others = np.delete(scores.attention, k, axis=1)
        errors[n, k] = ((others.sum(axis=1) + scores.unlabelled) ** 2 + (others**2).sum(axis=1)).mean() / 2
    return errors, attention


class Scores(NamedTuple):
    """Attention in R prompts: on the labelled tokens of each feature (R, K), and on the query itself (R,)."""

    attention: np.ndarray
    unlabelled: np.ndarray


def attention_scores(column: np.ndarray, counts: np.ndarray, own_key: int | None = None) -> Scores:
    """Attention prompt by prompt, exact at any distance of the logits.

    Exponentials are taken relative to the largest logit of a prompt's own keys, so that a prompt which lacks the
    feature of the largest logit of all keeps its digits.

    Args:
        column: the logits of one query, shape (K,).
        counts: shape (R, K).
        own_key: the query's feature where the query is a key, else None.
    """
    keys = counts.copy()
    if own_key is not None:
        keys[:, own_key] += 1
    with np.errstate(invalid="ignore"):
        present = np.where(keys > 0, column, -np.inf)
        single = np.exp(present - present.max(axis=1, keepdims=True))
    single = single / (keys * single).sum(axis=1, keepdims=True)
    return Scores(counts * single, single[:, own_key] if own_key is not None else np.zeros(len(counts)))


def drifts(logits: np.ndarray, counts: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The drifts alpha_k (diagonal) and beta_{k,n} (row n, column k) of gradient descent: minus dL/dS.

        alpha_k    = p_k E[ Attn_k ( sum_{m != k} Attn_m^2 + (1 - Attn_k)^2 ) ]
        beta_{k,n} = p_k E[ Attn_n ( sum_{m != k} Attn_m^2 - Attn_n - Attn_k (1 - Attn_k) ) ]

    Args:
        logits: S, shape (K, K), rows for keys.
        counts: shape (R, K).
        probabilities: shape (K,).

    Returns:
        Shape (K, K), rows for keys.
    """
    drift = np.empty_like(logits)
    for k, p in enumerate(probabilities):
        attention = attention_scores(logits[:, k], counts).attention
        target = attention[:, k].copy()
        attention[:, k] = 0.0
        missing, elsewhere = attention.sum(axis=1), (attention**2).sum(axis=1)
        drift[:, k] = (attention * ((elsewhere - target * missing)[:, None] - attention)).mean(axis=0)
        drift[k, k] = (target * (elsewhere + missing**2)).mean()
        drift[:, k] *= p
    return drift


def initial_errors(probabilities: np.ndarray, context_length: int) -> np.ndarray:
    """L_k at Q = 0, shape (K,): 1/2 [ (1 - p_k)^2 + sum_{m != k} p_m^2 + sum_m p_m (1 - p_m) / N ]."""
    p = np.asarray(probabilities)
    return ((1 - p) ** 2 - p**2 + (p**2).sum() + (p * (1 - p)).sum() / context_length) / 2
