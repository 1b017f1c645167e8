"""Optimizers that the tests enter into the race."""

from __future__ import annotations

from typing import Any

import torch


class Refusing(torch.optim.Optimizer):
    """One that cannot be built."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        raise ValueError("will not be built")


class Fixed(torch.optim.Optimizer):
    """Signs of the gradient, always of one length."""

    def __init__(self, params: Any, length: float = 0.01) -> None:
        super().__init__(params, {"length": length})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["length"])
        return loss
