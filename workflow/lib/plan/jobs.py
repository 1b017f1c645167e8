"""What one job gets of the plan: one JSON file of the shape of the paper's YAML, named by its content.

A job's parameters hold the file's path. So a job reruns when what it gets has changed and not otherwise, its command
line stays short however many experiments a paper has, and a plan that is only looked at changes no file of a running
one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workflow.lib.errors import UserError
from workflow.lib.files import readable, write_text
from workflow.lib.plan.model import Experiment, Paper, Room


def for_data(experiment: Experiment) -> dict[str, Any]:
    """What data depend on: the settings, without evidence."""
    return {"experiments": {experiment.name: _bare(experiment, ())}}


def for_run(experiment: Experiment, name: str) -> dict[str, Any]:
    """What a training job's runs depend on: their entries, and those of the runs that they go on from."""
    labels = experiment.job(name)
    return {"experiments": {experiment.name: _bare(experiment, [*experiment.before(labels[0]), *labels])}}


def for_metrics(experiment: Experiment) -> dict[str, Any]:
    """What an experiment's metrics depend on."""
    return {"experiments": {experiment.name: _bare(experiment, experiment.optimizers)}}


def for_figure(paper: Paper, name: str) -> dict[str, Any]:
    """What a figure and its caption depend on: its experiments, with evidence."""
    figure = paper.figure(name)
    used = {experiment: _sourced(paper.experiments[experiment]) for experiment in figure.experiments}
    return {**_head(paper), "experiments": used, "figures": _named({name: figure})}


def for_claims(paper: Paper) -> dict[str, Any]:
    """What a paper's claims depend on: every experiment but points of sweeps, with evidence."""
    figures = {name: figure for name, figure in paper.figures.items() if {*figure.experiments} <= paper.claimed.keys()}
    used = {name: _sourced(experiment) for name, experiment in paper.claimed.items()}
    return {**_head(paper), "experiments": used, "figures": _named(figures), "claims": _named(paper.claims)}


def hand(folder: Path | str, name: str, section: Mapping[str, Any]) -> str:
    """Write what a job gets, unless it is there, and return the file's path."""
    text = json.dumps(section, separators=(",", ":"), ensure_ascii=False)
    path = Path(folder) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_text(path, text)
    return str(path)


def take(path: Path, room: Room) -> Paper:
    """Read what a job got."""
    with readable(path):
        section = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(section, dict):
        raise UserError(f"{path}: expected a mapping laid out as the paper's YAML, found {type(section).__name__}")
    return Paper.read(room, section)


def _bare(experiment: Experiment, labels: Collection[str]) -> dict[str, Any]:
    """An experiment as YAML gives it, with some of its optimizers, without evidence or anything that is only read."""
    return {
        "kind": experiment.kind,
        "stream": experiment.stream,
        "settings": {key: experiment.given[key].bare() for key in experiment.given if key not in ("seeds", "stream")},
        "optimizers": {
            label: {key: setting.bare() for key, setting in experiment.optimizers[label].given.items()}
            for label in labels
        },
        **_points(experiment, labels),
    }


def _sourced(experiment: Experiment) -> dict[str, Any]:
    """An experiment as YAML gives it, every value with its evidence."""
    given = {key: setting.model_dump() for key, setting in experiment.given.items()}
    goal = {"objective": experiment.objective, "target": experiment.target}
    return {
        "kind": experiment.kind,
        "about": experiment.about,
        "seeds": given.pop("seeds"),
        "stream": given.pop("stream"),
        "seeds_per_job": experiment.seeds_per_job,
        "settings": given,
        "optimizers": {
            label: {key: setting.model_dump() for key, setting in optimizer.given.items()}
            for label, optimizer in experiment.optimizers.items()
        },
        **{key: setting.model_dump() for key, setting in goal.items() if setting is not None},
        **_points(experiment, experiment.optimizers, sourced=True),
    }


def _points(experiment: Experiment, labels: Collection[str], sourced: bool = False) -> dict[str, Any]:
    """What an experiment that holds points of a sweep says of some of them; nothing of any other experiment."""
    if experiment.sweep is None:
        return {}
    mine = set(labels)
    told = experiment.sweep.model_dump(exclude=None if sourced else {"shipped"})
    return {
        "sweep": {**told, "points": [label for label in experiment.sweep.points if label in mine]},
        "together": {name: part for name, part in experiment.together.items() if mine.issuperset(part)},
    }


def _head(paper: Paper) -> dict[str, Any]:
    return {"title": paper.title, "authors": paper.authors, "venue": paper.venue}


def _named(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.model_dump(mode="json", exclude={"name"}) for name, entry in entries.items()}
