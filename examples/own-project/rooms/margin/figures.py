"""The figure: loss and direction."""

from __future__ import annotations

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import looks
from workflow.lib.papers.margin.settings import Separable
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import MEDIUM, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

FIGURES: Registry[Draw] = Registry()


@FIGURES("fig1")
def draw(metrics: Metrics, experiment: Experiment[Separable]) -> Drawing:
    """Loss (a) and distance from the max-margin direction (b) over steps."""
    sheet = Sheet(1, 2, size=(MEDIUM, 2.2))
    panels = {"loss": "logistic loss", "misalignment": "1 - cos to max margin"}
    for ax, (metric, title) in zip(sheet.panels[0], panels.items(), strict=True):
        for label, look in looks(experiment).items():
            curve = metrics.curve(experiment.name, metric, label).window(1, experiment.settings.steps)
            sheet.band(ax, metric, label, curve, middle="geometric mean", **look.line)
        ax.set(xscale="log", yscale="log", xlabel="step", title=title)
    sheet.legend()
    sheet.letter()
    return sheet.drawing({"points": experiment.settings.points, "dimension": experiment.settings.dimension})
