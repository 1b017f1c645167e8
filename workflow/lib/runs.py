"""Traces of runs and the tidy tables they are stored in.

A trace is what a block of runs recorded: per metric, the steps and one row of values per seed.
On disk it is a Parquet table with the columns of `COLUMNS`, one row per recorded number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workflow.lib.errors import UserError, unknown
from workflow.lib.files import Arrays, atomic, readable

COLUMNS = ("paper", "experiment", "optimizer", "seed", "step", "metric", "value")

# The pseudo-optimizer under which facts of the data alone are stored (targets, floors).
DATA = "data"


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
    """What a block of runs recorded, in memory: metric -> `Curve` over the block's seeds."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(seeds)
        self._curves: dict[str, Curve] = {}

    def record(self, metric: str, steps: int | Sequence[int] | np.ndarray, values: object) -> None:
        """Record a metric at some steps.

        Args:
            metric: its name.
            steps: one step, or steps of shape (n,), increasing.
            values: shape (seeds, n), or (seeds,) for one step, or anything that broadcasts to it; NaN marks
                what was not recorded.

        Raises:
            ValueError: the shapes do not fit, or the metric was recorded before.
        """
        if metric in self._curves:
            raise ValueError(f"metric {metric!r} was recorded before")
        at = np.atleast_1d(np.asarray(steps, dtype=np.int64))
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 1 and at.size == 1:
            array = array[:, None]
        self._curves[metric] = Curve(self.seeds, at, np.broadcast_to(array, (len(self.seeds), at.size)))

    def record_run(
        self, curves: Mapping[str, np.ndarray], steps: Sequence[int] | np.ndarray | None = None, prefix: str = ""
    ) -> None:
        """Record metrics of shape (seeds, n); a run that diverges ends there.

        A run has diverged at the first step where one of the metrics is not finite. From there on its entries are
        left out, and the step is recorded as `diverged_at`.

        Args:
            curves: metrics by name.
            steps: shape (n,), increasing; 0, 1, ... when not given.
            prefix: of the names, `diverged_at` included.
        """
        finite = np.logical_and.accumulate(np.logical_and.reduce([np.isfinite(v) for v in curves.values()]), axis=1)
        at = np.arange(finite.shape[1]) if steps is None else np.asarray(steps)
        for metric, values in curves.items():
            self.record(f"{prefix}{metric}", at, np.where(finite, values, np.nan))
        if not finite.all() and f"{prefix}diverged_at" not in self:
            lost = ~finite
            self.record(f"{prefix}diverged_at", 0, np.where(lost.any(axis=1), at[lost.argmax(axis=1)], np.nan))

    def __getitem__(self, metric: str) -> Curve:
        try:
            return self._curves[metric]
        except KeyError:
            raise NotRecordedError(unknown("metric", metric, self._curves)) from None

    def __contains__(self, metric: str) -> bool:
        return metric in self._curves

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the recorded metrics, in order of recording."""
        return tuple(self._curves)

    def table(self, paper: str, experiment: str, optimizer: str) -> pa.Table:
        """The trace as a tidy table; NaN entries are left out."""
        seeds, steps, codes, values = [], [], [], []
        for code, curve in enumerate(self._curves.values()):
            rows, columns = np.nonzero(~np.isnan(curve.values))
            seeds.append(np.asarray(self.seeds, dtype=np.int64)[rows])
            steps.append(curve.steps[columns])
            values.append(curve.values[rows, columns])
            codes.append(np.full(rows.size, code, dtype=np.int32))
        count = sum(len(part) for part in values)

        def joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
            return np.concatenate(parts) if parts else np.empty(0, kind)

        return pa.table(
            {
                "paper": _labels([paper], np.zeros(count, np.int32)),
                "experiment": _labels([experiment], np.zeros(count, np.int32)),
                "optimizer": _labels([optimizer], np.zeros(count, np.int32)),
                "seed": _column(joined(seeds, np.int64)),
                "step": _column(joined(steps, np.int64)),
                "metric": _labels(list(self._curves), joined(codes, np.int32)),
                "value": _column(joined(values, np.float64)),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Trace:
        """The trace of a table that holds one optimizer's runs."""
        seeds, rows = np.unique(_numbers(table["seed"]), return_inverse=True)
        trace = cls(seeds.tolist())
        steps, values = _numbers(table["step"]), _numbers(table["value"])
        names, codes = _codes(table["metric"])
        # The entries of each metric, by one sort instead of a comparison of every row with every name.
        parts = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        for metric, mine in zip(names, parts, strict=True):
            at, columns = np.unique(steps[mine], return_inverse=True)
            array = np.full((len(trace.seeds), at.size), np.nan)
            array[rows[mine], columns] = values[mine]
            trace.record(metric, at, array)
        return trace


