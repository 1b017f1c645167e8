"""What stands in place of a figure whose runs diverged or are too short for it: how far they came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workflow.lib.contract import Drawing
from workflow.lib.look import GREY, RED
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import WIDE, Sheet
from workflow.lib.runs import Metrics

# The text of its caption.
TEMPLATE = Path(__file__).parents[1] / "report" / "undrawn.rst"


def drawing(metrics: Metrics, experiments: Sequence[Experiment], reason: str) -> Drawing:
    """The last step of every run, by experiment and optimizer.

    Args:
        metrics: of the experiments.
        experiments: those of the figure.
        reason: what the figure asked for and no run recorded.
    """
    sheet = Sheet(1, len(experiments), size=(WIDE, 2.8))
    diverged = []
    for ax, experiment in zip(sheet.panels[0], experiments, strict=True):
        names = []
        for place, label in enumerate(metrics.optimizers(experiment.name)):
            last = metrics.ends(experiment.name, label)
            told = metrics.divergence(experiment.name, label)
            diverged += [told] if told else []
            color = RED if told else GREY
            sheet.bars(ax, experiment.name, label, [place], [np.median(last)], [last.min()], [last.max()], color=color)
            names.append(f"{label}\n(diverged)" if told else label)
        ax.set_xticks(range(len(names)), names, rotation=45)
        ax.set(title=experiment.name, ylabel="last step recorded", ylim=(0, None))
    sheet.figure.suptitle(f"not drawn: {'runs diverged' if diverged else 'no run recorded what it shows'}")
    return Drawing(sheet.figure, sheet.table, {"diverged": diverged, "reason": reason}, TEMPLATE)
