"""Every figure as it is shipped, as it lies on paper and as a table."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from tests import layout
from workflow.lib import plotting, rooms
from workflow.lib.contract import Drawing
from workflow.lib.drawn import COLUMNS, Role
from workflow.lib.plan.reading import ROOT, read_yaml
from workflow.lib.plotting import MEDIUM, RED, Sheet
from workflow.lib.rooms import make_plan
from workflow.lib.tables import read_metrics

PLAN = make_plan(read_yaml(ROOT / "config" / "config.yaml"))


@pytest.fixture(scope="module", params=PLAN.papers)
def drawings(request: pytest.FixtureRequest, shipped_run: Path) -> dict[tuple[str, str], Drawing]:
    """Every figure of a paper, by the paper's and its own name."""
    paper, found = PLAN.papers[request.param], {}
    tables = shipped_run / "results" / paper.name / "metrics"
    for figure in paper.figures.values():
        experiments = [paper.experiment(experiment) for experiment in figure.experiments]
        metrics = read_metrics({e.name: tables / f"{e.name}.parquet" for e in experiments})
        with plotting.look():
            found[paper.name, figure.name] = rooms.figures(paper.name)[figure.drawing](metrics, *experiments)
            plotting.finished(found[paper.name, figure.name].figure)
    return found


def test_every_layout(drawings: dict[tuple[str, str], Drawing]) -> None:
    with plotting.look():
        found = {name: layout.faults(drawing.figure) for name, drawing in drawings.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_every_table_says_whose_numbers_they_are(drawings: dict[tuple[str, str], Drawing]) -> None:
    for (paper, name), drawing in drawings.items():
        experiments = [PLAN.papers[paper].experiment(entry) for entry in PLAN.papers[paper].figure(name).experiments]
        labels = {label for experiment in experiments for label in experiment.optimizers}
        table = pd.DataFrame(dict(drawing.table))
        assert tuple(table.columns) == COLUMNS
        assert set(table["role"]) <= set(get_args(Role)), name
        assert set(table.loc[table["role"].isin(["run", "comparison"]), "series"]) <= labels, name
        named = set(table["panel"]) | set(table["series"]) | set(table["part"])
        assert not [text for text in named if "$" in text or text != text.strip()], name  # names, not mathtext
        assert not table.loc[table["role"] == "note", "x"].notna().any(), name  # told, not drawn


def sound(size: tuple[float, float] = (MEDIUM, 2.5)) -> Sheet:
    """Two panels with everything that may stand in a figure."""
    sheet = Sheet(1, 2, size=size)
    left, right = sheet.panels[0]
    x = np.arange(1, 101)
    sheet.line(left, "loss", "ngd", x, 1 / x, color=RED, label="NGD")
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="$L$", title="loss", ylim=(5e-3, 2))
    sheet.points(right, "ends", "ngd", [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], color=RED, label="NGD")
    right.set(xlabel="seed", title="ends")
    right.text(0.05, 0.9, "two seeds", transform=right.transAxes)
    sheet.letter()
    sheet.legend()
    return sheet


@pytest.mark.slow
def test_a_figure_is_laid_out_once_and_drawn_once_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    draw = plotting.DrawnFigure.draw

    def counted(figure: plotting.DrawnFigure, renderer: Any) -> None:
        drawn.append(figure.dpi)
        draw(figure, renderer)

    with plotting.look():
        alone, ours = sound().figure, sound().figure
        alone.savefig(BytesIO(), format="pdf")
        monkeypatch.setattr(plotting.DrawnFigure, "draw", counted)
        with plotting.laid_out(ours):
            ours.savefig(BytesIO(), format="pdf")
            ours.savefig(BytesIO(), format="png")
    assert drawn == [72, 200]
    places = [[ax.get_position().bounds for ax in figure.axes] for figure in (alone, ours)]
    assert places[0] == places[1]  # as matplotlib lays out by itself


