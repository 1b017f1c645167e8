"""Sweeps: points as ordinary runs, what is refused, what is drawn, and the README's example."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests import layout
from tests.conftest import snakemake
from tests.test_readme import block
from workflow.lib import load, plotting, rooms, stages
from workflow.lib.errors import UserError
from workflow.lib.files import read_parameters
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Paper, block_seeds
from workflow.lib.rooms import load_paper
from workflow.lib.runs import Metrics, NotRecordedError, Trace
from workflow.lib.sweep import reached
from workflow.lib.tables import read_traces

SHORT = {"seeds": 2, "settings": {"steps_ov": 12, "steps_kq": 12}}


def two_stage(settings: Any = None, ngd: Any = None, **more: Any) -> dict[str, Any]:
    """An overlay of ntp's experiment two_stage, shortened."""
    merged = {**SHORT, **more, "settings": {**SHORT["settings"], **(settings or {})}}
    return {"experiments": {"two_stage": merged | ({"optimizers": {"ngd": ngd}} if ngd else {})}}


WORDS = ["orthogonal", "antipodal"]


def orthogonal(settings: Any) -> dict[str, Any]:
    """An overlay of ib's experiment orthogonal, with one optimizer and a target that is reached from above."""
    only = {"seeds": 2, "settings": settings, "optimizers": {"gd": None, "polyak": None}, "target": {"below": 0.05}}
    return {"experiments": {"orthogonal": only}}


def swept(over: Any) -> dict[str, Any]:
    return two_stage(ngd={"lr": {"sweep": over}})


def test_points_of_an_optimizer_are_labelled_runs() -> None:
    paper = load_paper("ntp", two_stage(ngd={"lr": {"sweep": [0.01, "3e-2", 1e-05]}}))
    points = paper.experiment("two_stage_ngd_lr")
    assert {label: entry.hyperparameters["lr"] for label, entry in points.optimizers.items()} == {
        "ngd_lr0.01": 0.01,
        "ngd_lr0.03": 0.03,
        "ngd_lr1e-05": 1e-05,
    }
    one = points.optimizers["ngd_lr0.03"]
    assert (one.given["lr"].source, one.given["lr_kq"].source) == ("user", "paper")
    assert points.swept("ngd_lr0.03") == {"lr": 0.03}
    assert points.sweep.shipped["lr"].source == "paper"  # what the figure marks
    assert points.seeds == 2
    assert paper.figures["extra_sweep_two_stage_ngd_lr"].experiments == ("two_stage_ngd_lr",)


def test_points_of_a_setting_are_experiments() -> None:
    paper = load_paper("ib", orthogonal({"signals": {"sweep": WORDS}}))
    names = ["orthogonal_signals_orthogonal", "orthogonal_signals_antipodal"]
    assert [paper.experiment(name).settings.signals for name in names] == WORDS
    assert [*paper.experiment(names[0]).optimizers] == ["ngd"]
    assert paper.figures["extra_sweep_orthogonal_signals"].experiments == tuple(names)


def test_two_sweeps_make_a_grid() -> None:
    paper = load_paper("ntp", two_stage({"sentences": {"sweep": [10, 20]}}, {"lr": {"sweep": [0.01, 0.1]}}))
    drawn = paper.figures["extra_sweep_two_stage_sentences_ngd_lr"].experiments
    found = [
        tuple(paper.experiment(e).swept(label).values()) for e in drawn for label in paper.experiment(e).optimizers
    ]
    assert found == [(10, 0.01), (10, 0.1), (20, 0.01), (20, 0.1)]
    both = load_paper("ntp", two_stage(ngd={"lr": {"sweep": [0.01, 0.1]}, "lr_kq": {"sweep": [1, 2]}}))
    assert [*both.experiment("two_stage_ngd_lr_lr_kq").optimizers][-1] == "ngd_lr0.1_lr_kq2"


