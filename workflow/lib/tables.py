"""Traces on disk: tidy Parquet tables, one row per recorded number (docs/glossary.md names every metric)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workflow.lib.files import IDENTITY, Identity, atomic, readable
from workflow.lib.runs import Metrics, Trace

COLUMNS = ("paper", "experiment", "optimizer", "seed", "step", "index", "metric", "value")
# Under which a file keeps its optimizers with their seeds.
_RUNS = "runs"


def write_traces(
    path: Path | str,
    paper: str,
    experiment: str,
    traces: Mapping[str, Trace],
    identity: Identity | None = None,
    swept: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the traces of several optimizers to one Parquet file, whole or not at all, and what the file is.

    NaN entries are left out, but for a last step that no seed reached, and the first one of such runs if they recorded
    nothing there: these say that the runs ended before.
    Optimizers and seeds that recorded nothing are kept by name. The values of runs that are points of a sweep, by
    label, are kept in the file's metadata, as JSON under `swept`.
    """
    tables = [_table(trace, paper, experiment, optimizer) for optimizer, trace in traces.items()]
    told = {_RUNS: json.dumps({optimizer: trace.seeds for optimizer, trace in traces.items()})}
    if identity is not None:
        told[IDENTITY] = str(identity)
    if swept:
        told["swept"] = json.dumps(swept)
    joined = pa.concat_tables(tables).unify_dictionaries()
    with atomic(path) as temporary:
        whole = io.BytesIO()  # written by Python, so that a full disk is the OSError it is everywhere else
        pq.write_table(
            joined.replace_schema_metadata(told),
            whole,
            compression="zstd",
            write_page_checksum=True,
        )
        temporary.write_bytes(whole.getbuffer())


def read_traces(*paths: Path | str, identities: Sequence[Identity | None] | None = None) -> dict[str, Trace]:
    """Read files written by `write_traces` (blocks of seeds are joined): optimizer -> trace.

    Args:
        paths: the files.
        identities: what each of them has to be, where that is asked.

    Raises:
        UserError: a file cannot be read, or is not the one asked for.
    """
    runs: dict[str, list[int]] = {}
    tables = []
    for path, identity in zip(paths, identities or [None] * len(paths), strict=True):
        with readable(path):
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            if tuple(table.column_names) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
            told = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
            if identity is not None:
                identity.check(path, told.get(IDENTITY))
            for name, seeds in json.loads(told[_RUNS]).items():
                runs.setdefault(name, []).extend(seeds)
            tables.append(table if table.schema.equals(_SCHEMA) else table.cast(_SCHEMA))
    joined = pa.concat_tables(tables).unify_dictionaries()
    names, codes = _codes(joined["optimizer"])
    of = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    columns = _Columns(
        _numbers(joined["seed"]),
        _numbers(joined["step"]),
        _numbers(joined["value"]),
        *_codes(joined["metric"]),
        *_codes(joined["index"]),
    )
    nothing = np.empty(0, np.int64)
    return {name: _trace(columns, of.get(name, nothing), seeds) for name, seeds in runs.items()}


def told_identity(path: Path | str) -> str:
    """What a file written by `write_traces` says that it is (`workflow.lib.identity`); nothing where it does not."""
    with readable(path):
        return str((pq.read_schema(path).metadata or {}).get(IDENTITY.encode(), b"").decode())


def read_metrics(paths: Mapping[str, Path | str], identities: Mapping[str, Identity] | None = None) -> Metrics:
    """Read the metric table of each named experiment; refuse one that is not the one asked for."""
    asked = {name: [identities[name]] if identities else None for name in paths}
    return Metrics({name: read_traces(path, identities=asked[name]) for name, path in paths.items()})


def _table(trace: Trace, paper: str, experiment: str, optimizer: str) -> pa.Table:
    keys, curves = [key for key, _ in trace.items()], [curve for _, curve in trace.items()]
    places = [np.nonzero(_kept(curve.values)) for curve in curves]
    sizes = [rows.size for rows, _ in places]
    seeds = np.asarray(trace.seeds, dtype=np.int64)
    nothing = np.empty(0, np.int64)
    metrics, indices = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    same = np.zeros(sum(sizes), np.int32)

    def codes(names: Sequence[str], part: int) -> np.ndarray:
        known = {name: code for code, name in enumerate(names)}
        return np.repeat(np.array([known[key[part]] for key in keys], dtype=np.int32), sizes)

    steps = [curve.steps[at] for curve, (_, at) in zip(curves, places, strict=True)]
    values = [curve.values[place] for curve, place in zip(curves, places, strict=True)]
    return pa.table(
        {
            "paper": _labels([paper], same),
            "experiment": _labels([experiment], same),
            "optimizer": _labels([optimizer], same),
            "seed": _column(np.concatenate([nothing, *(seeds[rows] for rows, _ in places)])),
            "step": _column(np.concatenate([nothing, *steps])),
            "index": _labels(indices, codes(indices, 1)),
            "metric": _labels(metrics, codes(metrics, 0)),
            "value": _column(np.concatenate([np.empty(0), *values])),
        }
    )


def _kept(values: np.ndarray) -> np.ndarray:
    """Which entries (seeds, steps) are written."""
    kept = ~np.isnan(values)
    if values.shape[1] > 1 and not kept[:, -1].any():
        kept[:, -1] = True
        kept[:, 0] |= not kept[:, 0].any()  # two entries, so that a curve of nothing stays one when it is written again
    return kept


class _Columns(NamedTuple):
    """What a table holds of runs, row by row: numbers, and texts as indices into their names."""

    seeds: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    metrics: list[str]
    metric_codes: np.ndarray
    indices: list[str]
    index_codes: np.ndarray


def _trace(columns: _Columns, mine: np.ndarray, seeds: Sequence[int]) -> Trace:
    """The trace of one optimizer's runs, which stand in some rows of a table."""
    trace = Trace(seeds)
    places = {seed: row for row, seed in enumerate(trace.seeds)}
    found, among = np.unique(columns.seeds[mine], return_inverse=True)
    rows = np.array([places[seed] for seed in found.tolist()], dtype=np.int64)[among]
    steps, values = columns.steps[mine], columns.values[mine]
    # The entries of each metric and index, in order of appearance, by one sort instead of a comparison for each.
    keys = (columns.metric_codes.astype(np.int64) * len(columns.indices) + columns.index_codes)[mine]
    order = np.argsort(keys, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if keys.size else []
    for group in sorted(groups, key=lambda group: int(group[0])):
        at, places_of = np.unique(steps[group], return_inverse=True)
        array = np.full((len(trace.seeds), at.size), np.nan)
        array[rows[group], places_of] = values[group]
        metric, index = divmod(int(keys[group[0]]), len(columns.indices))
        trace.record(columns.metrics[metric], at, array, columns.indices[index])
    return trace


# `pa.array` and `np.asarray` of a column import pandas on the way, and `cast`, `take` and `dictionary_encode` all of
# pyarrow's functions, which costs a job more time than its tables do. These wrap the same memory without them.


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
    """The texts that a column knows, and the index of each entry into them."""
    whole = column.combine_chunks()
    return whole.dictionary.to_pylist(), np.from_dlpack(whole.indices)


_NUMBERS = {"seed": pa.int64(), "step": pa.int64(), "value": pa.float64()}
_SCHEMA = pa.schema([(name, _NUMBERS.get(name, pa.dictionary(pa.int32(), pa.string()))) for name in COLUMNS])
