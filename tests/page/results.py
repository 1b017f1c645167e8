"""A small results folder with every kind of mark, and texts that mean harm."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow.lib import plotting
from workflow.lib.drawn import Table
from workflow.lib.judging import COLUMNS
from workflow.lib.plotting import Sheet
from workflow.lib.runs import Curve

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '<img src="http://example.org/x.png" onerror="window.hacked = 1">',
    '"onmouseover="window.hacked = 1" \'',
    "{{ 7 * 7 }} {% raw %}",
    "<a href='javascript:window.hacked = 1'>click</a> & $<b>$",
)
CAPTION = """Mean of *two* seeds, p. 9 </script><script>window.hacked = 1</script>

.. raw:: html

   <script>window.hacked = 1</script>

.. include:: /etc/hostname

.. image:: http://example.org/x.png

`click <javascript:window.hacked=1>`_ and `the paper <https://arxiv.org/>`_

.. list-table::

   * - a cell
     - 3
"""


def curve(scale: float = 1.0) -> Curve:
    steps = np.arange(1, 1001)
    return Curve((0, 1), steps, scale * np.array([1 / steps, 1.5 / steps]))


def sheet(label: str = "NGD", scale: float = 1.0) -> Sheet:
    drawn = Sheet(2, 2, size=(plotting.WIDE, 4))
    (curves, marks), (heat, schematic) = drawn.panels
    drawn.band(curves, "loss", "ngd", curve(scale), color=plotting.RED, label=label)
    drawn.line(
        curves, "loss", "law", [1, 1000], [1, 1e-3], role="theory", color="black", linestyle="--", label="$t^{-1}$"
    )
    drawn.level(curves, "loss", "floor", 1e-2, label="floor")
    drawn.moment(curves, "loss", "switch", 10)
    drawn.note(curves, "loss", "largest deviation", 0.25)
    curves.set(xscale="log", yscale="log", xlabel="step $t$", ylabel=r"$\|W\|_F$", title=label)
    drawn.bars(marks, "bars", "accuracy", [0, 1], [0.5, 1], [0.4, 0.9], [0.6, 1], label="accuracy")
    drawn.points(marks, "bars", "each", [0, 1], [0.55, 0.95], marker="^", label="each seed")
    marks.set_xticks([0, 1], ["seen", "unseen"])
    image = drawn.heat(heat, "attention", "model", np.arange(6.0).reshape(2, 3))
    bar = drawn.figure.colorbar(image, ax=heat, label="share")
    bar.set_ticks([0, 5], labels=["1", "≥ 10"])
    heat.set(xticks=np.arange(3), xticklabels=np.arange(3) + 1)  # labels that are no texts yet
    drawn.record("scheme", "token", [0], [0], ax=schematic)
    schematic.set_axis_off()
    drawn.letter()
    return drawn


@cache
def _made(label: str, scale: float) -> tuple[bytes, Table, dict[str, Any]]:
    """The picture of a sheet, its table and its description, drawn once."""
    drawn, picture = sheet(label, scale), BytesIO()
    with plotting.look():
        description = plotting.finished(drawn.figure)
        drawn.figure.savefig(picture, format="png")
    return picture.getvalue(), drawn.table, description


def write(folder: Path, hostile: bool = False, step_size: float = 0.04472135955, scale: float = 1.0) -> Path:
    """Write `folder/ntp` with two figures and their claims, and `folder/mine`, whose tables came without JSON."""
    texts = HOSTILE if hostile else tuple("abcde")
    for name, figure in (("fig2", "fig2"), ("extra_more", "extra_more")):
        picture, table, description = _made(texts[0] if hostile else "NGD", scale)
        place = folder / "ntp" / "figures" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".png").write_bytes(picture)
        place.with_suffix(".pdf").write_bytes(b"%PDF-1.4")
        table.write_csv(place.with_suffix(".csv"))
        settings = [
            {"setting": "norm", "value": texts[1], "source": "user", "where": texts[2]},
            {"setting": "ngd.step_size", "value": step_size, "source": "paper", "where": "p. 9"},
            {"setting": "width", "value": [1, 0.1234567], "source": "choice", "where": texts[3]},
        ]
        rules = {"ngd": "ngd", "each": texts[3], "unused": "sgd"}
        head = {"name": "ntp", "title": texts[4], "authors": texts[1], "venue": texts[0]}
        described = {
            "figure": figure,
            "title": texts[1],
            "paper": head,
            "caption": CAPTION,
            "experiments": [{"name": "two_stage", "about": texts[2], "optimizers": rules, "settings": settings}],
            **description,
        }
        place.with_suffix(".json").write_text(json.dumps(described))
    verdict = "holds" if scale == 1 else "fails"
    rows = [
        ("ntp.a", "ntp", "fig2", texts[1], scale, 0.9, 1.1, 1, verdict, "as shipped", "paper; band choice (p. 9)", ""),
        ("ntp.b", "ntp", "fig2", "late", 3, 1, 2, 1, "fails", f"yours: {texts[0]}", "derived", texts[2]),
        ("ntp.c", "ntp", "fig9", "long", None, 1, None, 0.9, "not measured", "as shipped", "paper (p. 1)", "short"),
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "ntp" / "claims.csv", index=False)
    bare = folder / "mine" / "figures" / "fig1.csv"
    bare.parent.mkdir(parents=True, exist_ok=True)
    bare.write_text("panel,series,x,y,low,high\nloss,mine,0,1,,\nloss,mine,1,0.5,,\n")
    return folder
