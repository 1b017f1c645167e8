"""Norms of stacked gradients that neither underflow nor overflow, in any precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import torch


def joint_norm(tensors: Iterable[torch.Tensor], stacked: bool) -> torch.Tensor:
    """The Euclidean norm of all entries of several tensors together.

    Where the plain sum of squares underflows, as it does once the entries fall below 1e-162 (docs/papers/ib.md,
    section 4.4), it is m * ||g / m|| with m = max|g|.

    Args:
        tensors: each of shape (runs, ...) if stacked, else any shape.
        stacked: one norm per run instead of one in all.

    Returns:
        Shape (runs,) if stacked, else (); infinite only where the norm itself is beyond the largest number.
    """
    rows = [t.reshape(t.shape[0] if stacked else 1, -1) for t in tensors]
    flat = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
    if flat.dtype != torch.float64:  # its squares are ordinary numbers in float64
        found = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).to(flat.dtype)
        return found if stacked else found[0]
    plain = _plain_norm(flat)
    if plain is not None:
        return plain.squeeze(1) if stacked else plain[0, 0]
    scale = at_least_tiny(torch.linalg.vector_norm(flat, torch.inf, dim=1, keepdim=True))
    norm = (torch.linalg.vector_norm(flat / scale, dim=1, keepdim=True) * scale).squeeze(1)
    return norm if stacked else norm[0]


def each_norm(tensors: Sequence[torch.Tensor], stacked: bool) -> torch.Tensor:
    """The Euclidean norm of each of several tensors, what `joint_norm` gives of it alone.

    Returns:
        Shape (tensors, runs) if stacked, else (tensors,).
    """
    if any(t.dtype == torch.float64 for t in tensors):
        return torch.stack([joint_norm([t], stacked) for t in tensors])
    rows = [t.reshape(t.shape[0] if stacked else 1, -1) for t in tensors]
    found = torch.stack([torch.linalg.vector_norm(row, dim=1, dtype=torch.float64) for row in rows]).to(rows[0].dtype)
    return found if stacked else found.squeeze(1)


def at_least_tiny(norm: torch.Tensor) -> torch.Tensor:
    """A norm to divide by: 0 becomes the smallest normal number, so that a zero gradient gives a zero step."""
    return norm.clamp_min(torch.finfo(norm.dtype).smallest_normal)


@cache
def _smallest_safe(dtype: torch.dtype) -> float:
    """From this norm on the squares of all entries that matter are ordinary numbers."""
    info = torch.finfo(dtype)
    return float(info.tiny**0.5 / info.eps)


def _plain_norm(flat: torch.Tensor) -> torch.Tensor | None:
    """The norm of each row, shape (rows, 1); None where a sum of squares underflows or overflows, or is 0."""
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    lengths = norm.flatten().tolist()
    return norm if min(lengths) > _smallest_safe(norm.dtype) and max(lengths) < torch.inf else None


def safe_norm(tensor: torch.Tensor, stacked: bool) -> torch.Tensor | None:
    """A tensor's norm (per run when stacked), of a shape to divide it by; None where its square is no safe number."""
    flat = tensor if stacked and tensor.ndim == 2 else tensor.reshape(len(tensor) if stacked else 1, -1)
    norm = _plain_norm(flat)
    if norm is None or flat is tensor:
        return norm
    return norm.view(len(flat), *(1,) * (tensor.ndim - 1)) if stacked else norm[0, 0]


def unit(tensors: Sequence[torch.Tensor], stacked: bool) -> list[torch.Tensor]:
    """Several tensors divided by the Euclidean norm of all their entries together (per run when stacked).

    Zero stays zero, and whatever else is finite gets norm 1.

    Args:
        tensors: each of shape (runs, ...) if stacked, else any shape.
        stacked: one norm per run instead of one in all.
    """
    if len(tensors) == 1:
        plain = safe_norm(tensors[0], stacked)
        if plain is not None:
            return [tensors[0] / plain]
    # Elsewhere a sum of squares underflows or overflows: divide by the largest entry first.
    flat = [t.reshape(len(t) if stacked else 1, -1) for t in tensors]
    largest = torch.stack([torch.linalg.vector_norm(f, torch.inf, dim=1) for f in flat]).amax(0)
    scaled = [f / at_least_tiny(largest).unsqueeze(1) for f in flat]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(s, dim=1) for s in scaled]), dim=0)
    divisor = at_least_tiny(norm).unsqueeze(1)
    return [(s / divisor).view_as(t) for s, t in zip(scaled, tensors, strict=True)]


def ratio(numerator: torch.Tensor | float, denominator: torch.Tensor) -> torch.Tensor:
    """Numerator / denominator, finite: 0 where the denominator is 0, and at most the largest number."""
    found = torch.where(denominator > 0, numerator / denominator, 0.0)
    return found.clamp(max=torch.finfo(found.dtype).max)


def per_run(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape a value per run (runs,) so that it multiplies a tensor (runs, ...); scalars pass unchanged."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
