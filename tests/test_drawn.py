"""The table of the numbers that a figure draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workflow.lib.drawn import COLUMNS, Table


def test_numbers_stand_for_all_rows_of_a_series_and_come_back_in_full(tmp_path: Path) -> None:
    table = Table()
    assert table.add("loss", 'a "quoted", name', [0, 10, 20], np.array([1.5, 1 / 3, np.nan]), low=0.25) == 3
    assert table.add("loss", "level", None, 2, part="late", role="mark") == 1
    table.write_csv(tmp_path / "drawn.csv")
    found = pd.read_csv(tmp_path / "drawn.csv")
    assert tuple(found.columns) == COLUMNS
    assert len(found) == len(table) == 4
    assert list(found["series"]) == list(table["series"]) == ['a "quoted", name'] * 3 + ["level"]
    assert list(found["role"]) == ["run"] * 3 + ["mark"]
    assert list(found["part"].fillna("")) == [""] * 3 + ["late"]
    for name in ("x", "y", "low", "high"):
        np.testing.assert_array_equal(found[name], table[name].astype(np.float64))
    np.testing.assert_array_equal(table["low"], [0.25, 0.25, 0.25, np.nan])


def test_what_is_counted_is_written_as_counts(tmp_path: Path) -> None:
    table = Table()
    table.add("matrix", "attention", [0, 1], [1, 1], [0.5, 0.5], [0.5, 0.5])
    table.write_csv(tmp_path / "drawn.csv")
    assert (tmp_path / "drawn.csv").read_text().splitlines()[1] == "matrix,attention,,run,0,1,0.5,0.5"
    Table().write_csv(tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text() == ",".join(COLUMNS) + "\n"
