"""Every claim on the deep nets can fail: for each one a way of being wrong that its band does not let through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from workflow.lib import rooms
from workflow.lib.judging import verdict
from workflow.lib.papers.ib.deep.claims import CLAIMS, FIGURES, ROWS
from workflow.lib.runs import DATA, Metrics, Trace

pytestmark = pytest.mark.slow  # every run that a claim reads is trained once

SEEDS, STEPS, EPOCHS = 3, 300, 6
Runs = dict[str, dict[str, np.ndarray]]


def walked(length: np.ndarray, sideways: float = 1.0, speed: float = 1.0) -> dict[str, np.ndarray]:
    """What a run records that comes as far down one curve as its path is long; `sideways` makes the path longer."""
    wobble = 1 + 0.01 * np.arange(SEEDS)[:, None]
    steps = np.broadcast_to(length, (SEEDS, STEPS)) * wobble
    loss = 0.05 + 1.05 * np.exp(-speed * np.cumsum(steps, axis=1) / wobble)
    return {
        "train_loss": loss,
        "step_length": length * np.ones((SEEDS, STEPS)),
        "path_length": sideways * steps.cumsum(1),
    }


def row(figure: str) -> Runs:
    """Runs that follow the paper's row and learn: the gradient's norm is 2 for text and .3 for images."""
    told = ROWS[figure]
    norm = 2.0 if told["batch_size"] == 32 else 0.3
    speed = 1.0 if told["batch_size"] == 32 else 5.0
    sizes = {"sgd": told["sgd"], "sngd": min(told["sngd"] / norm, told["eta_max"]), "sps": told["eta_max"]}
    runs = {label: walked(np.array(size * norm), speed=speed) for label, size in sizes.items()}
    runs["adam"] = walked(np.array(0.01), speed=speed)
    runs["sgd_longer"] = walked(np.array(0.012), speed=speed)
    for label, size in {**sizes, "sgd_longer": 0.02, "adam": told["adam"]}.items():
        runs[label]["step_size"] = np.full((SEEDS, STEPS), size)
        runs[label]["test_accuracy"] = 1 - 0.5 * runs[label]["train_loss"][:, ::50]
    examples = np.full((SEEDS, 1), 1600.0)
    runs[DATA] = {
        "train_examples": examples,
        "batches_per_epoch": np.ceil(examples / told["batch_size"]),
        "largest_class": np.full((SEEDS, 1), 0.4),
    }
    return runs


def metrics(figure: str, runs: Runs) -> Metrics:
    traces = {}
    for label, values in runs.items():
        traces[label] = Trace(range(SEEDS))
        for metric, array in values.items():
            traces[label].record(metric, np.arange(array.shape[1]) + (array.shape[1] > EPOCHS), array)
    return Metrics({FIGURES[figure]: traces})


def holds(claim: str, runs: Runs) -> bool:
    band = rooms.load_paper("ib").claims[claim]
    figure = claim.split(".")[1]
    return verdict(CLAIMS[claim](metrics(figure, runs), {}), band.low, band.high, band.share)[1]


def untrained(*labels: str) -> Callable[[Runs], None]:
    """The weights never move."""

    def change(runs: Runs) -> None:
        for label in labels:
            for metric in ("train_loss", "test_accuracy"):
                runs[label][metric] = np.broadcast_to(runs[label][metric][:, :1], runs[label][metric].shape)
            runs[label]["test_accuracy"] = np.full_like(runs[label]["test_accuracy"], 0.4)

    return change


def uphill(*labels: str) -> Callable[[Runs], None]:
    """The sign of the step is wrong."""

    def change(runs: Runs) -> None:
        for label in labels:
            runs[label]["train_loss"] = 2 * runs[label]["train_loss"][:, :1] - runs[label]["train_loss"]

    return change


def swapped(one: str, other: str) -> Callable[[Runs], None]:
    """An optimizer's trace under the name of another."""

    def change(runs: Runs) -> None:
        runs[one], runs[other] = runs[other], runs[one]

    return change


def scaled(label: str, metric: str, factor: float) -> Callable[[Runs], None]:
    def change(runs: Runs) -> None:
        runs[label][metric] = factor * runs[label][metric]

    return change


def both(*changes: Callable[[Runs], None]) -> Callable[[Runs], None]:
    def change(runs: Runs) -> None:
        for one in changes:
            one(runs)

    return change


def other(label: str, sideways: float = 1.0, speed: float = 1.0) -> Callable[[Runs], None]:
    """Steps that lead elsewhere: part of them nowhere, or down another curve."""
    return lambda runs: runs[label].update(walked(runs[label]["step_length"][0], sideways, speed))


def lost(label: str) -> Callable[[Runs], None]:
    """One seed diverges and has no numbers at the end."""

    def change(runs: Runs) -> None:
        for metric in ("train_loss", "test_accuracy", "path_length"):
            runs[label][metric] = runs[label][metric].copy()
            runs[label][metric][1, -3:] = np.nan
        runs[label]["diverged_at"] = np.array([[np.nan], [STEPS - 2.0], [np.nan]])

    return change


KILLERS: dict[str, dict[str, Callable[[Runs], None]]] = {
    "lang_faster": {
        "both untrained": untrained("sngd", "sps"),
        "both uphill": uphill("sngd", "sps"),
        "sgd's trace as sps's, sngd untrained": both(swapped("sgd", "sps"), untrained("sngd")),
    },
    "lang_order": {
        "sngd untrained": untrained("sngd"),
        "sps uphill": uphill("sps"),
        "sgd's trace as sngd's": swapped("sgd", "sngd"),
        "sps diverged": lost("sps"),
    },
    "equal_length": {
        "half of each of sngd's steps leads nowhere": other("sngd", sideways=2.0),
        "sngd goes down another curve": other("sngd", speed=3.0),
        "sngd uphill": uphill("sngd"),
        "the path counts every other step": scaled("sngd", "path_length", 0.4),
        "sgd's gradient is scaled": scaled("sgd_longer", "path_length", 3.0),
    },
    "row": {
        "sgd's rate doubled": scaled("sgd", "step_size", 2.0),
        "adam's rate halved": scaled("adam", "step_size", 0.5),
        "sngd's steps halved": both(scaled("sngd", "step_length", 0.5), scaled("sngd", "step_size", 0.5)),
        "sngd's length doubled": scaled("sngd", "step_length", 2.0),
        "sps's cap doubled": scaled("sps", "step_size", 2.0),
        "a factor that no cap holds": scaled("sngd", "step_size", 100.0),
        "adam's trace as sgd's": swapped("sgd", "adam"),
        "a batch of twice the size": scaled(DATA, "batches_per_epoch", 0.5),
        "a sum of gradients in place of their mean": scaled("sngd", "step_length", 32.0),
    },
    "leaves_chance": {
        "sngd untrained": untrained("sngd"),
        "adam untrained": untrained("adam"),
        "sgd diverged": lost("sgd"),
        "labels shuffled": untrained("sgd", "sngd", "sps", "adam"),
    },
}  # fmt: skip
CASES = [(claim, change) for claim in CLAIMS for change in KILLERS[claim.rpartition(".")[2]]]


@pytest.mark.parametrize("claim", list(CLAIMS))
def test_what_is_right_holds(claim: str) -> None:
    assert holds(claim, row(claim.split(".")[1]))


@pytest.mark.parametrize(("claim", "change"), CASES)
def test_what_is_wrong_fails(claim: str, change: str) -> None:
    runs = row(claim.split(".")[1])
    KILLERS[claim.rpartition(".")[2]][change](runs)
    assert not holds(claim, runs)
