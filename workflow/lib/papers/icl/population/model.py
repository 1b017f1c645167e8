"""Attention, error and drifts of columns of logits in the limit of long prompts, N -> infinity.

The feature counts are then c_m = N p_m, and a column is three logits: of the target, the dominant and the other
features (see `data.generate`). Arrays have these classes first: (3, ...).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TARGET, DOMINANT, OTHER = 0, 1, 2


class Column(NamedTuple):
    """What a query v_k sees.

    `attention` (3, ...) on one feature of each class; `missing` (...) is 1 - Attn_k, summed from the other features
    without cancellation; `elsewhere` (...) is the sum of Attn_m^2 over m != k.
    """

    attention: np.ndarray
    missing: np.ndarray
    elsewhere: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """L_k = 1/2 [ (1 - Attn_k)^2 + sum_{m != k} Attn_m^2 ], shape (...)."""
        return (self.missing**2 + self.elsewhere) / 2


def column(logits: np.ndarray, probability: np.ndarray, multiplicity: np.ndarray) -> Column:
    """What the query of each column sees.

    Args:
        logits: shape (3, ...).
        probability: of one feature of each class, broadcastable to (3, ...).
        multiplicity: how many features share each class, broadcastable to (3, ...).
    """
    weights = probability * np.exp(logits - logits.max(axis=0))
    attention = weights / (weights * multiplicity).sum(axis=0)
    dominant, other = attention[DOMINANT], attention[OTHER]
    all_dominant, all_other = multiplicity[DOMINANT] * dominant, multiplicity[OTHER] * other
    return Column(attention, all_dominant + all_other, all_dominant * dominant + all_other * other)


def drifts(seen: Column, probability: np.ndarray) -> np.ndarray:
    """alpha_k, beta_{k,1} and beta_{k,n}, the negative gradients of the population loss, shape (3, ...).

        alpha_k    = p_k Attn_k ( sum_{m != k} Attn_m^2 + (1 - Attn_k)^2 )
        beta_{k,n} = p_k Attn_n ( sum_{m != k} Attn_m^2 - Attn_n - Attn_k (1 - Attn_k) )

    Args:
        seen: the columns.
        probability: of one feature of each class, broadcastable to (3, ...); the query is the target.
    """
    target, others = seen.attention[TARGET], seen.attention[DOMINANT:]
    drift = np.empty_like(seen.attention)
    drift[TARGET] = target * (seen.elsewhere + seen.missing**2)
    drift[DOMINANT:] = others * (seen.elsewhere - target * seen.missing - others)
    drift *= probability[TARGET]
    return drift
