"""Descent on the population loss (docs/papers/icl.md, sections 5 and 6.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from workflow.lib import grids
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.model import DOMINANT, OTHER, TARGET, Columns, long_prompts
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace

# The queries whose columns make up one K x K matrix, as places in `QUERIES`.
SCENARIOS = ((QUERIES.index("dominant"), QUERIES.index("rare")), (QUERIES.index("balanced"),))


class Part(Protocol):
    """Parameters that one optimizer moves, their gradient, and what they say of the columns."""

    parameter: np.ndarray
    gradient: np.ndarray

    def evaluate(self) -> np.ndarray | None:
        """Write the gradient of the population loss; return the loss for each run where a rule may ask for it."""

    def write(self, logits: np.ndarray) -> None:
        """Write the logits of the classes into an array (seeds, columns, 3)."""


def train(
    experiment: Experiment[Population, PopulationOptions],
    optimizer: Optimizer[PopulationOptions],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Run all systems (K, N and scenario) of all seeds from S = 0, each as if alone.

    Rules that act entry by entry move the three classes of every column; rules that commute with rotations move one
    coordinate for each class of a matrix; any other rule moves the K x K matrices themselves.

    Returns:
        The trace holds `mean_error`, the mean of the columns' L_k, at the snapshots, and `diverged_at` for a seed that
        did. The parameters are `steps` (seeds, snapshots) and `logits` (seeds, snapshots, columns, 3); snapshots are
        spaced geometrically.
    """
    arrays = {name: np.stack([block[name] for block in data.values()]) for name in data[next(iter(data))]}
    make = {"entries": _entries, "coordinates": _coordinates, "matrices": _matrices}[
        experiment.settings.carried(optimizer)
    ]
    parts = make(arrays)
    steps = [_step(optimizer, part) for part in parts]
    kept = np.array(grids.geometric(optimizer.options.iterations, experiment.settings.snapshots))
    wanted = set(kept.tolist())
    snapshots = []
    loud = np.seterr(invalid="ignore", over="ignore")  # a diverging run is a result
    for step in range(optimizer.options.iterations + 1):
        if step in wanted:
            snapshots.append(np.empty((*arrays["columns"].shape, 3)))
            for part in parts:
                part.write(snapshots[-1])
        if step < optimizer.options.iterations:
            for take in steps:
                take()
    np.seterr(**loud)
    logits = np.stack(snapshots, axis=1)
    return Run(_trace(arrays, data, kept, logits), {"steps": np.tile(kept, (len(data), 1)), "logits": logits})


def _step(optimizer: Optimizer[PopulationOptions], part: Part) -> Callable[[], object]:
    """What takes one step; that of `gd` is a line, and importing torch takes longer than its runs."""
    if optimizer.rule == "gd":
        lr = optimizer.hyperparameters["lr"]

        def descend() -> None:
            part.evaluate()
            part.parameter -= lr * part.gradient

        return descend

    import torch

    parameter = torch.from_numpy(part.parameter)
    parameter.grad = torch.from_numpy(part.gradient)

    def closure() -> torch.Tensor | None:
        losses = part.evaluate()
        return None if losses is None else torch.from_numpy(losses)

    return partial(optimizer.build([parameter], stacked=True).step, closure)  # type: ignore[arg-type]


def _trace(arrays: Arrays, data: Mapping[int, Arrays], kept: np.ndarray, logits: np.ndarray) -> Trace:
    trace = Trace(data)
    columns = Columns({name: values[0] for name, values in arrays.items()})  # the same for all seeds
    with np.errstate(invalid="ignore"):  # seed by seed, so that no number hangs on how many there are
        errors = [columns(one.transpose(2, 0, 1)).error.mean(axis=1) for one in logits]
    trace.record_run({"mean_error": np.array(errors)}, kept)
    return trace


class _Entries:
    """The classes of every column, for rules that move each entry by its own gradient."""

    def __init__(self, arrays: Arrays) -> None:
        self._columns = Columns({name: np.concatenate(values) for name, values in arrays.items()})
        self.parameter = np.zeros((arrays["columns"].size, 3))
        self.gradient = np.zeros_like(self.parameter)
        # The same memory with the classes first.
        self._at, self._gradient = self.parameter.T[:, None], self.gradient.T[:, None]

    def evaluate(self) -> None:
        np.negative(self._columns(self._at).drift, out=self._gradient)

    def write(self, logits: np.ndarray) -> None:
        logits.reshape(-1, 3)[:] = self.parameter


def _entries(arrays: Arrays) -> list[Part]:
    return [_Entries(arrays)]


