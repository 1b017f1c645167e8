"""Norms of stacked gradients that neither underflow nor overflow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

_SAFE = 1e-140  # above it, the squares of all entries that matter are ordinary numbers


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
    rows = [t.reshape(t.shape[0] if stacked else 1, -1) for t in tensors]
    flat = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
    largest = torch.linalg.vector_norm(flat, torch.inf, dim=1, keepdim=True)
    scale = at_least_tiny(largest)
    norm = (torch.linalg.vector_norm(flat / scale, dim=1, keepdim=True) * scale).squeeze(1)
    return norm if stacked else norm[0]


def at_least_tiny(norm: torch.Tensor) -> torch.Tensor:
    """A norm to divide by: 0 becomes the smallest normal number, so that a zero gradient gives a zero step."""
    return norm.clamp_min(torch.finfo(norm.dtype).smallest_normal)


def unit(tensors: Sequence[torch.Tensor], stacked: bool) -> list[torch.Tensor]:
    """Several tensors divided by the Euclidean norm of all their entries together (per run when stacked).

    Zero stays zero, and nothing underflows.

    Args:
        tensors: each of shape (runs, ...) if stacked, else any shape.
        stacked: one norm per run instead of one in all.
    """
    flat = [t.reshape(len(t) if stacked else 1, -1) for t in tensors]
    if len(flat) == 1:
        norm = torch.linalg.vector_norm(flat[0], dim=1, keepdim=True)
        if norm.min() > _SAFE:
            return [(flat[0] / norm).view_as(tensors[0])]
    # Near the smallest numbers a sum of squares underflows: divide by the largest entry first.
    largest = torch.stack([torch.linalg.vector_norm(f, torch.inf, dim=1) for f in flat]).amax(0)
    scaled = [f / at_least_tiny(largest).unsqueeze(1) for f in flat]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(s, dim=1) for s in scaled]), dim=0)
    divisor = at_least_tiny(norm).unsqueeze(1)
    return [(s / divisor).view_as(t) for s, t in zip(scaled, tensors, strict=True)]


def per_run(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape a value per run (runs,) so that it multiplies a tensor (runs, ...); scalars pass unchanged."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
