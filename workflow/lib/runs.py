"""Traces of runs, in memory: what was recorded, as curves over steps.

A trace is what a block of runs recorded: per metric and index, the steps and one row of values per seed. The index says
which token, state, feature, layer or variant a metric belongs to, and is empty for scalars. `workflow.lib.tables`
keeps traces on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workflow.lib.errors import unknown

# The pseudo-optimizer under which facts of the data alone are stored (targets, floors).
DATA = "data"

Index = str | int | tuple[str | int, ...]


def index_name(index: Index) -> str:
    """An index as the tables show it.

    >>> index_name(3), index_name((1, 2)), index_name("")
    ('3', '1,2', '')
    """
    return ",".join(map(str, index)) if isinstance(index, tuple) else str(index)


class NotRecordedError(LookupError):
    """A number that no run recorded, for instance at a step beyond the end of shortened runs."""


@dataclass(frozen=True)
class Curve:
    """One metric of one optimizer: `values[i, j]` belongs to `seeds[i]` and `steps[j]`.

    NaN means that this seed recorded nothing at this step (for instance after it diverged).
    """

    seeds: tuple[int, ...]
    steps: np.ndarray
    values: np.ndarray

    def at(self, step: int) -> np.ndarray:
        """The values of all seeds at one recorded step, shape (seeds,)."""
        found = np.flatnonzero(self.steps == step)
        if not found.size:
            raise NotRecordedError(f"step {step} was not recorded; steps run from {self.steps[0]} to {self.steps[-1]}")
        return self.values[:, found[0]]

    def final(self) -> np.ndarray:
        """The values of all seeds at the last step, shape (seeds,)."""
        return self.values[:, -1]

    def window(self, first: float, last: float) -> Curve:
        """The part with first <= step <= last.

        Raises:
            NotRecordedError: no step lies there.
        """
        inside = (self.steps >= first) & (self.steps <= last)
        if not inside.any():
            raise NotRecordedError(f"no step from {first} to {last} was recorded; the last one is {self.steps[-1]}")
        return Curve(self.seeds, self.steps[inside], self.values[:, inside])

    def slope(self, first: float, last: float, *, log_steps: bool = False, log_values: bool = False) -> np.ndarray:
        """The least-squares slope over first <= step <= last, natural logarithms where asked, shape (seeds,).

        Raises:
            NotRecordedError: fewer than two steps lie there.
        """
        part = self.window(first, last)
        if part.steps.size < 2:
            raise NotRecordedError(f"fewer than two steps were recorded from {first} to {last}")
        x = np.log(part.steps) if log_steps else part.steps.astype(np.float64)
        y = np.log(part.values) if log_values else part.values
        x = x - x.mean()
        return np.asarray(y @ x / (x @ x))


class Trace:
    """What a block of runs recorded, in memory: (metric, index) -> `Curve` over the block's seeds."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(seeds)
        self._curves: dict[tuple[str, str], Curve] = {}

    def record(self, metric: str, steps: int | Sequence[int] | np.ndarray, values: object, index: Index = "") -> None:
        """Record a metric at some steps.

        Args:
            metric: its name.
            steps: one step, or steps of shape (n,), increasing.
            values: shape (seeds, n), or (seeds,) for one step, or anything that broadcasts to it; NaN marks
                what was not recorded.
            index: which token, state, feature, layer or variant.

        Raises:
            ValueError: the shapes do not fit, or the metric was recorded before.
        """
        key = metric, index_name(index)
        if key in self._curves:
            raise ValueError(f"metric {metric!r} was recorded before" + (f" at index {key[1]}" if key[1] else ""))
        at = np.atleast_1d(np.asarray(steps, dtype=np.int64))
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 1 and at.size == 1:
            array = array[:, None]
        self._curves[key] = Curve(self.seeds, at, np.broadcast_to(array, (len(self.seeds), at.size)))

    def record_array(self, metric: str, step: int, values: object) -> None:
        """Record an array at one step: shape (seeds, n) or (seeds, n, m), entry by entry, indices counted from 0."""
        array = np.asarray(values, dtype=np.float64)
        for place in np.ndindex(array.shape[1:]):
            self.record(metric, step, array[(slice(None), *place)], index=place)

    def record_run(
        self, curves: Mapping[str, np.ndarray], steps: Sequence[int] | np.ndarray | None = None, index: Index = ""
    ) -> None:
        """Record metrics of shape (seeds, n); a run that diverges ends there.

        A run has diverged at the first step where one of the metrics is not finite. From there on its entries are
        left out, and the step is recorded as `diverged_at`.

        Args:
            curves: metrics by name.
            steps: shape (n,), increasing; 0, 1, ... when not given.
            index: of the metrics, `diverged_at` included.
        """
        finite = np.logical_and.accumulate(np.logical_and.reduce([np.isfinite(v) for v in curves.values()]), axis=1)
        at = np.arange(finite.shape[1]) if steps is None else np.asarray(steps)
        for metric, values in curves.items():
            self.record(metric, at, np.where(finite, values, np.nan), index)
        if not finite.all() and ("diverged_at", index_name(index)) not in self._curves:
            lost = ~finite
            first = np.where(lost.any(axis=1), at[lost.argmax(axis=1)], np.nan)
            self.record("diverged_at", 0, first, index)

    def update(self, other: Trace) -> None:
        """Record everything that another trace of the same seeds holds."""
        for (metric, index), curve in other.items():
            self.record(metric, curve.steps, curve.values, index)

    def curve(self, metric: str, index: Index = "") -> Curve:
        """One metric at one index.

        Raises:
            NotRecordedError: it was not recorded.
        """
        key = metric, index_name(index)
        if key not in self._curves:
            indices = self.indices(metric)
            if indices:
                raise NotRecordedError(f"{metric}: {unknown('index', key[1], indices)}")
            raise NotRecordedError(unknown("metric", metric, {name for name, _ in self._curves}))
        return self._curves[key]

    def __getitem__(self, metric: str) -> Curve:
        return self.curve(metric)

    def __contains__(self, metric: str) -> bool:
        return any(name == metric for name, _ in self._curves)

    def items(self) -> Iterable[tuple[tuple[str, str], Curve]]:
        """Every curve with its metric and index, in order of recording."""
        return self._curves.items()

    def indices(self, metric: str) -> list[str]:
        """The indices of a metric, in order of recording."""
        return [index for name, index in self._curves if name == metric]


