"""Every experiment of every paper at sizes of a blink, and all stages of a paper run in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from PIL import Image

from workflow.lib import plotting, rooms, stages
from workflow.lib.plan.model import Paper, block_seeds
from workflow.lib.plan.reading import ROOT

# By the name of a setting: its small value, where the experiment has that setting.
_SMALL: dict[str, Any] = {
    # ntp
    "steps_ov": 6,
    "steps_kq": 6,
    # icl
    "epochs": 2,
    "prompts": 6,
    "fresh_prompts": 10,
    "feature_counts": [3, 4],
    "phases_of": 4,
    "plateau_of": 3,
    # ib, synthetic
    "samples": 6,
    "dimension": 60,
    # ib, deep
    "train_examples": 40,
    "test_examples": 20,
    "batch_size": 20,
    "depth": 1,
    "mlp": 8,
    "heads": 2,
    # scb
    "positions": 20,
    "iterations": 20,
    "boosting_steps": 10,
    "rounding_steps": 5,
}
_ONLY = {  # where a name means something else in another paper
    "scb": {"batch_size": 4, "samples": 500},
    "icl": {"dimension": None},
    "ib": {"iterations": None, "tokens": 4},
}
_ENTRY = {"iterations": 8, "steps": 4, "texts": 40, "warm_up": 2}


def paper(name: str, **how: Any) -> Paper:
    """A paper at small sizes; takes what `changes` takes."""
    return rooms.load_paper(name, changes(name, **how))


def changes(
    name: str,
    seeds: int = 2,
    settings: Mapping[str, Any] | None = None,
    entries: Mapping[str, Any] | None = None,
    only: int | None = None,
    more: Mapping[str, Any] | None = None,
    experiments: Collection[str] | None = None,
    figures: Collection[str] | None = None,
) -> dict[str, Any]:
    """What to lay over a paper's YAML for small sizes.

    Args:
        name: of the paper.
        seeds: of every experiment.
        settings: further values, where an experiment has them.
        entries: values for every optimizer, where it has them.
        only: how many optimizers to keep; None for all.
        more: further optimizers, by label, for experiments of several.
        experiments: those to keep, without figures; None for all, with theirs.
        figures: those to keep, with the experiments that they draw and those that none draws; None for all.
    """
    shipped = rooms.load_paper(name)
    small = {**_SMALL, **_ONLY.get(name, {}), **(settings or {})}
    drawn = {figure.name: figure.experiments for figure in shipped.figures.values()}
    if experiments is not None:
        figures = ()
    elif figures is not None:
        left = {experiment for figure in drawn.keys() - figures for experiment in drawn[figure]}
        shown = {experiment for figure in figures for experiment in drawn[figure]}
        experiments = shipped.experiments.keys() - (left - shown)
    laid: dict[str, Any] = {}
    for label, experiment in shipped.experiments.items():
        if experiments is not None and label not in experiments:
            laid[label] = None
            continue
        own = experiment.settings.model_dump()
        mine = {
            key: {"value": value}
            for key, value in small.items()
            if key in own
            and value is not None
            and own[key] is not None
            and not (key.endswith("ing_steps") and not own[key])
        }
        if "infinite" in own.get("context_lengths", ()) and len(own["context_lengths"]) > 1:
            mine |= {"feature_counts": {"value": [4]}, "context_lengths": {"value": [8, "infinite"]}, "plateau_of": 4}
        entries_of: dict[str, Any] = {}
        needed = {start for entry in experiment.optimizers.values() if (start := entry.start_from)}
        for at, (entry, optimizer) in enumerate(experiment.optimizers.items()):
            if only is not None and at >= only and entry not in needed:
                entries_of[entry] = None
                continue
            given = {**_ENTRY, **(entries or {})}
            known = {**optimizer.hyperparameters, **optimizer.options.model_dump(exclude_none=True)}
            entries_of[entry] = {key: value for key, value in given.items() if key in known}
        laid[label] = {"seeds": seeds, "settings": mine, "optimizers": {**entries_of, **(more or {})}}
    return {"experiments": laid, "figures": dict.fromkeys(drawn.keys() - (drawn if figures is None else figures))}


def run(of: Paper, folder: Path, seeds_per_job: int | None = None) -> Iterator[str]:
    """Generate, train and measure every experiment, by default with all seeds in one job; yields what is done."""
    for experiment in of.experiments.values():
        blocks = experiment.blocks(seeds_per_job or experiment.seeds)
        data = [folder / "data" / experiment.name / f"{block}.npz" for block in blocks]
        runs = folder / "runs" / experiment.name
        for block, made in zip(blocks, data, strict=True):
            numbers = block_seeds(block)
            stages.generate(experiment, numbers, made)
            for label in sorted(experiment.optimizers, key=lambda label: len(experiment.before(label))):
                stem = runs / label / block
                start = [runs / before / f"{block}.safetensors" for before in experiment.before(label)[-1:]]
                outputs = stem.with_suffix(".parquet"), stem.with_suffix(".safetensors")
                stages.train(experiment, label, numbers, made, *outputs, start=start[0] if start else None)
        stages.measure(experiment, data, runs, blocks, folder / "metrics" / f"{experiment.name}.parquet")
        yield experiment.name


def tables(of: Paper, folder: Path, names: Any = None) -> dict[str, Path]:
    return {name: folder / "metrics" / f"{name}.parquet" for name in names or of.experiments}


def draw(of: Paper, folder: Path, figure: str) -> Path:
    """Draw one figure; its caption."""
    entry = of.figure(figure)
    outputs = {kind: folder / "figures" / f"{figure}.{kind}" for kind in ("pdf", "png", "csv", "rst", "json")}
    named = {**outputs, "caption": outputs["rst"], "description": outputs["json"]}
    template = ROOT / "workflow" / "report" / of.name / f"{entry.drawing}.rst"
    stages.draw(of, figure, tables(of, folder, entry.experiments), template, named)
    return outputs["rst"]


def quick_pictures(monkeypatch: pytest.MonkeyPatch, measured: bool = False) -> None:
    """Of a picture what it takes without rendering: limits, and where ticks and which labels fall; no pixels.

    Titles stand where they are put: to look for their place, matplotlib measures every label twice.

    Args:
        monkeypatch: of the test.
        measured: whether lines and texts are measured too.
    """

    def made(figure: matplotlib.figure.Figure, path: Any, format: str, **_: Any) -> None:
        if format == "pdf":
            figure.set_layout_engine("none")
            for ax in figure.axes:
                ax.set_title(ax.get_title(loc="left"), loc="left", y=1.0)
                for axis in (ax.xaxis, ax.yaxis):
                    for ticks in (axis.major, axis.minor):  # as numbers and texts: to make a tick is to make 5 artists
                        ticks.formatter.format_ticks(ticks.locator())
            if measured:
                figure.draw_without_rendering()
        Image.new("RGB", (40, 30)).save(path, format)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", made)
    monkeypatch.setattr(plotting, "laid_out", contextlib.nullcontext)
