"""The picture of how costs grow."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks import growth


@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_growths_is_drawn(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"part {i}", "n", "CPU s", value, value * 1e-3) for i in range(count) for value in (10, 100)]
    table = pd.DataFrame(rows, columns=["title", "size", "unit", "value", "cost"])
    table.assign(machine="some", date="2026-01-01").to_csv(tmp_path / "growth.csv", index=False)
    monkeypatch.setattr(growth, "NUMBERS", tmp_path / "growth.csv")
    monkeypatch.setattr(growth, "PICTURE", tmp_path / "growth.png")
    growth.draw()
    assert (tmp_path / "growth.png").stat().st_size > 0
