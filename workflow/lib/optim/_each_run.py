"""Stacked runs for a class that knows nothing of them: one optimizer for each run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from workflow.lib.errors import unknown


class EachRun(torch.optim.Optimizer):
    """One optimizer for each run, on views of the stacked parameters.

    A closure makes the gradients of all runs and returns their losses, shape (runs,). It is evaluated once for all
    runs; a rule that evaluates it again within a step (such as LBFGS) evaluates the whole stack again and gets its own
    run's loss, which is right and slow. A class may give a parameter another tensor (`p.data = ...`).

    `param_groups` are as a single run's, with the stacked tensors; what is set there (by a scheduler, say) reaches
    every run. `state_dict` holds one state for each run under `runs`.

    Args:
        params: tensors of shape (runs, ...), or parameter groups of them.
        make: makes the optimizer of one run, from tensors or parameter groups.

    Raises:
        ValueError: the tensors do not agree on the number of runs, or a group has an unknown hyper-parameter.
    """

    def __init__(self, params: Iterable[Any], make: Callable[[list[Any]], torch.optim.Optimizer]) -> None:
        self.inner: list[torch.optim.Optimizer] = []
        super().__init__(params, {})
        sizes = {len(p) if p.ndim else 0 for group in self.param_groups for p in group["params"]}
        if len(sizes) != 1:
            raise ValueError(f"params: expected the same number of runs along every first dimension, found {sizes}")
        (self.runs,) = sizes
        self.inner = [make(self._of(run)) for run in range(self.runs)]
        self.defaults = self.inner[0].defaults
        self._told = [self._share(*pair) for pair in zip(self.param_groups, self.inner[0].param_groups, strict=True)]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of stacked tensors."""
        super().add_param_group(param_group)
        if self.inner:
            for run, optimizer in enumerate(self.inner):
                optimizer.add_param_group(self._of_run(self.param_groups[-1], run))
            self._told.append(self._share(self.param_groups[-1], self.inner[0].param_groups[-1]))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step every run; with a closure, evaluate it first and return the losses before the step, shape (runs,)."""
        losses = None
        if closure is not None:
            with torch.enable_grad():
                losses = closure()
            if torch.is_tensor(losses) and losses.numel() != self.runs:
                raise ValueError(f"closure: expected one loss for each of {self.runs} runs, found {losses.numel()}")
        with torch.no_grad():
            for group, told in zip(self.param_groups, self._told, strict=True):
                self._tell(group, told)
            for run in range(self.runs):
                self._hand_gradients(run)
        for run, optimizer in enumerate(self.inner):
            optimizer.step(None if closure is None else self._own(closure, losses, run))  # type: ignore[arg-type]
            self._take_over(run)
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Torch's, with the state of every run under `runs`."""
        return {**super().state_dict(), "runs": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, for as many runs."""
        if len(state_dict.get("runs", ())) != self.runs:
            raise ValueError(f"state_dict: expected the states of {self.runs} runs")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "runs"})
        for optimizer, state in zip(self.inner, state_dict["runs"], strict=True):
            optimizer.load_state_dict(state)
        self._told = [_values(group) for group in self.param_groups]

    def _of(self, run: int) -> list[Any]:
        groups = [self._of_run(group, run) for group in self.param_groups]
        alone = len(groups) == 1 and set(groups[0]) == {"params"}
        return groups[0]["params"] if alone else groups  # type: ignore[no-any-return]  # not every class takes groups

    def _of_run(self, group: dict[str, Any], run: int) -> dict[str, Any]:
        # Some classes take those alone that require gradients.
        return {**group, "params": [p.detach()[run].requires_grad_() for p in group["params"]]}

    def _share(self, group: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """Show the values of one run's group in the stacked group; what was told to the runs so far."""
        for key in _values(group):
            if key not in self.inner[0].defaults and key not in ("param_names", "initial_lr"):
                name = type(self.inner[0]).__name__
                raise ValueError(f"{name}: {unknown('hyper-parameter', key, self.inner[0].defaults)}")
        group.update(_values(own))
        return _values(group)

    def _tell(self, group: dict[str, Any], told: dict[str, Any]) -> None:
        """Hand on what was set in a stacked group since the last step."""
        changed = {key: value for key, value in _values(group).items() if value is not told.get(key)}
        if changed:
            at = next(i for i, found in enumerate(self.param_groups) if found is group)
            for optimizer in self.inner:
                optimizer.param_groups[at].update(changed)
            told.update(changed)

    def _hand_gradients(self, run: int) -> None:
        for group, own in zip(self.param_groups, self.inner[run].param_groups, strict=True):
            for p, view in zip(group["params"], own["params"], strict=True):
                # Copied, because a closure that is evaluated again writes over the gradients of the runs to come.
                view.grad = None if p.grad is None else p.grad[run].clone()

    @torch.no_grad()
    def _take_over(self, run: int) -> None:
        """Copy what a class put elsewhere than into the stacked tensors, which the next gradients are taken at."""
        for group, own in zip(self.param_groups, self.inner[run].param_groups, strict=True):
            for p, view in zip(group["params"], own["params"], strict=True):
                ours = p[run]
                if view.data_ptr() != ours.data_ptr():
                    ours.copy_(view)
                    view.data = ours.detach()

    def _own(self, closure: Callable[[], Any], losses: Any, run: int) -> Callable[[], Any]:
        """The closure of one run, whose first evaluation was made with all the others'."""
        first = True

        def own() -> Any:
            nonlocal first, losses
            if not first:
                self._take_over(run)
                losses = closure()
                with torch.no_grad():
                    self._hand_gradients(run)
            first = False
            return losses.reshape(-1)[run] if torch.is_tensor(losses) else losses

        return own


def _values(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
