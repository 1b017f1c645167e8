"""Norms of stacked gradients that neither underflow nor overflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def with_gradients(group: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The parameters of a group that have a gradient, each with it."""
    return [(p, p.grad) for p in group["params"] if p.grad is not None]


def joint_norm(tensors: Iterable[torch.Tensor], stacked: bool) -> torch.Tensor:
    """The Euclidean norm of all entries of several tensors together.

    Computed as m * ||g / m|| with m = max|g|, because the plain sum of squares underflows to 0 once the
    entries fall below 1e-162 (papers/ib, section 8).

    Args:
        tensors: each of shape (runs, ...) if stacked, else any shape.
        stacked: one norm per run instead of one in all.

    Returns:
        Shape (runs,) if stacked, else ().
    """
    runs = 1 if not stacked else None
    flat = torch.cat([t.reshape(runs or t.shape[0], -1) for t in tensors], dim=1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    norm = torch.linalg.vector_norm(flat / safe, dim=1) * safe[:, 0]
    return norm if stacked else norm[0]


def per_run(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape a value per run (runs,) so that it multiplies a tensor (runs, ...); scalars pass unchanged."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