class Metrics:
    """The metric tables of a paper, as figures and claims read them: experiment -> optimizer -> trace.

    `used` collects the experiments and optimizers that were read, to tell which settings a claim hangs on.
    """

    def __init__(self, experiments: Mapping[str, Mapping[str, Trace]]) -> None:
        self._experiments = experiments
        self.used: set[tuple[str, str]] = set()

    def optimizers(self, experiment: str) -> tuple[str, ...]:
        """The optimizers that ran in an experiment, in the order of the configuration."""
        return tuple(name for name in self._traces(experiment) if name != DATA)

    def curve(self, experiment: str, metric: str, optimizer: str = DATA, index: Index = "") -> Curve:
        """One metric of one optimizer; of the data themselves when no optimizer is named.

        Raises:
            NotRecordedError: no such number was recorded.
        """
        return self._trace(experiment, optimizer).curve(metric, index)

    def has(self, experiment: str, metric: str, optimizer: str = DATA, index: Index | None = None) -> bool:
        """Whether a metric was recorded (`diverged_at` only is where one diverged), at any index unless one is said."""
        traces = self._traces(experiment)
        if optimizer not in traces:
            return False
        found = traces[optimizer].indices(metric)
        return bool(found) if index is None else index_name(index) in found

    def indices(self, experiment: str, metric: str, optimizer: str = DATA) -> list[str]:
        """The indices of a metric, in order of recording; none where it was not recorded."""
        return self._trace(experiment, optimizer).indices(metric)

    def divergence(self, experiment: str, optimizer: str) -> str:
        """How many seeds of an optimizer diverged, and where, in words; empty where none did."""
        trace = self._trace(experiment, optimizer)
        found = [trace.curve("diverged_at", index).values[:, 0] for index in trace.indices("diverged_at")]
        steps = np.fmin.reduce(found) if found else np.full(len(trace.seeds), np.nan)
        lost = steps[np.isfinite(steps)]
        if not lost.size:
            return ""
        return f"{optimizer} of {experiment}, {lost.size} of {steps.size} seeds, the first at step {int(lost.min())}"

    def ends(self, experiment: str, optimizer: str) -> np.ndarray:
        """The last step at which each seed recorded anything, or the one at which it diverged, shape (seeds,)."""
        trace = self._trace(experiment, optimizer)
        last = np.zeros(len(trace.seeds))
        for (metric, _), curve in trace.items():
            if metric != "diverged_at":
                last = np.maximum(last, np.where(np.isnan(curve.values), 0, curve.steps).max(axis=1))
        for index in trace.indices("diverged_at"):
            last = np.fmin(last, trace.curve("diverged_at", index).values[:, 0])
        return last

    def value(
        self, experiment: str, metric: str, optimizer: str = DATA, step: int | None = None, index: Index = ""
    ) -> np.ndarray:
        """The values of all seeds at one step (the last one when not said), shape (seeds,)."""
        curve = self.curve(experiment, metric, optimizer, index)
        return curve.final() if step is None else curve.at(step)

    def array(self, experiment: str, metric: str, optimizer: str = DATA) -> np.ndarray:
        """The last values of a metric recorded by `Trace.record_array`, shape (seeds, n) or (seeds, n, m)."""
        trace = self._trace(experiment, optimizer)
        indices = trace.indices(metric)
        if not indices:
            raise NotRecordedError(f"{metric} was not recorded for {optimizer} in {experiment}")
        places = np.array([index.split(",") for index in indices], dtype=int)
        array = np.full((len(trace.seeds), *(places.max(axis=0) + 1)), np.nan)
        for index, place in zip(indices, places, strict=True):
            array[(slice(None), *place)] = trace.curve(metric, index).final()
        return array

    def _trace(self, experiment: str, optimizer: str) -> Trace:
        traces = self._traces(experiment)
        self.used.add((experiment, optimizer))
        if optimizer not in traces:
            raise NotRecordedError(
                f"experiment {experiment!r}: {unknown('optimizer', optimizer, set(traces) - {DATA})}"
            )
        return traces[optimizer]

    def _traces(self, experiment: str) -> Mapping[str, Trace]:
        if experiment not in self._experiments:
            raise NotRecordedError(unknown("experiment", experiment, self._experiments))
        return self._experiments[experiment]
