"""Projected preconditioned l1-proximal gradient descent.

The step itself works on NumPy arrays and torch tensors alike, and importing this file does not import torch, which
takes longer than some trainings in NumPy do: the optimizer's class is defined when it is first asked for.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from workflow.lib.number_types import NonNegative, Positive
from workflow.lib.optim.traits import Traits

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


def proximal_step(
    rows: Any, gradient: Any, *, lr: Any, penalty: float, weights: Any = None, keep_mean: bool = False
) -> Any:
    """The rows after one step; see `PreconditionedProx`.

    Args:
        rows: shape (..., rows, entries), or (entries,) for a single row.
        gradient: of the same shape.
        lr: factor of the preconditioned gradient, a number or an array that broadcasts to the rows.
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
    moved *= -lr
    moved += rows
    if penalty == 0:
        return moved
    threshold = lr * penalty
    moved -= moved.clip(-threshold, threshold)
    kept = moved != 0
    count = kept.sum(axis=-1)
    if (count == 0).any():  # where nothing is left, every entry counts, and the row is spread evenly
        kept |= (count == 0)[..., None]
        count = kept.sum(axis=-1)
    lost = rows.sum(axis=-1) - moved.sum(axis=-1)
    moved += kept * (lost / count)[..., None]
    return moved


@cache
def _optimizer() -> type:
    import torch

    from workflow.lib.optim._norms import per_run
    from workflow.lib.optim._rule import Moving, Rule

    class PreconditionedProx(Rule):
        """Projected preconditioned l1-proximal gradient descent on rows whose sums are kept.

        Each row (the last dimension) belongs to one state of a Markov chain. Its gradient is centred, so that the
        sum of the row stays, and divided by the state's probability; then the entries are soft-thresholded by
        lr * penalty and what the row lost is shared among its non-zero entries. With penalty 0 this is plain
        preconditioned SGD.

        A parameter group may carry `weights`, the probabilities of its rows, shape (rows,) or (runs, rows), which
        sum to 1 and hold no zero; and `keep_mean`, to keep the weighted mean of the rows as well.

        Source: the method's name is from Ren, Wang and Lee (NeurIPS 2024), Algorithm 1; its form is recalled
        (docs/papers/scb.md, sections 4 and 5).

        Args:
            params: tensors or parameter groups of shape (..., rows, entries); every row moves on its own.
            lr: factor of the preconditioned gradient.
            penalty: factor of the l1 norm.
            stacked: the leading dimension counts independent runs.
        """

        def __init__(self, params: ParamsT, lr: Positive, *, penalty: NonNegative = 0.0, stacked: bool = False) -> None:
            defaults = {"lr": lr, "penalty": penalty, "weights": None, "keep_mean": False, "stacked": stacked}
            super().__init__(params, defaults)

        @staticmethod
        def traits(**_: Any) -> Traits:
            """What rooms have to know."""
            return Traits(per_run=("lr",))

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            """Add a group; ValueError for weights that are not positive, or as for any rule."""
            weights = param_group.get("weights")
            if weights is not None and not (weights > 0).all():
                raise ValueError(f"weights: expected positive probabilities, found {weights.tolist()}")
            super().add_param_group(param_group)

        def _move(self, moving: list[Moving], loss: Any) -> None:
            for group, p, gradient in moving:
                lr = group["lr"]
                options = {key: group[key] for key in ("penalty", "weights", "keep_mean")}
                lr = per_run(lr, p) if isinstance(lr, torch.Tensor) else lr
                p.copy_(proximal_step(p, gradient, lr=lr, **options))

    PreconditionedProx.__qualname__ = PreconditionedProx.__name__
    return PreconditionedProx


def __getattr__(name: str) -> Any:
    if name == "PreconditionedProx":
        return _optimizer()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
