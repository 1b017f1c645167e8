"""An optimizer as a user would bring it: the textbook heavy ball, which knows nothing of this library."""

from __future__ import annotations

import torch

from tests.heavy_ball_helper import kept


class HeavyBall(torch.optim.Optimizer):
    """x <- x - lr g + momentum (x - x_previous)."""

    def __init__(self, params, lr: float, momentum=0.9):
        if lr <= 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                previous = self.state[p].get("previous", p.clone())
                self.state[p]["previous"] = p.clone()
                p.add_(kept(p - previous, group["momentum"]) - group["lr"] * p.grad)
        return loss


class Demanding(HeavyBall):
    """Asks for what no default gives, and has no word on the type of some."""

    def __init__(self, params, lr: float, *, warmup: int, power=1, name: str = "x", anything=None):
        super().__init__(params, lr)


class WithoutLr(HeavyBall):
    """Has no step size to set."""

    def __init__(self, params):
        super().__init__(params, 0.1)


class Replacing(torch.optim.Optimizer):
    """Gradient descent as older code writes it: tensors that require gradients, given another tensor each step."""

    def __init__(self, params, lr=0.1):
        super().__init__([p for p in params if p.requires_grad], {"lr": lr})

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - group["lr"] * p.grad
        return loss


class Tensorwise(HeavyBall):
    """Steps of one length in each tensor."""

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad / p.grad.norm())
        return loss


class Failing(Replacing):
    """Has a mistake of its own."""

    def step(self, closure=None):
        raise KeyError("momentum")


class Differentiating(Replacing):
    """Wants second derivatives, for which there is no graph."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                torch.autograd.grad(p.grad.sum(), p)


class WithoutClosure(Replacing):
    """Takes no closure."""

    def step(self):
        pass


NotAnOptimizer = dict
