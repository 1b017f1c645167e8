"""Projected preconditioned l1-proximal gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._rows import proximal_step
from workflow.lib.settings import NonNegative, Positive


class PreconditionedProx(torch.optim.Optimizer):
    """Projected preconditioned l1-proximal gradient descent on rows whose sums are kept.

    Each row (the last dimension) belongs to one state of a Markov chain. Its gradient is centred, so that the
    sum of the row stays, and divided by the state's probability; then the entries are soft-thresholded by
    step_size * penalty and what the row lost is shared among its non-zero entries. With penalty 0 this is plain
    preconditioned SGD.

    A parameter group may carry `weights`, the probabilities of its rows, shape (rows,) or (runs, rows), which
    sum to 1 and hold no zero; and `keep_mean`, to keep the weighted mean of the rows as well.

    Source: the method's name is from Ren, Wang and Lee (NeurIPS 2024), Algorithm 1; its form is recalled
    (docs/papers/scb.md, sections 4 and 5).

    Args:
        params: tensors or parameter groups of shape (..., rows, entries); every row moves on its own.
        step_size: factor of the preconditioned gradient.
        penalty: factor of the l1 norm.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        *,
        step_size: Positive,
        penalty: NonNegative = 0.0,
        stacked: bool = False,
    ) -> None:
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, found {step_size}")
        if not penalty >= 0:
            raise ValueError(f"penalty: expected a number of at least 0, found {penalty}")
        defaults = {"step_size": step_size, "penalty": penalty, "weights": None, "keep_mean": False}
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["weights"] is not None and not (group["weights"] > 0).all():
                raise ValueError(f"weights: expected positive probabilities, found {group['weights'].tolist()}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.copy_(
                        proximal_step(
                            p,
                            p.grad,
                            step_size=group["step_size"],
                            penalty=group["penalty"],
                            weights=group["weights"],
                            keep_mean=group["keep_mean"],
                        )
                    )
        return loss
