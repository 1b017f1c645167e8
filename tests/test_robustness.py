"""Claims on fresh seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow.lib import judging, robustness, rooms
from workflow.lib.cli import main
from workflow.lib.papers.ib.synthetic import claims as ib
from workflow.lib.rooms import load_paper
from workflow.lib.runs import NotRecordedError
from workflow.lib.tables import read_metrics

# Claims about the mathematics alone, by paper.
WITHOUT_RUNS: dict[str, list[str]] = {"ntp": ["ntp.target.prop2_condition"]}


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


@pytest.mark.parametrize("name", rooms.papers())
def test_what_nobody_ran_is_not_measured(name: str) -> None:
    """Every claim, where a user left out the experiments behind it, or all optimizers that it speaks of."""
    paper = load_paper(name)
    left_out = paper.model_copy(update={"experiments": {}})
    nobody = {key: entry.model_copy(update={"optimizers": {}}) for key, entry in paper.experiments.items()}
    alone = paper.model_copy(update={"experiments": nobody})
    known, nothing = rooms.claims(name), read_metrics({})
    for of in (left_out, alone, paper):
        verdicts = {c.name: judging.judged(of, c, known[c.name], nothing)["verdict"] for c in paper.claims.values()}
        assert set(verdicts.values()) <= {"not measured", "holds"}
        assert [claim for claim, verdict in verdicts.items() if verdict == "holds"] == WITHOUT_RUNS.get(name, [])


def test_what_speaks_of_a_rule_is_not_measured_on_another() -> None:
    """A user gave the entry of a rule's name another rule."""
    paper = load_paper("ib")
    fixed = paper.experiment("orthogonal")
    entries = {label: entry.model_copy(update={"rule": "torch.optim.SGD"}) for label, entry in fixed.optimizers.items()}
    with pytest.raises(NotRecordedError, match=r"orthogonal: ngd has the rule torch\.optim\.SGD"):
        ib._own_rule(fixed.model_copy(update={"optimizers": entries}), "ngd")
    with pytest.raises(NotRecordedError, match="orthogonal: ngd was left out"):
        ib._own_rule(fixed.model_copy(update={"optimizers": {}}), "ngd")
    assert ib._own_rule(fixed, "ngd")["lr"] == 0.5
