"""Runs that diverge or are short are results: every paper measures, draws and judges them, and says what happened."""

from __future__ import annotations

import csv
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import small
from workflow.lib import page, rooms, stages
from workflow.lib.contract import Run
from workflow.lib.errors import UserError
from workflow.lib.plan.model import Experiment, Paper
from workflow.lib.runs import Trace

# Runs that diverge are drawn and judged without a word of numpy's or matplotlib's.
pytestmark = [pytest.mark.whole, pytest.mark.filterwarnings("error")]
PAPERS = rooms.papers()
# No wild rate is too wild; the deep nets are of float32, which holds no more than 3.4e38.
WILD = {paper: {"lr": 1e30 if paper == "ib" else 1e300, "lr_kq": 1e300} for paper in PAPERS}
ONE_STEP = {"steps_ov": 1, "steps_kq": 1, "epochs": 1, "iterations": 1, "boosting_steps": 0, "rounding_steps": 0}


@pytest.fixture(autouse=True)
def _quick_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every optimizer goes wild, lines and texts are measured too, which costs three times as much."""
    small.quick_pictures(monkeypatch, request.node.originalname == "test_steps_that_leave_the_finite_numbers")


def shown(of: Paper, folder: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Every figure's caption and every claim's line, after the paper was drawn, judged and put on the page."""
    captions = {figure: small.draw(of, folder, figure).read_text().split("Settings of")[0] for figure in of.figures}
    stages.judge(of, small.tables(of, folder), folder / "claims.csv")
    with (folder / "claims.csv").open(encoding="utf-8", newline="") as lines:
        claims = {line["claim"]: line for line in csv.DictReader(lines)}
    assert set(claims) == set(of.claims)
    for figure, caption in captions.items():
        words = caption.split()
        assert "nan" not in words, f"{figure}: {caption}"
        table = (folder / "figures" / f"{figure}.csv").read_text()
        assert table.count("\n") > 1, figure
    return captions, claims


def on_page(of: Paper, folder: Path) -> str:
    """The page of the figures that lie in a folder."""
    results = folder / "results"
    shutil.copytree(folder / "figures", results / of.name / "figures")
    shutil.copy(folder / "claims.csv", results / of.name / "claims.csv")
    page.write(results, folder / "index.html", [of.name])
    return (folder / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_one_step(name: str, tmp_path: Path) -> None:
    of = small.paper(name, settings=ONE_STEP, entries={"iterations": 1, "steps": 1, "warm_up": 1})
    assert list(small.run(of, tmp_path)) == list(of.experiments)
    captions, claims = shown(of, tmp_path)
    assert "not measured" in {line["verdict"] for line in claims.values()}
    assert not any("iverged: " in caption for caption in captions.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_one_seed_of_one_optimizer(name: str, tmp_path: Path) -> None:
    of = small.paper(name, seeds=1, only=1)
    assert list(small.run(of, tmp_path)) == list(of.experiments)
    shown(of, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ib", "scb"])  # whose figures look for certain entries
def test_an_optimizer_in_place_of_all_others(name: str, tmp_path: Path) -> None:
    """Every figure is drawn, or says what it has not got."""
    shipped, changes = rooms.load_paper(name), {}
    for label, experiment in small.paper(name).experiments.items():
        steps = {"iterations": 8} if "iterations" in experiment.settings.options.model_fields else {}
        changes[label] = {
            "seeds": 2,
            "settings": {key: {"value": experiment.given[key].value} for key in experiment.settings.model_dump()},
            "optimizers": {
                **dict.fromkeys(shipped.experiment(label).optimizers),
                "mine": {"rule": "torch.optim.Adagrad", "lr": 0.05, **steps},
            },
        }
    of = rooms.load_paper(name, {"experiments": changes})
    assert list(small.run(of, tmp_path)) == list(of.experiments)
    shown(of, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_steps_that_leave_the_finite_numbers(name: str, tmp_path: Path) -> None:
    """Every optimizer at a wild rate."""
    of = small.paper(name, entries=WILD[name])
    assert list(small.run(of, tmp_path)) == list(of.experiments)
    captions, claims = shown(of, tmp_path)
    if name == "icl":  # its attention saturates, and its loss is finite wherever its weights are
        return
    assert any("iverged" in caption for caption in captions.values())
    assert any(line["reason"].startswith("diverged: ") for line in claims.values())
    # Of ib's layers one wild step tells all samples apart: they are at the infimum, and have no gap to show.
    short = [caption for caption in captions.values() if "too short for it" in caption]
    assert [caption for caption in short if "no run has a gap above 0" not in caption] == []
    assert "iverged" in on_page(of, tmp_path)


def lost(run: Run, experiment: Experiment, seeds: list[int], share: float) -> Run:
    """A run some of whose seeds diverged after a share of the steps; what was recorded before stays."""
    trace = Trace(run.seeds)
    last = max(int(curve.steps[-1]) for _, curve in run.trace.items())
    at = int(share * last)
    for (metric, index), curve in run.trace.items():
        values = np.array(curve.values)
        if curve.steps.size > 1:
            values[np.ix_(seeds, curve.steps >= at)] = np.nan
        trace.record(metric, curve.steps, values, index)
    marked = np.full(len(run.seeds), np.nan)
    marked[seeds] = at
    for index in getattr(experiment.settings, "changes", {"": None}):
        trace.record("diverged_at", 0, marked, index)
    parameters = {key: np.array(array) for key, array in run.parameters.items()}
    for array in parameters.values():
        if array.dtype.kind == "f":
            array[seeds] = np.nan
    return Run(trace, parameters)


# Which seeds are lost after which share of the steps, for the runs of an experiment in turn.
LOST = {
    "every run, at the start": [([0, 1], 0.0)],
    "one seed of each run, at the start or half-way": [([0], 0.0), ([1], 0.5)],
}


@pytest.mark.parametrize("cases", LOST.values(), ids=LOST)
@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.slow
def test_seeds_that_diverged(
    name: str,
    cases: list[tuple[list[int], float]],
    finished_paper: Callable[[str], tuple[Paper, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, folder = finished_paper(name)
    measure, turn = rooms.measure, itertools.cycle(cases)

    def measured(experiment: Experiment) -> Any:
        return lambda found, data, runs: measure(experiment)(
            found, data, {label: lost(run, found, *next(turn)) for label, run in runs.items()}
        )

    monkeypatch.setattr(rooms, "measure", measured)
    for experiment in of.experiments.values():
        runs, block = folder / "runs" / experiment.name, f"0-{experiment.seeds - 1}"
        table = tmp_path / "metrics" / f"{experiment.name}.parquet"
        stages.measure(experiment, [folder / "data" / experiment.name / f"{block}.npz"], runs, [block], table)
    captions, _ = shown(of, tmp_path)
    schematic = {"fig1"} if name == "ntp" else set()
    for figure in set(captions) - schematic:
        assert "iverged" in captions[figure], figure


def test_a_rate_beyond_float32_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        UserError, match=r"vit_mnist.optimizers.adam: lr: expected a number that float32 can hold.*1e\+300"
    ):
        rooms.load_paper("ib", {"experiments": {"vit_mnist": {"optimizers": {"adam": {"lr": 1e300}}}}})


@pytest.fixture(autouse=True)
def _one_message_of_numpy() -> Iterator[None]:
    """Overflow in runs that diverge is expected here."""
    with np.errstate(all="ignore"):
        yield
