"""An experiment as the stages see it: typed settings and optimizers, checked, without their sources."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from workflow.lib import optim
from workflow.lib.errors import UserError, unknown
from workflow.lib.settings import Options, Settings
from workflow.lib.streams import Seed

if TYPE_CHECKING:
    import torch

Model = TypeVar("Model", bound=BaseModel)

_PAPERS = Path(__file__).parent / "papers"


def papers() -> tuple[str, ...]:
    """The short names of all papers that have a room."""
    return tuple(sorted(path.parent.name for path in _PAPERS.glob("*/settings.py")))


def kinds(paper: str) -> dict[str, type[Settings]]:
    """The kinds of experiment that a paper knows, each with its settings class.

    Raises:
        UserError: there is no such paper.
    """
    if paper not in papers():
        raise UserError(unknown("paper", paper, papers()))
    return importlib.import_module(f"workflow.lib.papers.{paper}.settings").KINDS  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Optimizer:
    """One optimizer entry of an experiment: a rule with its hyper-parameters, and the paper's own options."""

    label: str
    rule: str
    hyperparameters: Mapping[str, Any]
    options: Options

    def build(self, parameters: Any, **more: Any) -> torch.optim.Optimizer:
        """Make the torch optimizer for some parameters."""
        return optim.build(self.rule, parameters, **{**self.hyperparameters, **more})


@dataclass(frozen=True)
class Experiment:
    """One experiment: typed settings, its optimizers by label, and the folders of the real data sets it reads."""

    paper: str
    name: str
    kind: str
    settings: Settings
    optimizers: Mapping[str, Optimizer]
    folders: Mapping[str, Path] = field(default_factory=dict)

    def folder(self, dataset: str) -> Path:
        """The folder of a real data set that was fetched for this experiment."""
        if dataset not in self.folders:
            raise UserError(f"--datasets: {self.paper}.{self.name} needs the manifest of the data set {dataset!r}")
        return self.folders[dataset]

    def seed(self, number: int) -> Seed:
        """One seed of this experiment, the source of its random streams."""
        return Seed(self.paper, self.name, number)

    @property
    def room(self) -> str:
        """The package that holds this experiment's data, training and metrics modules."""
        return room(self.paper, type(self.settings))


def room(paper: str, settings: type[Settings]) -> str:
    """The package of the stage modules for one settings class of a paper."""
    return f"workflow.lib.papers.{paper}" + (f".{settings.part}" if settings.part else "")


def parse(paper: str, name: str, plain: Mapping[str, Any]) -> Experiment:
    """Check and type an experiment given as plain values.

    Args:
        paper: short name.
        name: the experiment's name.
        plain: `{"kind": ..., "settings": {...}, "optimizers": {label: {"rule": ..., ...}}}`.

    Raises:
        UserError: naming the key, what was found and what is allowed.
    """
    where = f"{paper}.experiments.{name}"
    known = kinds(paper)
    kind = plain.get("kind")
    if kind not in known:
        raise UserError(f"{where}.kind: {unknown('kind', kind, known)}")
    settings = _checked(known[kind], plain.get("settings", {}), f"{where}.settings", "setting")
    optimizers = {
        label: _optimizer(label, entry, known[kind].options, f"{where}.optimizers.{label}")
        for label, entry in plain.get("optimizers", {}).items()
    }
    return Experiment(paper, name, kind, settings, optimizers)


def _optimizer(label: str, entry: Mapping[str, Any], options: type[Options], where: str) -> Optimizer:
    rule = entry.get("rule", label)
    if rule not in optim.names():
        raise UserError(f"{where}: {unknown('optimizer', rule, optim.names())}")
    model = optim.hyperparameters(rule)
    values = {key: value for key, value in entry.items() if key != "rule"}
    own = {key: value for key, value in values.items() if key in model.model_fields}
    rest = {key: value for key, value in values.items() if key not in own}
    foreign = [key for key in rest if key not in options.model_fields]
    if foreign:
        allowed = [*model.model_fields, *options.model_fields]
        raise UserError(f"{where}: {unknown('hyper-parameter', foreign[0], allowed)}")
    checked = _checked(model, own, where, "hyper-parameter")
    given = {key: getattr(checked, key) for key in model.model_fields}
    return Optimizer(label, rule, given, _checked(options, rest, where, "option"))


def _checked(model: type[Model], values: Mapping[str, Any], where: str, what: str) -> Model:
    """Validate values, with pydantic's findings told as one line each."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_line(problem, model, where, what) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _line(problem: Any, model: type[BaseModel], where: str, what: str) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: {unknown(what, path, model.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}.{path}: is missing; this {what} has no default"
    message = problem["msg"].removeprefix("Value error, ")
    if not path:  # a check across several fields, which names them itself
        return f"{where}: {message}"
    found = "" if "found" in message else f"; found {problem['input']!r}"
    return f"{where}.{path}: {message[0].lower()}{message[1:]}{found}"