@pytest.mark.slow
def test_a_sound_figure_has_no_fault() -> None:
    assert layout.faults(sound().figure) == []
    lost = sound()
    lost.panels[0, 0].set_ylim(0.5, 2)
    lost.points(lost.panels[0, 0], "loss", "lost", [2], [0.5], color=RED, marker="x")
    assert layout.faults(lost.figure) == []  # where the curve leaves is a mark


def test_a_legend_of_long_names_takes_fewer_columns() -> None:
    sheet = Sheet(size=(MEDIUM, 2.5))
    for row in range(4):
        sheet.line(sheet.panels[0, 0], "loss", f"mine_{row}", [1, 2], [1, 2], label=f"an optimizer of one's own, {row}")
    legend = sheet.legend(4)
    assert legend is not None
    assert len(legend.get_texts()) == 4
    assert len(sheet.figure.legends) == 1
    assert layout.faults(sheet.figure) == []


def narrow(sheet: Sheet) -> None:
    sheet.figure.set_size_inches(5, 2.5)


def tall(sheet: Sheet) -> None:
    sheet.figure.set_size_inches(MEDIUM, 1.6 * MEDIUM)


def small(sheet: Sheet) -> None:
    sheet.panels[0, 1].tick_params(labelsize=6)


def long_title(sheet: Sheet) -> None:
    sheet.panels[0, 1].set_title("a title that is longer than half the width of the page is", loc="left")


def beyond_the_page(sheet: Sheet) -> None:
    sheet.figure.text(0.99, 0.5, "said at the edge")


def crowded_ticks(sheet: Sheet) -> None:
    sheet.panels[0, 1].set_xticks([0, 0.5, 1], 3 * ["somewhere along the whole way"])


def text_on_text(sheet: Sheet) -> None:
    sheet.panels[0, 1].text(0.15, 0.9, "the same", transform=sheet.panels[0, 1].transAxes)


def legend_on_text(sheet: Sheet) -> None:
    sheet.panels[0, 1].legend(loc="upper left", frameon=False)


def curve_through_text(sheet: Sheet) -> None:
    sheet.panels[0, 0].text(10, 0.1, "tenth step", ha="center", va="center")


def curve_below(sheet: Sheet) -> None:
    sheet.panels[0, 0].set_ylim(0.05, 2)


def curve_at_zero(sheet: Sheet) -> None:
    """A log axis has no place for zero: the curve falls out of the frame."""
    sheet.line(sheet.panels[0, 0], "loss", "gd", [1, 10, 100], [1, 0.5, 0], color="black")


def curve_from_elsewhere(sheet: Sheet) -> None:
    sheet.panels[0, 0].set_xlim(10, 100)


def marked_by_another(sheet: Sheet) -> None:
    """A mark of another curve is no mark of this one."""
    sheet.panels[0, 0].set_ylim(0.5, 2)
    sheet.points(sheet.panels[0, 0], "loss", "lost", [2], [0.5], color="black", marker="x")


def band_below(sheet: Sheet) -> None:
    sheet.panels[0, 0].fill_between([1, 100], [1e-4, 1e-4], [1, 1], color=RED, alpha=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (narrow, "5 in wide"),
        (tall, "high, more than 1.5 times"),
        (small, "6 points"),
        (long_title, "is cut off"),
        (beyond_the_page, "'said at the edge' is cut off"),
        (crowded_ticks, "'somewhere along the whole way' and 'somewhere along the whole way' lie on one another"),
        (text_on_text, "'two seeds' and 'the same' lie on one another"),
        (legend_on_text, "'two seeds' and 'NGD' lie on one another"),
        (curve_through_text, "a curve runs through 'tenth step'"),
        (curve_below, "(a) loss: a curve leaves the frame unmarked"),
        (curve_at_zero, "(a) loss: a curve leaves the frame unmarked"),
        (curve_from_elsewhere, "(a) loss: a curve begins outside the frame"),
        (marked_by_another, "(a) loss: a curve leaves the frame unmarked"),
        (band_below, "(a) loss: a band leaves the frame"),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[Sheet], None], told: str) -> None:
    sheet = sound()
    plant(sheet)
    with plotting.look():
        found = layout.faults(sheet.figure)
    assert any(told in fault for fault in found), found