def test_points_go_on_from_what_their_entry_goes_on_from() -> None:
    mine = {"experiments": {"main": {"optimizers": {"prox": {"penalty": {"sweep": [0.1, 0.3]}}}}}}
    points = load_paper("scb", mine).experiment("main_prox_penalty")
    assert [*points.optimizers] == ["boosting", "prox_penalty0.1", "prox_penalty0.3"]
    assert points.before("prox_penalty0.3") == ["boosting"]
    assert points.swept("boosting") == {}


def test_a_sweep_leaves_the_paper_as_it_is() -> None:
    """The experiment, its jobs, figures and claims: no claim is judged on a point."""
    plain = load_paper("ntp", two_stage())
    paper = load_paper("ntp", two_stage({"sentences": {"sweep": [10, 20]}}, {"lr": {"sweep": [0.01, 0.1]}}))
    assert paper.experiment("two_stage") == plain.experiment("two_stage")
    assert jobs.for_claims(paper) == jobs.for_claims(plain)
    assert set(paper.experiments) - set(paper.claimed) == {
        "two_stage_sentences10_ngd_lr",
        "two_stage_sentences20_ngd_lr",
    }


def test_an_entry_that_is_only_swept_runs_nowhere_else() -> None:
    changes = two_stage(optimizers={"adam": {"lr": {"sweep": [0.01, 0.1]}}, "ngd": {"decay": {"sweep": [0, 0.5]}}})
    paper = load_paper("ntp", changes)
    assert [*paper.experiment("two_stage").optimizers] == ["ngd"]  # which ran without `decay` before
    assert "decay" not in paper.experiment("two_stage").optimizers["ngd"].given
    assert [*paper.experiment("two_stage_adam_lr").optimizers] == ["adam_lr0.01", "adam_lr0.1"]


@pytest.mark.parametrize(
    ("over", "found"),
    [
        ({"log": ["1e-3", 1, 4]}, [0.001, 0.01, 0.1, 1]),
        ({"log": [100, 1, 3]}, [100, 10, 1]),
        ({"log": [1, 1.01, 3]}, [1, 1.005, 1.01]),  # three digits would not tell them apart
        ([1e-10, 1e-11], [1e-10, 1e-11]),
    ],
)
def test_values(over: Any, found: list[float]) -> None:
    labels = load_paper("ntp", two_stage(ngd={"lr": {"sweep": over}})).experiment("two_stage_ngd_lr").optimizers
    assert [entry.hyperparameters["lr"] for entry in labels.values()] == pytest.approx(found, rel=1e-12)
    assert all(re.fullmatch(r"[a-z0-9_.-]+", label) for label in labels)


def test_values_that_six_digits_do_not_tell_apart_keep_their_labels_apart() -> None:
    labels = load_paper("ntp", swept([0.1234567, 0.1234568])).experiment("two_stage_ngd_lr").optimizers
    assert [*labels] == ["ngd_lr0.1234567", "ngd_lr0.1234568"]


