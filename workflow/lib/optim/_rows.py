"""A proximal step on rows of fixed sum, for NumPy arrays and torch tensors alike.

It stands apart from its torch optimizer so that a training in NumPy need not import torch, which takes longer
than the training does.
"""

from __future__ import annotations

from typing import Any


def proximal_step(
    rows: Any, gradient: Any, *, step_size: float, penalty: float, weights: Any = None, keep_mean: bool = False
) -> Any:
    """The rows after one step; see `PreconditionedProx`.

    Args:
        rows: shape (..., rows, entries), or (entries,) for a single row.
        gradient: of the same shape.
        step_size: factor of the preconditioned gradient.
        penalty: factor of the l1 norm; 0 leaves the entries as they are.
        weights: probabilities of the rows, shape (..., rows); None for no preconditioning.
        keep_mean: also keep the mean of the rows, weighted by `weights`.
    """
    # In place, because at T x N entries new arrays cost more than the arithmetic.
    moved = gradient - gradient.mean(axis=-1, keepdims=True)
    if weights is not None:
        moved /= weights[..., None]
    if keep_mean:
        shares = weights[..., None] if weights is not None else 1 / rows.shape[-2]
        moved -= (shares * moved).sum(axis=-2, keepdims=True)
    moved *= -step_size
    moved += rows
    if penalty == 0:
        return moved
    threshold = step_size * penalty
    moved -= moved.clip(-threshold, threshold)
    kept = moved != 0
    count = kept.sum(axis=-1)
    if (count == 0).any():  # where nothing is left, every entry counts, and the row is spread evenly
        kept |= (count == 0)[..., None]
        count = kept.sum(axis=-1)
    lost = rows.sum(axis=-1) - moved.sum(axis=-1)
    moved += kept * (lost / count)[..., None]
    return moved