@dataclass
class Run:
    """The runs of one optimizer over some seeds.

    `parameters` holds the final parameters and sparse snapshots by name; the leading dimension of every
    array is the seeds of the trace, in their order.
    """

    trace: Trace
    parameters: Arrays = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs, in the order of every leading dimension."""
        return self.trace.seeds


def write_traces(path: Path | str, paper: str, experiment: str, traces: Mapping[str, Trace]) -> None:
    """Write the traces of several optimizers to one Parquet file, whole or not at all."""
    tables = [trace.table(paper, experiment, optimizer) for optimizer, trace in traces.items()]
    with atomic(path) as temporary:
        pq.write_table(pa.concat_tables(tables).unify_dictionaries(), temporary, compression="zstd")


def read_traces(*paths: Path | str) -> dict[str, Trace]:
    """Read Parquet files written by `write_traces` (blocks of seeds are joined): optimizer -> trace."""
    tables = []
    for path in paths:
        with readable(path):
            table = pq.ParquetFile(path).read()
            if tuple(table.column_names) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
        tables.append(table.cast(_SCHEMA))
    joined = pa.concat_tables(tables)
    names, codes = _codes(joined["optimizer"])
    return {
        name: Trace.from_table(joined.take(_column(np.flatnonzero(codes == code)))) for code, name in enumerate(names)
    }


# `pa.array` and `np.asarray` of a column import pandas on the way, which costs a job more time than its tables do.
# These wrap the same memory without it.


def _column(values: np.ndarray) -> pa.Array:
    """An array of numbers as a column."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(np.ascontiguousarray(values))])


def _labels(names: Sequence[str], codes: np.ndarray) -> pa.DictionaryArray:
    """A column of texts, each given by its index into `names`."""
    texts = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    dictionary = pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
    return pa.DictionaryArray.from_arrays(_column(codes), dictionary)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as an array."""
    return np.from_dlpack(column.combine_chunks())


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct texts of a column, in order of appearance, and the index of each entry into them."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.from_dlpack(encoded.indices)


_SCHEMA = pa.schema(
    [(name, {"seed": pa.int64(), "step": pa.int64(), "value": pa.float64()}.get(name, pa.string())) for name in COLUMNS]
)


class Metrics:
    """The metric tables of a paper, as figures and claims read them: experiment -> optimizer -> trace."""

    def __init__(self, experiments: Mapping[str, Mapping[str, Trace]]) -> None:
        self._experiments = experiments

    @classmethod
    def read(cls, paths: Mapping[str, Path | str]) -> Metrics:
        """Read the metric table of each named experiment."""
        return cls({name: read_traces(path) for name, path in paths.items()})

    def optimizers(self, experiment: str) -> tuple[str, ...]:
        """The optimizers that ran in an experiment, in the order of the configuration."""
        return tuple(name for name in self._traces(experiment) if name != DATA)

    def curve(self, experiment: str, metric: str, optimizer: str = DATA) -> Curve:
        """One metric of one optimizer; of the data themselves when no optimizer is named."""
        traces = self._traces(experiment)
        if optimizer not in traces:
            raise UserError(f"experiment {experiment!r}: {unknown('optimizer', optimizer, traces)}")
        return traces[optimizer][metric]

    def has(self, experiment: str, metric: str, optimizer: str = DATA) -> bool:
        """Whether a metric was recorded, as `diverged_at` is only for runs that diverged."""
        traces = self._traces(experiment)
        return optimizer in traces and metric in traces[optimizer]

    def value(self, experiment: str, metric: str, optimizer: str = DATA, step: int | None = None) -> np.ndarray:
        """The values of all seeds at one step (the last one when not said), shape (seeds,)."""
        curve = self.curve(experiment, metric, optimizer)
        return curve.final() if step is None else curve.at(step)

    def _traces(self, experiment: str) -> Mapping[str, Trace]:
        if experiment not in self._experiments:
            raise UserError(unknown("experiment", experiment, self._experiments))
        return self._experiments[experiment]
