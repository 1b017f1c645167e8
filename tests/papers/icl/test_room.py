"""The whole icl room on small settings: every figure is drawn and every claim judged, whatever the runs did."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.small import quick_pictures
from workflow.lib import rooms, stages
from workflow.lib.papers.icl.prompts import metrics
from workflow.lib.plan.model import block_name
from workflow.lib.tables import read_traces

SHORT = {
    "balanced": {"settings": {"epochs": 6, "prompts": 40, "fresh_prompts": 50}},
    "imbalanced": {"settings": {"epochs": 6, "prompts": 40, "fresh_prompts": 50}},
    "balanced_ten": {"settings": {"epochs": 5, "prompts": 8, "fresh_prompts": 50}},
    "imbalanced_ten": {"settings": {"epochs": 5, "prompts": 8, "fresh_prompts": 50}},
    "basis": {"settings": {"epochs": 6, "prompts": 40, "fresh_prompts": 50}},
    "population": {
        "settings": {"feature_counts": {"value": [3, 6, 12]}, "phases_of": 6, "plateau_of": 12},
        "optimizers": {"gd": {"iterations": 40}, "gd_fine": {"iterations": 20}},
    },
    "finite": {
        "settings": {
            "feature_counts": {"value": [4]},
            "context_lengths": {"value": [8, 16, "infinite"]},
            "phases_of": 4,
            "plateau_of": 4,
        },
        "optimizers": {"gd": {"iterations": 10}},
    },
}


# A user's rule in every experiment, which every figure draws or names.
MINE = {"rule": "torch.optim.RMSprop", "lr": 0.01}
for _name, _changes in SHORT.items():
    _own = {"iterations": 10} if _name in ("population", "finite") else {}
    _changes["optimizers"] = {**_changes.get("optimizers", {}), "mine": MINE | _own}


def run(folder, changes, count, *names):
    """Generate, train and measure some experiments, all when none is named."""
    paper = rooms.load_paper("icl", {"experiments": changes}, seeds=count)
    block = block_name(0, count - 1)
    for name in names or paper.experiments:
        experiment = paper.experiment(name)
        stages.generate(experiment, range(count), folder / f"{name}.npz")
        for label in experiment.optimizers:
            stem = folder / name / label / block
            outputs = stem.with_suffix(".parquet"), stem.with_suffix(".safetensors")
            stages.train(experiment, label, range(count), folder / f"{name}.npz", *outputs)
        stages.measure(experiment, [folder / f"{name}.npz"], folder / name, [block], folder / f"{name}.parquet")
    return paper


def tables(folder, names):
    return {name: folder / f"{name}.parquet" for name in names}


def draw(folder, paper, *names):
    drawn = {}
    for name in names or paper.figures:
        figure = paper.figure(name)
        outputs = {kind: folder / f"{name}.{kind}" for kind in ("pdf", "png", "csv")} | {
            "caption": folder / f"{name}.rst"
        }
        template = ROOT / "workflow" / "report" / "icl" / f"{figure.drawing}.rst"
        stages.draw(paper, name, tables(folder, figure.experiments), template, outputs)
        drawn[name] = outputs
    return drawn


def judge(folder, paper):
    stages.judge(paper, tables(folder, paper.experiments), folder / "claims.csv")
    return pd.read_csv(folder / "claims.csv")


@pytest.fixture(scope="module", autouse=True)
def _few_samples_and_no_pixels():
    """Of the sampling that checks the closed form of the loss a part; a default run takes all of it, and renders."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metrics, "RAW_SAMPLES", 2000)
        quick_pictures(patched)
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icl")
    return folder, run(folder, SHORT, 2)


@pytest.mark.slow
def test_short_runs_draw_every_figure_and_optimizer(short):
    folder, paper = short
    assert set(rooms.figures("icl")) == set(paper.figures)
    for outputs in draw(folder, paper).values():
        assert len(pd.read_csv(outputs["csv"])) > 0
        caption = outputs["caption"].read_text().split("Settings of")[0]
        assert not re.search(r"\bnan\b", caption)
        drawn = pd.read_csv(outputs["csv"])["series"].str.contains("mine").any()
        assert drawn or "mine" in caption


@pytest.mark.slow
def test_short_runs_judge_every_claim(short):
    folder, paper = short
    assert set(rooms.claims("icl")) == set(paper.claims)
    verdicts = judge(folder, paper).set_index("claim")
    # Formulas hold at any length; convergence cannot be there yet, and its claims must say so.
    for name in ("model.attn_sum", "model.drifts"):
        assert verdicts.loc[f"icl.{name}", "verdict"] == "holds"
    for name in ("fig2.balanced_end", "fig2.imbalanced_end", "fig3.concentration", "trap.basis", "trap.plain_gd"):
        assert verdicts.loc[f"icl.{name}", "verdict"] == "fails"
    for name in (
        "model.population_times",
        "theory.quadratic",
        "fig2.stage_ratio",
        "plateau.first",
    ):  # not reached: not measured
        assert np.isnan(verdicts.loc[f"icl.{name}", "measured"])
        assert verdicts.loc[f"icl.{name}", "verdict"] == "not measured"


@pytest.mark.slow
def test_the_csv_is_the_picture(short):
    folder, paper = short
    draw(folder, paper, "fig2")
    table = pd.read_csv(folder / "fig2.csv")
    trace = read_traces(folder / "imbalanced.parquet")["adam"]
    table = table[(table["panel"] == "imbalanced, linear") & (table["series"] == "adam")]
    drawn = table[table["part"] == "v2 to v5"]
    errors = np.concatenate([trace.curve("error", k).values for k in range(2, 6)])
    np.testing.assert_allclose(drawn["y"], errors.mean(axis=0))
    np.testing.assert_allclose(drawn["low"], errors.min(axis=0))
    one = table[table["part"] == "v2"]
    np.testing.assert_allclose(one["y"], trace.curve("error", 2).values.mean(axis=0))


@pytest.mark.slow
def test_a_diverged_run_is_drawn_and_judged(short, tmp_path):
    changes = SHORT | {"imbalanced": {**SHORT["imbalanced"], "optimizers": {"adam": {"lr": 1e308}, "mine": MINE}}}
    paper = run(tmp_path, changes, 2, "imbalanced")
    for name in set(paper.experiments) - {"imbalanced"}:
        (tmp_path / f"{name}.parquet").symlink_to(short[0] / f"{name}.parquet")
    assert read_traces(tmp_path / "imbalanced.parquet")["adam"]["diverged_at"].final()[0] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        draw(tmp_path, paper, "fig2", "fig3")
    verdicts = judge(tmp_path, paper).set_index("claim")
    assert verdicts.loc["icl.fig2.imbalanced_end", "verdict"] != "holds"
