"""Captions, titles and legends under settings of a user's own: none of them states a shipped value that was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workflow.lib import captions, judging, rooms, undrawn
from workflow.lib.papers.ib.deep import figures as deep
from workflow.lib.papers.ib.synthetic import figures as synthetic
from workflow.lib.papers.scb import naming
from workflow.lib.plan.model import Paper


def paper(name: str, **experiments: Any) -> Paper:
    return rooms.load_paper(name, {"experiments": experiments})


def test_what_is_shipped_is_not_called_yours() -> None:
    for name in rooms.papers():
        of = rooms.load_paper(name, seeds=3)
        assert not [change for figure in of.figures for change in captions.changed(of, figure)]
        assert not [figure for figure in of.figures if "yours" in captions.render("", of, figure)]


def test_a_changed_setting_is_told_first_and_flagged_in_the_title() -> None:
    of = paper("scb", more_states={"settings": {"states": 6}})
    assert captions.changed(of, "fig4") == ["more_states.states = 6"]
    assert not captions.changed(of, "fig5")
    assert "with settings of yours" in captions.described("", of, "fig4")["title"]
    assert "with settings of yours" in captions.render("", of, "fig4").splitlines()[0]
    about = {one["name"]: one["about"] for one in captions.described("", of, "fig4")["experiments"]}
    assert [name for name, told in about.items() if told.endswith("with settings of yours")] == ["more_states"]


def test_an_optimizer_beside_the_shipped_ones_changes_none_of_them() -> None:
    beside = {"rule": "torch.optim.SGD", "lr": 0.1}
    of = paper("ntp", two_stage={"optimizers": {"mine": beside}})
    assert not captions.changed(of, "fig2")
    of = paper("ntp", two_stage={"optimizers": {"mine": beside, "ngd": {"lr": 0.1}}})
    assert captions.changed(of, "fig2") == ["two_stage.ngd.lr = 0.1"]


def test_other_experiments_and_other_random_numbers_are_yours() -> None:
    of = rooms.load_paper("ntp", {"figures": {"fig2": {"experiments": ["other_sentences"]}}})
    assert captions.changed(of, "fig2") == ["fig2.experiments = other_sentences"]
    of = rooms.load_paper("ntp", {"figures": {"extra_mine": {"like": "fig2", "experiments": ["long_run"]}}})
    assert captions.changed(of, "extra_mine") == ["extra_mine.experiments = long_run"]
    of = paper("ntp", two_stage={"stream": 7})
    assert captions.changed(of, "fig2") == ["two_stage.stream = 7"]


def test_what_holds_of_shipped_settings_is_said_of_them_alone(tmp_path: Path) -> None:
    template = tmp_path / "fig.rst"
    template.write_text("Drawn.{% if shipped %} NGD wins.{% endif %}")
    assert captions.text(template, {}) == "Drawn. NGD wins."
    told = captions.text(template, {}, changed=[f"main.a = {number}" for number in range(10)])
    assert told == f"**With settings of yours:** {'; '.join(f'main.a = {n}' for n in range(8))}; and 2 more.\n\nDrawn."


def test_legends_of_ib_follow_the_values() -> None:
    of = paper(
        "ib",
        vit_mnist={"optimizers": {"sngd_momentum": {"momentum": 0.5}, "sps_cap": {"eta_max": 3}}},
        variants={"optimizers": {"gd": {"lr": 2.0}, "ngd_tenth": {"lr": 1.0}}},
        joint={"optimizers": {"ngd_constant": {"decay": 0.5}, "ngd_separate": {"norm": "global"}}},
    )
    vision = of.experiment("vit_mnist").optimizers
    told = {label: deep._told(vision[label], *which) for label, which in deep.READINGS.items()}
    assert told == {
        "sngd_momentum": "SNGD, momentum 0.5",
        "sngd_per_tensor": "SNGD, norm per tensor",
        "sps_cap": "SPS, cap 3",
    }
    names = synthetic._names(of.experiment("variants"))
    assert names == {
        "gd_10": "GD, step × 5", "gd_100": "GD, step × 50", "gd_1000": "GD, step × 500", "ngd_tenth": "NGD, step × 2"
    }  # fmt: skip
    assert synthetic._names(of.experiment("joint")) == {"ngd_led": "NGD, by u's norm"}
    shipped = rooms.load_paper("ib").experiment("joint")
    assert set(synthetic._names(shipped)) == {"ngd_separate", "ngd_led", "ngd_constant"}
    assert synthetic._joint_step(shipped.optimizers["ngd"]) == {
        "norms": "one norm over both",
        "step": "a step that shrinks like t^(-2/3)",
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "N = 5, Q = 3 in place of N = 3, Q = 2"),
        ({"states": 6, "boosting_steps": 100}, "N = 6, Q = 3 in place of N = 3, Q = 2; another boosting_steps"),
        ({"states": 3, "support": 2}, "no change"),
    ],
)
def test_substitutes_of_scb_say_all_that_differs(changes: dict[str, Any], told: str) -> None:
    of = paper("scb", more_states={"settings": changes})
    assert naming.difference(of.experiment("more_states"), of.experiment("main")) == told


def test_rows_of_scb_figure_1_are_called_by_their_steps() -> None:
    shipped = rooms.load_paper("scb")
    rows = shipped.experiment("main"), shipped.experiment("scaled_steps")
    assert naming.steps_told(*rows) == ("printed steps", "steps × 10")
    of = paper("scb", main={"optimizers": {"prox": {"lr": 0.1}}})
    assert naming.steps_told(of.experiment("main"), rows[1]) == ("steps of yours", "other steps")


@pytest.mark.parametrize("settings", ["as shipped", "yours: two_stage.steps_ov = 20"])
def test_the_ledger_says_that_claims_speak_of_shipped_settings(settings: str, tmp_path: Path) -> None:
    row = {**dict.fromkeys(judging.COLUMNS, ""), "claim": "ntp.fig2.loss_ov", "paper": "ntp", "settings": settings}
    judging.write_csv(tmp_path / "claims.csv", [{**row, "measured": 1, "high": 2, "share": 1, "verdict": "holds"}])
    judging.write_markdown(tmp_path / "claims.md", [tmp_path / "claims.csv"], {"ntp": "title"})
    text = (tmp_path / "claims.md").read_text()
    assert ("speak of the settings as shipped" in text) == (settings in text) == settings.startswith("yours")


def test_claims_of_scb_state_no_step_that_a_setting_says() -> None:
    """They are measured at the end of the runs, wherever that is, and of optimizers by label."""
    claims = rooms.load_paper("scb").claims.values()
    assert not [claim.name for claim in claims if "at 1000" in claim.statement or "SGD at 0" in claim.statement]


def test_an_undrawn_figure_does_not_blame_the_length_of_runs_that_were_left_out() -> None:
    told = captions.text(undrawn.TEMPLATE, {"diverged": [], "reason": "no run of linear"})
    assert "too short for it or lack what it shows, or one that it needs was left out. It" in " ".join(told.split())
    asked = captions.text(undrawn.TEMPLATE, {"diverged": [], "reason": "unknown metric 'a'. Did you mean 'b'?"})
    assert "Did you mean 'b'? In its place" in asked
