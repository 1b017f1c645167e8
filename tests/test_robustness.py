"""Claims on fresh seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow.lib import judging, robustness
from workflow.lib.cli import main
from workflow.lib.rooms import load_paper


def test_values_inside_a_band() -> None:
    values = np.array([0.5, 1.0, 1.5, np.nan])
    assert judging.inside(values, 1.0, None).tolist() == [False, True, True, False]
    assert judging.inside(values, None, 1.0).tolist() == [True, True, False, False]


@pytest.mark.slow
def test_fresh_seeds_are_other_seeds(tmp_path: Path) -> None:
    """The share is measured on a stream of its own, and on as many seeds as were asked for."""
    arguments = ["robustness", "--paper", "ntp", "--seeds", "3", "--experiments", "two_stage"]
    assert main([*arguments, "--folder", str(tmp_path / "fresh")]) == 0
    assert main([*arguments, "--folder", str(tmp_path / "drawn"), "--stream", "0"]) == 0
    fresh, drawn = (pd.read_csv(tmp_path / n / "robustness.csv").set_index("claim") for n in ("fresh", "drawn"))
    assert list(fresh.columns) == list(robustness.COLUMNS[1:])
    assert (fresh["values"] == 3).all()
    assert fresh.index.isin(load_paper("ntp").claims).all()
    assert fresh.loc["ntp.fig2.norm_ov_slope", "median"] != drawn.loc["ntp.fig2.norm_ov_slope", "median"]
    assert not fresh.index.str.startswith("ntp.zero").any()


def test_the_table_of_claims_tells_bands_that_depend_on_the_seeds(tmp_path: Path) -> None:
    paper = load_paper("ntp")
    rows = [
        {**dict.fromkeys(judging.COLUMNS, ""), "claim": name, "paper": "ntp", "measured": 1, "low": 0, "high": 2,
         "share": 1, "verdict": "holds", "settings": "as shipped"}
        for name in list(paper.claims)[:2]
    ]  # fmt: skip
    judging.write_csv(tmp_path / "claims.csv", rows)
    (tmp_path / "robustness").mkdir()
    (tmp_path / "robustness" / "robustness.csv").write_text(f"claim,share\n{next(iter(paper.claims))},0.9\n")
    judging.write_markdown(tmp_path / "claims.md", [tmp_path / "claims.csv"], {"ntp": "title"})
    judging.write_joined(tmp_path / "all.csv", [tmp_path / "claims.csv"])
    assert list(pd.read_csv(tmp_path / "all.csv")["fresh"].fillna(-1)) == [0.9, -1]
    text = (tmp_path / "claims.md").read_text()
    assert text.count("90% (depends on the seeds)") == 1
