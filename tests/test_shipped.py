"""The results of the workflow as it is shipped: that they are what the claims, the README and the glossary say.

`make figures` makes them; without them these tests are skipped.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests import budget
from tests.conftest import ROOT
from tests.readme_table import table
from workflow.lib.plan.model import Paper
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan
from workflow.lib.runs import Metrics
from workflow.lib.sweep import reached
from workflow.lib.tables import read_traces

PLAN = make_plan(read_yaml(ROOT / "config" / "config.yaml"))
FIGURES = [(paper.name, figure) for paper in PLAN.papers.values() for figure in paper.figures]
GLOSSARY = ROOT / "docs" / "glossary.md"


@pytest.mark.parametrize(("paper", "figure"), FIGURES)
def test_every_figure_comes_out(shipped_run: Path, paper: str, figure: str) -> None:
    folder = shipped_run / "results" / paper / "figures"
    assert (folder / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(folder / f"{figure}.csv")) > 0
    assert ".. list-table::" in (folder / f"{figure}.rst").read_text()


def test_claims(shipped_run: Path) -> None:
    """Every ledger entry is measured on the pinned seeds; what is known to fail has its reason in the ledger."""
    claims = pd.read_csv(shipped_run / "results" / "claims.csv")
    assert set(claims["claim"]) == {claim for paper in PLAN.papers.values() for claim in paper.claims}
    failing = claims[claims["verdict"] != "holds"]
    known = {claim.name for paper in PLAN.papers.values() for claim in paper.claims.values() if claim.reason}
    assert set(failing["claim"]) == known, failing[["claim", "measured", "low", "high", "reason"]].to_string()
    assert set(claims["settings"]) == {"as shipped"}


@pytest.mark.parametrize("paper", PLAN.papers.values(), ids=lambda paper: paper.name)
def test_what_sweeps_would_compare_is_recorded(shipped_run: Path, paper: Paper) -> None:
    """Every shipped experiment names its objective, unless there is none, and its runs record it for every seed."""
    for experiment in paper.experiments.values():
        if experiment.kind == "checks":
            assert experiment.objective is None
            continue
        table = shipped_run / "results" / paper.name / "metrics" / f"{experiment.name}.parquet"
        metrics = Metrics({experiment.name: read_traces(table)})
        for label, optimizer in experiment.optimizers.items():
            if experiment.settings.compared(optimizer):
                end, _ = reached(metrics, experiment, label)
                assert end.shape == (experiment.seeds,), (experiment.name, label)


def test_trainings_ask_for_no_less_than_they_hold_and_at_most_twice_of_it(shipped_run: Path) -> None:
    """Of each kind of experiment, the job that held most; libraries of another build hold more or less."""
    results = shipped_run / "results"
    measured = list(budget.memory(budget.costs(results), results))
    assert len(measured) >= len(PLAN.papers)
    for name, held, asked in measured:
        assert held <= asked <= 2 * held, name


def test_the_glossary_has_every_metric_of_a_run(shipped_run: Path) -> None:
    """Every metric of every table stands in its paper's section, and nothing else does."""
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", GLOSSARY.read_text(), re.MULTILINE | re.DOTALL))
    for paper in PLAN.papers:
        folder = shipped_run / "results" / paper
        tables = [pd.read_parquet(path, columns=["metric"]) for path in folder.glob("**/*.parquet")]
        found = {str(metric) for table in tables for metric in table["metric"].unique()} - {"diverged_at"}
        rows = [line.split("|")[1] for line in sections[paper].splitlines() if line.startswith("| `")]
        told = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
        assert found == told, (paper, sorted(found - told), sorted(told - found))


def test_the_table_of_figures_is_that_of_a_run(shipped_run: Path) -> None:
    """`python -m tests.readme_table results` makes it again."""
    assert untimed(table(shipped_run / "results")) in untimed((ROOT / "README.md").read_text())


def untimed(text: str) -> str:
    """Without the times, which no two runs share."""
    return re.sub(r"\| (< )?[0-9]+\.[0-9] \|", "|", text)
