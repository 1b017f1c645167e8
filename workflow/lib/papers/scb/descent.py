"""Stacked runs of a one-layer linear transformer on fresh batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.scb import kernels
from workflow.lib.papers.scb.problem import Problem
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.streams import Seed

Evaluate = Callable[[], np.ndarray]
Update = Callable[[Evaluate], np.ndarray]

# A batch loss starts below 1/2; beyond this a run counts as diverged.
DIVERGED = 1e6


class Batches:
    """The endless stream of batches of one seed and purpose: the same for every optimizer that asks for it."""

    def __init__(
        self, problem: Problem, batch_size: int, seed: Seed, purpose: str, beside: Batches | None = None
    ) -> None:
        """Start the stream of one (unstacked) problem; it writes its batches where one `beside` it does.

        Memory that is used again and again stays in the cache.
        """
        self._state, self._before = (kernels.room((4, kernels.LANES), np.uint64) for _ in range(2))
        self._state[:] = seed.sequence(purpose).generate_state(self._state.size, np.uint64).reshape(self._state.shape)
        self._source = (
            self._state,
            kernels.words_for(problem.positions),
            kernels.cuts(problem.stationary),
            np.cumsum(problem.stationary),
            problem.support,
            np.cumsum(problem.weights, axis=-1),
            np.cumsum(problem.transition, axis=-1),
        )
        self._batch: tuple[np.ndarray, np.ndarray, np.ndarray] = (
            (
                kernels.room((batch_size, problem.positions), np.uint8),
                np.empty(batch_size, np.int64),
                np.empty(batch_size, np.int64),
            )
            if beside is None
            else beside._batch
        )

    def draw(self, *, again: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next batch, or the last one `again`: tokens (B, T), last tokens (B,) and next tokens (B,).

        The next call overwrites them, and so does one of a stream that shares their memory.
        """
        (self._state if again else self._before)[:] = self._before if again else self._state
        kernels.draw_batch(*self._source, *self._batch)
        return self._batch

    def gradients(
        self, attention: np.ndarray, value: np.ndarray, attention_gradient: np.ndarray, value_gradient: np.ndarray
    ) -> float:
        """The loss on the batch drawn last; its gradients are written into the last two arguments.

        Args:
            attention: shape (N, T).
            value: shape (N, N).
            attention_gradient: shape (N, T).
            value_gradient: shape (N, N).
        """
        return kernels.gradients(*self._batch, attention, value, attention_gradient, value_gradient)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