# What is laid over ntp, and words that the message must hold.
BAD = [
    (swept([]), ["two_stage.optimizers.ngd.lr.sweep", "at least one"]),
    (swept(0.1), ["ngd.lr.sweep", "a list", "found 0.1"]),
    (swept({"linear": [0, 1, 3]}), ["ngd.lr.sweep", "log"]),
    (swept([0.1, 0.2, "1e-1"]), ["ngd.lr.sweep", "0.1 twice"]),
    (swept([0.1, None]), ["ngd.lr.sweep", "numbers, words", "None"]),
    (swept([0.1, [0.2]]), ["ngd.lr.sweep", "[0.2]"]),
    (swept([0.1, float("nan")]), ["ngd.lr.sweep", "nan"]),
    (swept(["../x"]), ["ngd.lr.sweep", "../x"]),
    (swept({"log": ["low", 1, 3]}), ["ngd.lr.sweep.log", "numbers all three", "low"]),
    (swept({"log": [0, 1, 3]}), ["ngd.lr.sweep.log", "above 0"]),
    (swept({"log": [0.1, 1, 1]}), ["ngd.lr.sweep.log", "from 2", "found 1"]),
    (swept({"log": [0.1, 1, 2.5]}), ["ngd.lr.sweep.log", "whole number", "2.5"]),
    (swept({"log": [1, 1, 3]}), ["ngd.lr.sweep.log", "different"]),
    (swept({"log": [0.1, 1]}), ["ngd.lr.sweep.log", "[first, last, number of points]"]),
    (swept({"log": [0.1, 1, 1_000_000]}), ["ngd.lr.sweep.log", "10,000"]),
    (swept(["fast"]), ["ngd_lr_fast.lr", "'fast'"]),
    (swept([-0.1]), ["ngd_lr-0.1.lr", "greater than 0"]),
    (two_stage(ngd={"lrr": {"sweep": [0.1]}}), ["'lrr'", "Did you mean 'lr'"]),
    (two_stage(ngd={"rule": {"sweep": ["ngd", "gd"]}}), ["ngd.rule", "cannot be swept", "entry of its own"]),
    (two_stage(ngd={"sweep": [0.1]}), ["optimizers.ngd", "one of its values"]),
    (two_stage({"sweep": [1]}), ["two_stage.settings", "one of its values"]),
    (two_stage(kind={"sweep": ["strings"]}), ["two_stage.kind", "cannot be swept"]),
    (two_stage(seeds={"sweep": [1, 2]}), ["two_stage.seeds", "cannot be swept"]),
    (two_stage(target={"sweep": [1, 2]}), ["two_stage.target", "cannot be swept"]),
    (two_stage(sweep=[1]), ["two_stage.sweep", "in place of a value"]),
    (two_stage({"lengths": {"sweep": [[2], [3]]}}), ["settings.lengths.sweep", "[2]"]),
    (two_stage({"sentences": {"sweep": [10, 10_000_000]}}), ["two_stage_sentences10000000.settings", "10000000"]),
    (two_stage({"steps_kq": {"sweep": [*range(1, 2002)]}}), ["two_stage.settings", "at most 2,000", "2,001"]),
    (
        two_stage({"steps_ov": {"sweep": [1, 2]}, "steps_kq": {"sweep": [1, 2]}}, {"lr": {"sweep": [1, 2]}}),
        ["optimizers.ngd", "at most two values", "steps_ov, steps_kq, lr"],
    ),
    (
        two_stage(ngd={"lr": {"sweep": {"log": [0.1, 1, 200]}}, "lr_kq": {"sweep": {"log": [0.1, 1, 200]}}}),
        ["optimizers.ngd", "at most 10,000", "40,000"],
    ),
    (two_stage(ngd={"lr": {"sweep": [0.1]}}, objective="loss_of"), ["objective", "'loss_of'", "cos_kq"]),
    (two_stage(ngd={"lr": {"sweep": [0.1]}}, target={"over": 1}), ["two_stage", "target", "'over'"]),
    (two_stage(target={"above": 1, "below": 1}), ["two_stage.target", "one of"]),
    (
        {"experiments": {"two_stage_ngd_lr": {"like": "zero_init"}, **swept([0.1])["experiments"]}},
        ["two_stage", "'two_stage_ngd_lr'", "rename"],
    ),
    (
        {**two_stage(), "figures": {"extra_x": {"title": "x", "draws": "sweep", "experiments": ["two_stage"]}}},
        ["draws"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[" ".join(words[:2]) for _, words in BAD])
def test_what_cannot_be_swept_is_refused_while_planning(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_paper("ntp", changes)
    for word in words:
        assert word in str(caught.value)


def test_an_experiment_without_an_objective_and_the_start_of_others_are_refused() -> None:
    with pytest.raises(UserError, match=r"scb.experiments.checks: .* names none"):
        load_paper("scb", {"experiments": {"checks": {"settings": {"positions": {"sweep": [40, 50]}}}}})
    mine = {"experiments": {"bert_mnli": {"optimizers": {"pretraining": {"lr": {"sweep": [0.01, 0.1]}}}}}}
    with pytest.raises(UserError, match="the start of others"):
        load_paper("ib", mine)


def test_many_points_are_few_jobs() -> None:
    """2,000 points: 200 jobs, each with what its own points depend on alone."""
    paper = load_paper(
        "ntp", two_stage(ngd={"lr": {"sweep": {"log": [1e-4, 1, 40]}}, "lr_kq": {"sweep": {"log": [1e-4, 1, 50]}}})
    )
    points = paper.experiment("two_stage_ngd_lr_lr_kq")
    assert len(points.optimizers) == 2000
    assert len(points.jobs) == 200
    assert sorted(label for labels in points.jobs.values() for label in labels) == sorted(points.optimizers)
    first = jobs.for_run(points, "ngd_points1")["experiments"]["two_stage_ngd_lr_lr_kq"]
    assert len(first["optimizers"]) == len(first["sweep"]["points"]) == 10


def train(paper: Paper, name: str, folder: Path) -> Path:
    """All files of an experiment up to its metric table, through what jobs get."""
    experiment, room = paper.experiment(name), rooms.room(paper.name)
    seeds = experiment.blocks()
    for numbers in seeds:
        taken = jobs.take(Path(jobs.hand(folder, "data", jobs.for_data(experiment))), room).experiment(name)
        stages.generate(taken, block_seeds(numbers), folder / f"{numbers}.npz")
        before = {job: experiment.before(labels[0]) for job, labels in experiment.jobs.items()}
        for job in sorted(before, key=lambda job: len(before[job])):
            taken = jobs.take(Path(jobs.hand(folder, "run", jobs.for_run(experiment, job))), room).experiment(name)
            trace, parameters = (folder / job / f"{numbers}.{kind}" for kind in ("parquet", "safetensors"))
            start = folder / before[job][-1] / f"{numbers}.safetensors" if before[job] else None
            stages.train(taken, job, block_seeds(numbers), folder / f"{numbers}.npz", trace, parameters, start=start)
    taken = jobs.take(Path(jobs.hand(folder, "metrics", jobs.for_metrics(experiment))), room).experiment(name)
    metrics = folder / f"{name}.parquet"
    stages.measure(taken, [folder / f"{numbers}.npz" for numbers in seeds], folder, seeds, metrics)
    return metrics


def test_points_that_share_a_job_are_the_runs_that_they_are_alone(tmp_path: Path) -> None:
    values = {"ngd_lr0.01": 0.01, "ngd_lr0.3": 0.3}
    paper = load_paper("ntp", two_stage(ngd={"lr": {"sweep": [*values.values()]}}, seeds=3, seeds_per_job=2))
    train(paper, "two_stage_ngd_lr", tmp_path / "swept")
    together = read_traces(tmp_path / "swept" / "two_stage_ngd_lr.parquet")
    kept = read_parameters(tmp_path / "swept" / "ngd_points1" / "0-1.safetensors")
    assert together["ngd_lr0.3"].seeds == (0, 1, 2)
    for label, value in values.items():
        alone = two_stage(ngd={"lr": value}, seeds=3, seeds_per_job=2)
        train(load_paper("ntp", alone), "two_stage", tmp_path / label)
        found = dict(together[label].items())
        for key, curve in read_traces(tmp_path / label / "two_stage.parquet")["ngd"].items():
            assert np.array_equal(curve.values, found[key].values, equal_nan=True), key
        assert np.array_equal(
            read_parameters(tmp_path / label / "ngd" / "0-1.safetensors")["value"], kept[f"{label}/value"]
        )
    for path in (tmp_path / "swept" / "two_stage_ngd_lr.parquet", tmp_path / "swept" / "ngd_points1" / "0-1.parquet"):
        metadata = json.loads(pq.read_schema(path).metadata[b"swept"])
        assert metadata == {label: {"lr": value} for label, value in values.items()}


def test_a_point_that_diverges_before_its_first_record_is_a_result(tmp_path: Path) -> None:
    settings = {"positions": 20, "iterations": 40, "boosting_steps": 10}
    changes = {"seeds": 2, "settings": settings, "optimizers": {"prox": {"lr": {"sweep": [0.005, 1e9]}}}}
    paper = load_paper("scb", {"experiments": {"main": changes}})
    metrics = Metrics({"main_prox_lr": read_traces(train(paper, "main_prox_lr", tmp_path))})
    ends = [reached(metrics, paper.experiment("main_prox_lr"), label)[0] for label in ("prox_lr0.005", "prox_lr1e09")]
    assert np.isfinite(ends[0]).all()
    assert np.isnan(ends[1]).all()


# ---- the figure ----


def test_what_is_reached() -> None:
    """The worst index counts, a target is reached at the first recorded step, and a diverged seed ends nowhere."""
    paper = load_paper("icl", {"experiments": {"balanced": {"optimizers": {"gd": {"lr": {"sweep": [0.1]}}}}}})
    experiment = paper.experiment("balanced_gd_lr")
    trace = Trace(range(3))
    trace.record("error", [0, 2, 4], [[1, 0.01, 0.01], [1, 0.01, 0.01], [1, 0.9, 0.8]], 1)
    trace.record("error", [0, 2, 4], [[1, 0.20, 0.04], [1, 0.01, 0.02], [1, 0.9, 0.8]], 2)
    trace.record("diverged_at", 0, [np.nan, 3, np.nan])
    end, steps = reached(Metrics({"balanced_gd_lr": {"gd_lr0.1": trace}}), experiment, "gd_lr0.1")
    assert np.array_equal(end, [0.04, np.nan, 0.8], equal_nan=True)
    assert np.array_equal(steps, [4, 2, np.nan], equal_nan=True)
    gone = Trace(range(3))  # before anything was recorded
    gone.record("diverged_at", 0, [1, 1, 1])
    end, steps = reached(Metrics({"balanced_gd_lr": {"gd_lr0.1": gone}}), experiment, "gd_lr0.1")
    assert np.isnan([*end, *steps]).all()
    with pytest.raises(NotRecordedError, match="error"):
        reached(Metrics({"balanced_gd_lr": {"gd_lr0.1": Trace(range(3))}}), experiment, "gd_lr0.1")


def above(metric: str, value: float, diverged: bool = False) -> Trace:
    """Two seeds whose objective ends at a value and a little above it; of a gap, at what is missing to 1."""
    trace = Trace(range(2))
    steps = [0, 10, 100, 900]
    rows = [[0, value / 2, value, value], [0, value / 2, value, min(1, 1.01 * value)]]
    found = np.array(rows if not diverged else [[0, 0.1, np.nan, np.nan], rows[1]])
    trace.record(metric, steps, 1 - found if metric == "gap" else found)
    if diverged:
        trace.record("diverged_at", 0, [11, np.nan])
    return trace


@pytest.mark.parametrize(
    ("paper", "overlay"),
    [
        ("ntp", two_stage(ngd={"lr_kq": {"sweep": {"log": [1e-3, 1, 7]}}})),
        ("ib", orthogonal({"signals": {"sweep": WORDS}})),
        ("ntp", two_stage({"sentences": {"sweep": [10, 20, 40]}}, {"lr_kq": {"sweep": {"log": [1e-3, 1, 7]}}})),
        ("ib", orthogonal({"samples": {"sweep": [5, 10, 20]}, "signals": {"sweep": WORDS}})),
        ("ib", orthogonal({"samples": {"sweep": [10]}, "signals": {"sweep": WORDS}})),  # nothing reaches the target
        ("ntp", two_stage({"sentences": {"sweep": [10, 20]}})),
    ],
    ids=["curve", "words", "grid", "grid of settings", "grid without steps", "curve without steps"],
)
def test_the_figure_is_sound_and_tells_what_went_wrong(paper: str, overlay: Any) -> None:
    planned = load_paper(paper, overlay)
    (figure,) = (figure for figure in planned.figures.values() if figure.drawing == "sweep")
    experiments = [planned.experiment(name) for name in figure.experiments]
    sweep, objective = experiments[0].sweep, experiments[0].objective
    assert sweep is not None
    assert objective is not None
    ends = iter([0.5, 0.7, 0.9, 0.96, 0.99] * 5)
    tables = {
        e.name: {label: above(objective.value, next(ends), diverged=label.endswith("lr_kq1")) for label in e.optimizers}
        for e in experiments
    }
    with plotting.look():
        drawing = rooms.drawing(paper, "sweep")(Metrics(tables), *experiments)
        description = plotting.finished(drawing.figure)
    assert layout.faults(drawing.figure) == []
    json.dumps(description, allow_nan=False)  # what the page reads knows no NaN
    named = {entry["name"] for entry in description["series"]}
    assert "not reached by every seed" in named
    assert ("a seed diverged" in named) == bool(sweep.values) == bool(drawing.facts["diverged"])
    rows = drawing.table["role"] == "run"
    assert {*drawing.table["series"][rows]} == {"ngd"}
    assert rows.sum() == 2 * sum(len(e.optimizers) for e in experiments)
    if not sweep.settings:
        assert "the paper's value" in named
        rows &= drawing.table["panel"] == "objective"
        assert [*drawing.table["x"][rows]] == [0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1]
        ends = [0.5, 0.7, 0.9, 0.96, 0.99, 0.5, 0.707]  # of the last point one seed is left
        assert [*drawing.table["low"][rows]] == pytest.approx(ends)


@pytest.mark.slow
def test_the_example_of_the_readme(tmp_path: Path) -> None:
    """At small size, from its text to the figure, the caption and the table that joins on the labels."""
    text = block("sweep.yaml").split("\nsnakemake")[0]
    (tmp_path / "sweep.yaml").write_text(text)
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"papers": ["ntp"], "ntp": two_stage()}))
    figure = "extra_sweep_two_stage_ngd_lr_kq"
    wanted = [f"results/ntp/figures/{figure}.pdf", f"results/ntp/metrics/{figure}.csv"]
    snakemake(tmp_path, "--cores", "2", *wanted, "--configfile", "sweep.yaml", "short.yaml")
    with (tmp_path / wanted[1]).open() as file:
        points = [(row["optimizer"], float(row["lr_kq"])) for row in csv.DictReader(file)]
    assert [value for _, value in points] == [0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1]
    runs = pq.read_table(tmp_path / "results/ntp/metrics/two_stage_ngd_lr_kq.parquet")
    assert set(runs["optimizer"].unique().to_pylist()) - {"data"} == {label for label, _ in points}
    caption = (tmp_path / f"results/ntp/figures/{figure}.rst").read_text()
    assert "No claim of the paper is judged on them" in caption
    assert caption.count("lr_kq") < 12  # one row for all points
    assert not (tmp_path / "results/ntp/runs/two_stage").exists()  # what is not swept is not asked for
    told = json.loads((tmp_path / f"results/ntp/figures/{figure}.json").read_text())
    sources = {s["setting"]: s["source"] for s in told["experiments"][0]["settings"]}
    assert sources["ngd.lr_kq"] == "user"
    assert sources["ngd.lr"] == "paper"
    results = load("ntp", tmp_path / "results")
    assert {"two_stage_ngd_lr_kq"} == set(results.experiments)
    assert results.figure(figure).axes
