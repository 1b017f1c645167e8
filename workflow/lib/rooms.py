"""The rooms: one folder per paper, found by name. No rule and no stage names a paper."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.lib import places
from workflow.lib.contract import Draw, Generate, Measure, Measured, Train
from workflow.lib.errors import UserError, unknown
from workflow.lib.plan import model, reading
from workflow.lib.plan.model import Experiment, Paper, Plan, Room
from workflow.lib.plan.reading import ROOT, read_yaml

if TYPE_CHECKING:
    from workflow.lib.plan.race import Race


def papers() -> tuple[str, ...]:
    """The short names of all papers that have a room."""
    return tuple(sorted(places.rooms()))


@cache
def room(paper: str) -> Room:
    """What the plan has to know of a paper's room.

    Raises:
        UserError: there is no such paper.
    """
    if paper not in papers():
        raise UserError(unknown("paper", paper, papers()))
    settings = importlib.import_module(f"workflow.lib.papers.{paper}.settings")
    return Room(paper, settings.KINDS, settings.DRAWINGS, lambda: claims(paper))


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check a whole configuration (the keys of config.yaml, and changes under a paper's name) and make the plan.

    What it leaves out is as `config/config.yaml` says: Snakemake reads no `configfile:` for a module that is given one.
    """
    whole = {**read_yaml(ROOT / "config" / "config.yaml"), **config}
    if isinstance(whole.get("rooms"), str):
        places.use(whole["rooms"])
    return model.make_plan(whole, room, papers())


def make_race(plan: Plan) -> Race:
    """Check `config/race.yaml` with the user's changes and rules (`race`, `race_problems`), for the plan's papers."""
    from workflow.lib.plan import race  # whose models take as long to build as all that most jobs ask of the plan

    found = read_yaml(ROOT / "config" / "race.yaml")
    return race.read(found, plan.race_problems, plan.race, plan.papers, room)


def load_paper(name: str, mine: Any = None, seeds: int | None = None) -> Paper:
    """A paper's YAML with a user's changes laid over it, checked."""
    return model.load_paper(room(name), mine, seeds)


def package(experiment: Experiment) -> str:
    """The package with the data, training and metrics modules of an experiment's kind."""
    family = experiment.settings.family
    return f"workflow.lib.papers.{experiment.paper}" + (f".{family}" if family else "")


def generate(experiment: Experiment) -> Generate:
    """The data function of an experiment's room."""
    return importlib.import_module(f"{package(experiment)}.data").generate  # type: ignore[no-any-return]


def train(experiment: Experiment) -> Train:
    """The training function of an experiment's room."""
    return importlib.import_module(f"{package(experiment)}.training").train  # type: ignore[no-any-return]


def measure(experiment: Experiment) -> Measure:
    """The metrics function of an experiment's room."""
    return importlib.import_module(f"{package(experiment)}.metrics").measure  # type: ignore[no-any-return]


def figures(paper: str) -> Mapping[str, Draw]:
    """The drawing functions of a paper, by name."""
    return importlib.import_module(f"workflow.lib.papers.{paper}.figures").FIGURES  # type: ignore[no-any-return]


def drawing(paper: str, name: str) -> Draw:
    """A drawing function: a paper's own, or one for experiments of every paper."""
    return importlib.import_module(drawing_module(paper, name)).FIGURES[name]  # type: ignore[no-any-return]


def drawing_module(paper: str, name: str) -> str:
    """The module of a drawing function."""
    return f"workflow.lib.{name}" if name in model.GENERAL else f"workflow.lib.papers.{paper}.figures"


def caption(paper: str, drawing: str) -> Path:
    """The template of a drawing's caption."""
    general = reading.ROOT / "workflow" / "report" / f"{drawing}.rst"
    return general if drawing in model.GENERAL else places.caption(paper, drawing)


def claims(paper: str) -> Mapping[str, Measured]:
    """The measured sides of a paper's claims, by id."""
    return importlib.import_module(f"workflow.lib.papers.{paper}.claims").CLAIMS  # type: ignore[no-any-return]