class Descent:
    """Runs stacked along the leading dimension, and what was recorded of them.

    Attributes:
        free: the attention's parameters, shape (runs, N, T): the attention itself, or its logits.
        value: shape (runs, N, N).
        free_gradient, value_gradient: of the last batch.
        recorded: metric -> one array (runs,) per entry of `steps`.
        diverged_at: the step at which a run diverged, NaN where it has not, shape (runs,).
    """

    def __init__(self, problem: Problem, attention: np.ndarray, value: np.ndarray, every: int, logits: bool = False):
        """Start from a state.

        Args:
            problem: stacked.
            attention: the attention, or its logits; shape (runs, N, T).
            value: shape (runs, N, N).
            every: number of steps between records.
            logits: the attention is the softmax of what is trained.
        """
        self.problem, self.every, self.logits = problem, every, logits
        self.free, self.value = kernels.room(np.shape(attention)), np.array(value)
        self.free[:] = attention
        self.free_gradient, self.value_gradient = kernels.room(self.free.shape), np.zeros_like(self.value)
        self.free_gradient[:] = 0
        self.diverged_at = np.full(len(self.free), np.nan)
        self.steps: list[int] = []
        self.recorded: dict[str, list[np.ndarray]] = {}
        self._losses: list[np.ndarray] = []

    @property
    def attention(self) -> np.ndarray:
        """The attention, shape (runs, N, T)."""
        return softmax(self.free) if self.logits else self.free

    def run(self, update: Update, batches: Sequence[Batches], first: int, last: int, *, fixed: bool = False) -> None:
        """Take the steps first, ..., last - 1 and record on the way.

        Args:
            update: moves `free` and `value` in place; it gets a function that writes their gradients on the step's
                batch and returns the losses, and returns the losses before the step.
            batches: the stream of each run.
            first: number of steps taken before.
            last: number of steps taken after.
            fixed: leave the attention as it is.
        """
        with np.errstate(all="ignore"):  # a diverging run overflows; that is noted, not an error
            for step in range(first, last):
                if not np.isnan(self.diverged_at).any():
                    return  # nothing more can be recorded
                before = self.free.copy() if fixed else None
                losses = update(self._evaluation(batches))
                self.diverged_at[np.isnan(self.diverged_at) & ~(losses < DIVERGED)] = step
                self._losses.append(losses)
                if before is not None:
                    self.free[:] = before
                if (step + 1) % self.every == 0 or step + 1 == last:
                    self.record(step + 1)

    def _evaluation(self, batches: Sequence[Batches]) -> Evaluate:
        """A step's function for the losses (runs,), which writes the gradients; its first call draws the batches."""
        again = False

        def evaluate() -> np.ndarray:
            nonlocal again
            attention, losses = self.attention, np.empty(len(batches))
            for i, stream in enumerate(batches):
                stream.draw(again=again)  # one after the other: a batch is in the cache when it is passed over
                losses[i] = stream.gradients(attention[i], self.value[i], self.free_gradient[i], self.value_gradient[i])
            again = True
            if self.logits:
                weighted = attention * self.free_gradient
                self.free_gradient[:] = weighted - attention * weighted.sum(axis=-1, keepdims=True)
            return losses

        return evaluate

    def record(self, step: int) -> None:
        """Record the state after `step` steps."""
        found = self.problem.metrics(self.attention, self.value)
        # Added one after another: np.mean adds those of a single seed in another order.
        total = sum(self._losses, np.zeros(len(self.free)))
        found["training_loss"] = total / len(self._losses) if self._losses else np.full(len(self.free), np.nan)
        self._losses.clear()
        self.steps.append(step)
        for name, values in found.items():
            self.recorded.setdefault(name, []).append(values)

    def curves(self) -> Arrays:
        """What was recorded: `steps` (n,), and metrics of shape (runs, n), NaN from where a run diverged."""
        steps = np.array(self.steps)
        after = ~(steps < np.where(np.isnan(self.diverged_at), np.inf, self.diverged_at)[:, None])
        metrics = {name: np.where(after, np.nan, np.array(values).T) for name, values in self.recorded.items()}
        return {"steps": steps, **metrics}


def preconditioned_prox(descent: Descent, *, lr: float, penalty: float = 0.0, attention_factor: float = 1.0) -> Update:
    """The update of the optimizer `preconditioned_prox`, compiled and without torch."""
    weights = descent.problem.stationary

    def update(evaluate: Evaluate) -> np.ndarray:
        losses = evaluate()
        size = lr * attention_factor
        kernels.proximal_steps(descent.free, descent.free_gradient, size, size * penalty, weights, False)
        kernels.proximal_steps(descent.value, descent.value_gradient, lr, 0.0, weights, True)
        return losses

    return update


def gradient_descent(descent: Descent, *, lr: float, attention_factor: float = 1.0) -> Update:
    """The update of the optimizer `gd`, without torch."""

    def update(evaluate: Evaluate) -> np.ndarray:
        losses = evaluate()
        descent.free -= lr * attention_factor * descent.free_gradient
        descent.value -= lr * descent.value_gradient
        return losses

    return update


# The updates of rules whose runs are shorter than importing torch takes.
WITHOUT_TORCH: Mapping[str, Callable[..., Update]] = {
    "preconditioned_prox": preconditioned_prox,
    "gd": gradient_descent,
}


def any_optimizer(descent: Descent, optimizer: Optimizer, attention_factor: float = 1.0) -> Update:
    """The update of any optimizer in torch, on the same memory; it gets the plain gradients, and losses (runs,).

    A rule that evaluates its closure again within a step gets the same batch again.
    """
    import torch

    parameters = [torch.from_numpy(descent.free), torch.from_numpy(descent.value)]
    for parameter, gradient in zip(parameters, (descent.free_gradient, descent.value_gradient), strict=True):
        parameter.grad = torch.from_numpy(gradient)
    groups: list[dict[str, Any]] = [{"params": [parameter]} for parameter in parameters]
    if attention_factor != 1:
        groups[0]["lr"] = optimizer.hyperparameters["lr"] * attention_factor
    stepper = optimizer.build(groups, stacked=True)

    def update(evaluate: Evaluate) -> np.ndarray:
        losses = []

        def closure() -> torch.Tensor:
            losses.append(evaluate())
            return torch.from_numpy(losses[-1])

        stepper.step(closure)  # type: ignore[arg-type]
        return losses[0]

    return update
