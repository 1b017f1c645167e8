"""A picture of deep runs that still train, from their checkpoints and from the tables of the runs that are done.

    python -m workflow.lib.papers.ib.deep.unfinished results/ib/runs/vit_mnist

It says how far each run is. Nothing waits for it, nothing is judged by it, and it is no file of the workflow.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from workflow.lib.contract import Drawing
from workflow.lib.errors import UserError, exit_on_user_error
from workflow.lib.files import atomic
from workflow.lib.look import RULES
from workflow.lib.papers.ib.deep.metrics import POINTS, trailing_mean
from workflow.lib.plotting import Sheet
from workflow.lib.runs import Curve
from workflow.lib.tables import read_traces

SMOOTHING = 25  # steps in the trailing mean of the loss


class Progress(NamedTuple):
    """What runs that train together have recorded: `done` of `steps`; the loss by step, the accuracy by epoch."""

    label: str
    done: int
    steps: int
    loss: Curve
    accuracy: Curve


def read(folder: Path) -> list[Progress]:
    """The runs of an experiment, by label and seeds, that have begun.

    Args:
        folder: `results/ib/runs/<experiment>`, with a folder for each optimizer.

    Raises:
        UserError: a file cannot be read, or nothing has begun.
    """
    found = []
    for path in sorted(folder.glob("*/*.parquet")):
        for label, trace in read_traces(path).items():
            if "train_loss" in trace:
                loss, accuracy = trace["train_loss"], trace["test_accuracy"]
                found.append(Progress(label, loss.steps[-1], loss.steps[-1], loss, accuracy))
    for path in sorted(folder.glob("*/*.checkpoint")):
        if not path.with_name(f"{path.name.split('.')[0]}.parquet").exists():
            found += [_progress(state) for state in _states(path) if "about" in state]
    if not found:
        raise UserError(
            f"{folder}: no run of a deep net has begun here. Expected a folder such as results/ib/runs/NAME."
        )
    return sorted(found, key=lambda run: (run.label, run.loss.seeds))


def draw(runs: list[Progress], name: str) -> Drawing:
    """Loss by step and accuracy by epoch, as far as they are known."""
    sheet = Sheet(1, 2, size=(6.75, 2.9))
    loss, accuracy = sheet.panels[0]
    for number, run in enumerate(runs):
        rule, seeds = RULES.get(run.label), run.loss.seeds
        seen = f"{rule.name if rule else run.label}, {run.done:,} of {run.steps:,} steps"
        if len(runs) > len({other.label for other in runs}):
            seen += (
                f", seed{'s' if len(seeds) > 1 else ''} {'-'.join(str(seeds[i]) for i in sorted({0, len(seeds) - 1}))}"
            )
        style: dict[str, Any] = {"color": rule.color if rule else f"C{number}", "label": seen}
        known = np.isfinite(run.loss.values).any(axis=0)
        if known.any():
            smooth = trailing_mean(Curve(seeds, run.loss.steps[known], run.loss.values[:, known]), SMOOTHING, POINTS)
            sheet.band(loss, "train loss", run.label, smooth, **style)
        sheet.band(accuracy, "test accuracy", run.label, run.accuracy, marker="o", markersize=3, **style)
    loss.set(xscale="log", yscale="log", xlabel="steps", ylabel=f"mean of {SMOOTHING} steps", title="train loss")
    accuracy.set(xlabel="epochs", ylabel="share of the test set", ylim=(0, 1), title="test accuracy")
    left = sum(run.done < run.steps for run in runs)
    sheet.legend(
        2, title=f"{name}: NOT FINISHED, {left} of {len(runs)} still train" if left else f"{name}: all are done"
    )
    sheet.letter()
    return sheet.drawing()


def main() -> None:
    """Draw the folder that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results/ib/runs/<experiment>")
    parser.add_argument(
        "--out", type=Path, default=Path("unfinished.png"), help="picture to write, default: %(default)s"
    )
    options = parser.parse_args()
    with exit_on_user_error():
        drawing = draw(read(options.folder), options.folder.name)
        with atomic(options.out) as temporary:
            drawing.figure.savefig(temporary, format=options.out.suffix.lstrip(".") or "png", dpi=200)


def _states(path: Path) -> list[dict[str, Any]]:
    try:
        return list(torch.load(path, map_location="cpu", weights_only=True)["states"].values())
    except FileNotFoundError:  # it was just finished
        return []
    except Exception as error:  # torch raises many kinds, all about the same file
        raise UserError(f"{path}: this checkpoint is cut short or is no checkpoint.") from error


def _progress(state: dict[str, Any]) -> Progress:
    about, values = state["about"], {name: array.numpy() for name, array in state["values"].items()}
    seeds, loss, accuracy = tuple(about["seeds"]), values["train_loss"], values["test_accuracy"]
    epochs = np.array(about["evaluated"][: accuracy.shape[1]])
    steps = np.arange(1, loss.shape[1] + 1)
    return Progress(
        about["label"], state["iteration"], about["steps"], Curve(seeds, steps, loss), Curve(seeds, epochs, accuracy)
    )


if __name__ == "__main__":
    main()
