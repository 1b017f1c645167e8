"""The table of the numbers that a figure draws, and its CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from workflow.lib.files import atomic

NAMES = ("panel", "series", "part", "role")
NUMBERS = ("x", "y", "low", "high")
COLUMNS = (*NAMES, *NUMBERS)
# What numbers are: docs/glossary.md.
Role = Literal["run", "data", "theory", "published", "comparison", "mark", "note"]


class Table:
    """Numbers by panel, series and part of it, with their role; low and high are the ends of a band.

    Plain columns: pandas costs a drawing half a second of CPU time to import, and this is all it would do there.
    """

    def __init__(self) -> None:
        """Begin without rows."""
        self._names: list[tuple[str, ...]] = []
        self._rows: list[int] = []
        self._numbers: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}

    def add(
        self, panel: str, series: str, x: object, y: object, low: object = None, high: object = None,
        *, part: str = "", role: Role = "run",
    ) -> int:  # fmt: skip
        """Add rows, as many as the longest of the arguments has (numbers stand for all rows), and return how many."""
        numbers = (np.asarray(np.nan if each is None else each) for each in (x, y, low, high))
        columns = np.broadcast_arrays(*map(np.atleast_1d, numbers))
        for name, column in zip(NUMBERS, columns, strict=True):
            self._numbers[name].append(column.ravel())
        self._names.append((panel, series, part, role))
        self._rows.append(columns[0].size)
        return columns[0].size

    def __len__(self) -> int:
        return sum(self._rows)

    def keys(self) -> tuple[str, ...]:
        """The names of the columns."""
        return COLUMNS

    def __getitem__(self, column: str) -> np.ndarray:
        if column in NUMBERS:
            return np.concatenate(self._numbers[column]) if self._names else np.empty(0)
        place = COLUMNS.index(column)
        return np.repeat([names[place] for names in self._names], self._rows)

    def write_csv(self, path: Path | str) -> None:
        """Write the table, whole or not at all; numbers in full, and nothing for NaN."""
        columns = [["" if value != value else value for value in self[name].tolist()] for name in COLUMNS]
        with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(*columns, strict=True))