class _Coordinates:
    """A coordinate for each class of a scenario's matrices: the class's logit times the root of its size.

    These are coordinates in an orthonormal basis of the matrices whose classes have equal entries, in which the
    gradients lie. So lengths and inner products are those of the K x K matrices.
    """

    def __init__(self, arrays: Arrays, queries: Sequence[int]) -> None:
        seeds, columns = arrays["columns"].shape
        self._shape = seeds, columns // len(QUERIES), len(QUERIES), 3
        self._queries = list(queries)
        mine = {name: self._of(values).reshape(-1, *values.shape[2:]) for name, values in arrays.items()}
        self._columns = Columns(mine)
        self._share = mine["columns"] * mine["probability"][:, TARGET]
        size = np.sqrt(mine["columns"][:, None] * mine["multiplicity"])
        self._size, self._inverse = size, np.divide(1, size, where=size > 0, out=np.zeros_like(size))
        self.parameter = np.zeros((seeds * self._shape[1], 3 * len(queries)))
        self.gradient = np.zeros_like(self.parameter)

    def _of(self, values: np.ndarray) -> np.ndarray:
        """The scenario's queries of an array (seeds, columns, ...): (seeds, systems, queries, ...)."""
        return values.reshape(*self._shape[:3], *values.shape[2:])[:, :, self._queries]

    def _logits(self) -> np.ndarray:
        return self.parameter.reshape(-1, 3) * self._inverse

    def evaluate(self) -> np.ndarray:
        seen = self._columns(self._logits().T[:, None])
        self.gradient[:] = (-seen.drift[:, 0].T * self._size).reshape(self.parameter.shape)
        return (self._share * seen.error[0]).reshape(len(self.parameter), -1).sum(axis=1)  # type: ignore[no-any-return]

    def write(self, logits: np.ndarray) -> None:
        found = self._logits().reshape(*self._shape[:2], -1, 3)
        logits.reshape(self._shape)[:, :, self._queries] = found


def _coordinates(arrays: Arrays) -> list[Part]:
    return [_Coordinates(arrays, queries) for queries in SCENARIOS]


class _Matrix:
    """One scenario's whole matrix S for each seed, rows for keys: the plain path, right for any rule.

    For prompts of any length the gradient is that of the matrix as it is; at finite N it is that of matrices whose
    classes have equal entries.

    Args:
        arrays: of `data.generate`, stacked over seeds.
        places: the scenario's columns, one for each of its queries.
    """

    def __init__(self, arrays: Arrays, places: list[int]) -> None:
        self._places = places
        mine = {name: values[0, places] for name, values in arrays.items()}
        size = int(mine["feature_count"][0])
        self._class = _classes(size, balanced=len(places) == 1)
        self._finite = Columns(mine) if mine["context_length"][0] else None
        self._share = mine["columns"] * mine["probability"][:, TARGET]
        self._probability = mine["probability"][np.minimum(np.arange(size), len(places) - 1), TARGET]
        # Column k with its target first, then the others in turn.
        self._turned = (np.arange(size)[:, None] + np.arange(size)) % size
        self.parameter = np.zeros((len(arrays["columns"]), size, size))
        self.gradient = np.zeros_like(self.parameter)

    def _means(self) -> np.ndarray:
        """The mean entry of each class, shape (seeds, queries, 3); 0 for a class without entries."""
        matrices = self.parameter.reshape(len(self.parameter), -1)
        count = 3 * len(self._places)
        sums = np.stack([np.bincount(self._class.ravel(), row, count) for row in matrices])
        sizes = np.bincount(self._class.ravel(), minlength=count)
        return (sums / np.maximum(sizes, 1)).reshape(len(matrices), -1, 3)

    def evaluate(self) -> np.ndarray:
        if self._finite is not None:
            return self._evaluate_classes(self._finite)
        every = np.arange(len(self._turned))
        at = self.parameter[:, self._turned, every].swapaxes(0, 1)  # (target first, seeds, columns)
        seen = long_prompts(at, self._probability[self._turned][:, None], np.ones(len(every))[:, None, None])
        self.gradient[:, self._turned, every] = -seen.drift.swapaxes(0, 1)
        return seen.error @ self._probability

    def _evaluate_classes(self, columns: Columns) -> np.ndarray:
        means = self._means()
        spread = np.abs(self.parameter - means.reshape(len(means), -1)[:, self._class]).max()
        if spread > 1e-6 * max(1.0, np.abs(means).max()):
            raise UserError(
                "population descent at finite context_lengths: the rule gives different steps to entries with equal "
                f"gradients (they are {spread:.2g} apart), which only infinite lengths allow"
            )
        seen = columns(means.transpose(2, 0, 1))
        self.gradient[:] = -seen.drift.transpose(1, 2, 0).reshape(len(means), -1)[:, self._class]
        return seen.error @ self._share

    def write(self, logits: np.ndarray) -> None:
        logits[:, self._places] = self._means()


def _classes(size: int, balanced: bool) -> np.ndarray:
    """Which class each entry of a K x K matrix belongs to: three for each query of the scenario, shape (K, K).

    Where features are equally likely, the key after the query's own stands in for a dominant one.
    """
    key, query = np.indices((size, size))
    if balanced:
        return np.where(key == query, TARGET, np.where(key == (query + 1) % size, DOMINANT, OTHER))
    kind = np.where(key == query, TARGET, np.where(key == 0, DOMINANT, OTHER))
    return kind + 3 * (query > 0)


def _matrices(arrays: Arrays) -> list[Part]:
    systems = range(0, arrays["columns"].shape[1], len(QUERIES))
    return [_Matrix(arrays, [first + query for query in queries]) for first in systems for queries in SCENARIOS]
