"""Attention, error and drifts of columns of logits, in the limit of long prompts and for prompts of N tokens.

A column is the logits of one query. Keys that the data do not tell apart share a class: the target, the dominant and
the other features (see `data.generate`). Arrays have the classes first: (3, ...). The target is always the first one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.icl.formulas import NEAR

TARGET, DOMINANT, OTHER = 0, 1, 2


class Seen(NamedTuple):
    """What a query v_k sees.

    `attention` (classes, ...), the mean Attn_m on one feature of each class; `error` (...), L_k; `drift` (classes, ...)
    of one entry of each class: alpha_k, beta_{k,1} and beta_{k,n}, the negative gradients of the population loss.
    """

    attention: np.ndarray
    error: np.ndarray
    drift: np.ndarray


def long_prompts(logits: np.ndarray, probability: np.ndarray, multiplicity: np.ndarray) -> Seen:
    """What queries see in the limit N -> infinity, where the counts are c_m = N p_m.

        L_k        = 1/2 [ (1 - Attn_k)^2 + sum_{m != k} Attn_m^2 ]
        alpha_k    = p_k Attn_k ( sum_{m != k} Attn_m^2 + (1 - Attn_k)^2 )
        beta_{k,n} = p_k Attn_n ( sum_{m != k} Attn_m^2 - Attn_n - Attn_k (1 - Attn_k) )

    where 1 - Attn_k is summed from the other features without cancellation (docs/papers/icl.md, section 4.2).

    Args:
        logits: shape (classes, ...); any number of classes.
        probability: of one feature of each class, broadcastable to (classes, ...).
        multiplicity: how many features share each class, broadcastable to (classes, ...).
    """
    weights = np.exp(logits - np.maximum.reduce(logits))
    weights *= probability
    attention = weights / np.add.reduce(weights * multiplicity)
    target, others = attention[TARGET], attention[1:]
    together = multiplicity[1:] * others
    missing, elsewhere = np.add.reduce(together), np.add.reduce(together * others)
    squares = elsewhere + missing**2
    drift = np.empty_like(attention)
    drift[TARGET] = target * squares
    drift[1:] = others * (elsewhere - target * missing - others)
    drift *= probability[TARGET]
    return Seen(attention, squares / 2, drift)


class FinitePrompts:
    """What one column's query sees in prompts of N tokens, exactly: a sum over the counts c_k and c_1.

    Given those two, the others' N - c_k - c_1 = r tokens are spread evenly over n features with equal logits, so the
    sum of their squared counts, the only thing that matters of them, has the mean r + r (r - 1) / n
    (docs/papers/icl.md, section 6.5).

    Args:
        probability: of one feature of each class, shape (3,); 0 for a dominant class without a feature.
        multiplicity: how many features share each class, shape (3,); at most one is dominant.
        length: N.
    """

    def __init__(self, probability: np.ndarray, multiplicity: np.ndarray, length: int) -> None:
        counts = np.arange(length + 1)
        target, dominant = (grid.ravel() for grid in np.meshgrid(counts, counts, indexing="ij"))
        possible = target + dominant <= length
        target, dominant = target[possible], dominant[possible]
        rest = length - target - dominant
        factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])  # logarithms
        chance = factorial[length] * np.ones(len(rest))
        for count, share in zip((target, dominant, rest), probability * multiplicity, strict=True):
            with np.errstate(divide="ignore"):
                chance += np.where(count > 0, count * np.log(max(share, 1e-300)), 0.0) - factorial[count]
        likely = chance > np.log(1e-17)
        self._counts = np.stack([target, dominant, rest])[:, likely].astype(np.float64)
        self._chance = np.exp(chance[likely])
        self._others, self._probability = multiplicity[OTHER], probability[TARGET]
        rest = self._counts[OTHER]
        self._squares = rest + rest * (rest - 1) / self._others

    def __call__(self, logits: np.ndarray) -> Seen:
        """What the query sees at logits of shape (3, n)."""
        relative = (logits - logits.max(axis=0))[..., None]
        if not (relative >= -NEAR).all():  # some prompts lack the largest: relative to the largest they have
            present = np.where(self._counts[:, None] > 0, logits[..., None], -np.inf)
            relative = present - present.max(axis=0)
        single = np.exp(relative)
        weights = self._counts[:, None] * single
        total = weights.sum(axis=0)
        target, dominant, rest = weights / total
        others = self._squares * (single[OTHER] / total) ** 2
        missing = dominant + rest
        elsewhere = dominant**2 + others
        squares = elsewhere + missing**2
        inner = elsewhere - target * missing
        drift = [target * squares, dominant * (inner - dominant), (rest * inner - others) / self._others]
        return Seen(
            np.stack([target @ self._chance, dominant @ self._chance, rest @ self._chance / self._others]),
            squares @ self._chance / 2,
            np.stack([value @ self._chance for value in drift]) * self._probability,
        )


class Columns:
    """What all columns of some seeds see.

    Args:
        arrays: of `data.generate`; the columns of several seeds may follow each other.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._probability, self._multiplicity = arrays["probability"].T[:, None], arrays["multiplicity"].T[:, None]
        rows = zip(arrays["context_length"].tolist(), arrays["probability"], arrays["multiplicity"], strict=True)
        self._finite = {
            place: FinitePrompts(probability, multiplicity, length)
            for place, (length, probability, multiplicity) in enumerate(rows)
            if length
        }

    def __call__(self, logits: np.ndarray) -> Seen:
        """What the queries see at logits of shape (3, n, columns)."""
        seen = long_prompts(logits, self._probability, self._multiplicity)
        for place, finite in self._finite.items():
            for whole, part in zip(seen, finite(logits[..., place]), strict=True):
                whole[..., place] = part
        return seen
