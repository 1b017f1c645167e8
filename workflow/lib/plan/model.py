"""What runs: a plan holds papers, a paper its experiments, figures and claims; every value with its evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypeVar

from workflow.lib.errors import UserError, shortened, unknown
from workflow.lib.number_types import Count, Index, Real
from workflow.lib.plan import reading, sweeps
from workflow.lib.plan.checking import checked, named
from workflow.lib.plan.evidence import Model, Setting, Source, at
from workflow.lib.plan.optimizer import O, Optimizer
from workflow.lib.plan.settings import Settings
from workflow.lib.plan.sweeps import Sweep, Target
from workflow.lib.streams import Seed

S = TypeVar("S", bound=Settings, default=Any)
# Drawing functions for experiments of every paper, as `Room.drawings` lists a paper's own.
GENERAL: Mapping[str, tuple[Any, ...]] = {"sweep": (Settings, ...)}


@dataclass(frozen=True)
class Room:
    """What the plan has to know of a paper's room (see `workflow.lib.rooms`).

    Attributes:
        paper: short name.
        kinds: kind of experiment -> its settings class.
        drawings: drawing function -> the settings classes of the experiments it draws, in order; a last `...` stands
            for any number more of the one before.
        claims: the ids of the claims that can be measured.
    """

    paper: str
    kinds: Mapping[str, type[Settings]]
    drawings: Mapping[str, tuple[Any, ...]]
    claims: Callable[[], Collection[str]]


class _Entry(Model):
    """An experiment as its YAML gives it."""

    kind: str
    about: str = ""
    seeds: Any = 1
    stream: Any = 0
    seeds_per_job: Count = Field(10, description="a whole number of at least 1")
    objective: Any = None
    target: Any = None
    settings: dict[str, Any]
    optimizers: dict[str, Any] = Field(description="labels with their hyper-parameters")
    sweep: Sweep | None = None
    together: dict[str, tuple[str, ...]] | None = None


class _Draws(Model):
    """How many seeds an experiment has, and which stream of random numbers they draw from."""

    seeds: Annotated[Count, Field(le=100_000)] = Field(description="a whole number of at least 1")
    stream: Annotated[Index, Field(le=100_000)] = Field(description="a whole number of at least 0")


class Experiment(Model, Generic[S, O]):
    """One experiment: typed settings and optimizers, and what the YAML gave, every value with its evidence.

    Experiments of a paper with one `stream` and equal settings see the same random numbers. `objective` is the metric
    that points of a sweep are compared by, and `target` when it counts as reached. `together` are labels that one job
    trains, one after another, by the name of the job's files. `folders` are those of the real data sets that were
    fetched for it.
    """

    paper: str
    name: str
    kind: str
    about: str
    seeds: int
    stream: int
    seeds_per_job: int
    given: Mapping[str, Setting]
    settings: S
    optimizers: Mapping[str, Optimizer[O]]
    objective: Setting | None = None
    target: Setting | None = None
    sweep: Sweep | None = None
    together: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    folders: Mapping[str, Path] = Field(default_factory=dict)

    @classmethod
    def read(cls, room: Room, name: str, section: Any) -> Experiment:
        """Check one entry under `experiments`.

        Raises:
            UserError: naming the key, what was found and what is allowed.
        """
        where = f"{room.paper}.experiments.{name}"
        entry = checked(_Entry, section, where)
        if entry.kind not in room.kinds:
            raise UserError(f"{where}.kind: {unknown('kind', entry.kind, room.kinds)}")
        kind = room.kinds[entry.kind]
        given = {key: Setting.read(value, f"{where}.settings.{key}") for key, value in entry.settings.items()}
        settings = checked(kind, {key: v.value for key, v in given.items()}, f"{where}.settings", "setting")
        optimizers = {
            label: Optimizer.read(label, values, kind.options, f"{where}.optimizers.{label}")
            for label, values in entry.optimizers.items()
        }
        for label, optimizer in optimizers.items():
            with at(f"{where}.optimizers.{label}"):
                settings.route(optimizer)
            _check_start(label, optimizers, settings, f"{where}.optimizers")
        objective, target = _objective(entry, kind, where)
        if entry.sweep is not None:
            _check_points(entry.sweep, optimizers, settings, where)
        drawn = {
            key: Setting.read(found if isinstance(found, Mapping) else {"value": found, "source": "choice"}, where)
            for key, found in (("seeds", entry.seeds), ("stream", entry.stream))
        }
        draws = checked(_Draws, {key: setting.value for key, setting in drawn.items()}, where)
        return cls(
            paper=room.paper,
            name=name,
            kind=entry.kind,
            about=entry.about,
            seeds=draws.seeds,
            stream=draws.stream,
            seeds_per_job=entry.seeds_per_job,
            given={**drawn, **given},
            settings=settings,  # type: ignore[arg-type]  # of the kind's own class
            optimizers=optimizers,
            objective=objective,
            target=target,
            sweep=entry.sweep,
            together=_together(entry, settings),
        )

    @property
    def goal(self) -> Target:
        """When the objective counts as reached."""
        assert self.target is not None, "only experiments with a target are asked for it"
        return checked(Target, self.target.value, f"{self.paper}.experiments.{self.name}.target")

    @property
    def jobs(self) -> dict[str, tuple[str, ...]]:
        """The labels that each training job of a block of seeds trains, by the name of its files."""
        joined = {label: name for name, labels in self.together.items() for label in labels}
        alone = {label: (label,) for label in self.optimizers if label not in joined}
        return {**alone, **self.together}

    def job(self, name: str) -> tuple[str, ...]:
        """The labels that a training job trains, or a UserError that lists the jobs."""
        if name in self.together:
            return self.together[name]
        # Not by `jobs`, which every job of a plan would make anew, and which is as long as a sweep has points.
        if name in self.optimizers and not any(name in labels for labels in self.together.values()):
            return (name,)
        raise UserError(f"{self.paper}.experiments.{self.name}: {unknown('optimizer', name, self.jobs)}")

    def swept(self, label: str) -> dict[str, Any]:
        """The swept values of one optimizer's runs, by name; empty where nothing is swept."""
        if self.sweep is None:
            return {}
        values = {key: self.given[key].value for key in self.sweep.settings}
        if label in self.sweep.points:
            values |= {key: self.optimizers[label].given[key].value for key in self.sweep.values}
        return values

    def optimizer(self, label: str) -> Optimizer[O]:
        """An optimizer by label, or a UserError that lists the labels."""
        if label not in self.optimizers:
            raise UserError(f"{self.paper}.experiments.{self.name}: {unknown('optimizer', label, self.optimizers)}")
        return self.optimizers[label]

    def before(self, label: str) -> list[str]:
        """The labels whose runs a label's runs go on from, the first run first; empty when they start on their own."""
        start = self.optimizer(label).start_from
        return [] if start is None else [*self.before(start), start]

    def folder(self, dataset: str) -> Path:
        """The folder of a real data set that was fetched for this experiment."""
        if dataset not in self.folders:
            raise UserError(f"--datasets: {self.paper}.{self.name} needs the manifest of the data set {dataset!r}")
        return self.folders[dataset]

    def seed(self, number: int) -> Seed:
        """One seed of this experiment, the source of its random streams."""
        return Seed(self.paper, self.stream, number)

    def sourced(self) -> Iterator[tuple[str, Setting]]:
        """Every given value but `seeds` and `stream`, with its name; an optimizer's as `label.name`.

        Points of a sweep are one optimizer here, with all values of what is swept.
        """
        yield from ((key, setting) for key, setting in self.given.items() if key not in _Draws.model_fields)
        points = self.sweep.points if self.sweep is not None else ()
        hidden = set(points[1:])
        for label, optimizer in self.optimizers.items():
            if label in hidden:
                continue
            for key, setting in optimizer.given.items():
                if self.sweep is not None and label in points and key in self.sweep.values:
                    every = dict.fromkeys(self.optimizers[point].given[key].value for point in points)
                    setting = setting.model_copy(update={"value": list(every)})
                if key != "rule" or setting.source == "user":
                    name = self.sweep.entry if self.sweep is not None and label in points else label
                    yield f"{name}.{key}", setting

    def own(self, optimizers: Collection[str]) -> list[str]:
        """What the user set, of the experiment and of some of its optimizers, as `name = value`."""
        return [
            f"{self.name}.{name} = {setting.told}"
            for name, setting in [*((key, self.given[key]) for key in _Draws.model_fields), *self.sourced()]
            if setting.source == "user" and ("." not in name or name.rpartition(".")[0] in optimizers)
        ]

    def blocks(self, size: int | None = None) -> list[str]:
        """The seeds in blocks of at most `size` (the experiment's own by default): `0-9`, `10-19`, or `3` alone."""
        return blocks(self.seeds, size or self.seeds_per_job)


def _check_start(label: str, optimizers: Mapping[str, Optimizer], settings: Settings, where: str) -> None:
    """Refuse a start from an unknown entry, from itself, or from what the kind of experiment cannot go on from."""
    chain = [label]
    while (start := optimizers[chain[-1]].start_from) is not None:
        place = f"{where}.{chain[-1]}.start_from"
        if start not in optimizers:
            raise UserError(f"{place}: {unknown('optimizer', start, optimizers)}")
        if start in chain:
            circle = " <- ".join([*chain, start])
            raise UserError(f"{place}: expected to reach runs that start on their own; found the circle {circle}")
        with at(place):
            settings.check_start(optimizers[chain[-1]], optimizers[start])
        chain.append(start)


def _objective(entry: _Entry, kind: type[Settings], where: str) -> tuple[Setting | None, Setting | None]:
    """What an experiment says of its objective and target, checked."""
    objective = None if entry.objective is None else Setting.read(entry.objective, f"{where}.objective")
    target = None if entry.target is None else Setting.read(entry.target, f"{where}.target")
    if objective is not None and objective.value not in kind.objectives:
        raise UserError(f"{where}.objective: {unknown('objective', objective.value, kind.objectives)}")
    if target is not None:
        goal = checked(Target, target.value, f"{where}.target")
        if objective is not None and goal.low != ((side := kind.objectives[objective.value]) == "below"):
            raise UserError(
                f"{where}.target: runs are good where {objective.value} is {side} a number; expected "
                f"{{{side}: <number>}}, found {target.value}"
            )
    return objective, target


def _together(entry: _Entry, settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """The labels that one job trains, by the name of its files: points of a sweep, as many as the kind says."""
    if entry.together is not None:
        return entry.together
    if entry.sweep is None or settings.points_per_job == 1:
        return {}
    points, size = entry.sweep.points, settings.points_per_job
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return {f"{entry.sweep.entry}_points{number}": part for number, part in enumerate(parts, start=1)}


def _check_points(sweep: Sweep, optimizers: Mapping[str, Optimizer], settings: Settings, where: str) -> None:
    """Refuse points that the objective says nothing of."""
    for label in sweep.points:
        if not settings.compared(optimizers[label]):
            raise UserError(
                f"{where}.optimizers.{sweep.entry}: cannot be swept, because its runs are the start of others and do "
                "not record the objective; sweep those that go on from it"
            )


def blocks(seeds: int, size: int) -> list[str]:
    """The names of the blocks of at most `size` that hold so many seeds.

    >>> blocks(25, 10)
    ['0-9', '10-19', '20-24']
    """
    return [block_name(start, min(start + size, seeds) - 1) for start in range(0, seeds, size)]


def block_name(first: int, last: int) -> str:
    """The name of a block of seeds.

    >>> block_name(0, 4), block_name(3, 3)
    ('0-4', '3')
    """
    return str(first) if first == last else f"{first}-{last}"


def block_seeds(name: str) -> list[int]:
    """The seeds of a block.

    >>> block_seeds("2-4")
    [2, 3, 4]
    """
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", name)
    seeds = list(range(int(match[1]), int(match[2] or match[1]) + 1)) if match else []
    if not seeds:
        raise UserError(f"seeds: expected one seed such as 3 or a block such as 0-9, found {shortened(name)}")
    return seeds


class Figure(Model):
    """One figure: the experiments it draws, and `draws`, the drawing function, by default the figure's own."""

    name: str
    title: str
    experiments: tuple[str, ...]
    draws: str = ""

    @property
    def drawing(self) -> str:
        """The drawing function, which the caption's template is named after too."""
        return self.draws or self.name


class Claim(Model):
    """One entry of a paper's ledger, with its acceptance band (an open end is None).

    `source` says where the claim comes from, `band` where the band does (the same unless said); `share` of the seeds
    must lie in it; `reason` is why the claim fails at the shipped settings, where it does.
    """

    name: str
    figure: str | None
    statement: str
    low: Real | None = Field(None, description="a number, or null for no lower end")
    high: Real | None = Field(None, description="a number, or null for no upper end")
    share: Real = Field(1.0, gt=0, le=1, description="the share of seeds that must lie in the band, up to 1")
    source: Source = Field(description="one of paper, inferred, recalled, derived, choice, user")
    band: Source | None = Field(None, description="one of paper, inferred, recalled, derived, choice, user")
    where: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _has_a_band(self) -> Claim:
        if self.low is None and self.high is None:
            raise ValueError("low, high: expected a number for at least one end of the band, found neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low, high: expected low <= high, found {self.low:g} and {self.high:g}")
        return self

    @property
    def evidence(self) -> str:
        """Where the claim and its band come from, in words."""
        told = self.source if self.band in (None, self.source) else f"{self.source}; band {self.band}"
        return f"{told} ({self.where})" if self.where else told


class _Paper(Model):
    """A paper as its YAML gives it."""

    title: str = ""
    authors: str = ""
    venue: str = ""
    experiments: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)
    claims: dict[str, Any] = Field(default_factory=dict)


class Paper(Model):
    """One paper of the plan."""

    name: str
    title: str
    authors: str
    venue: str
    experiments: Mapping[str, Experiment]
    figures: Mapping[str, Figure]
    claims: Mapping[str, Claim]

    @classmethod
    def read(cls, room: Room, section: Mapping[str, Any]) -> Paper:
        """Check a paper's YAML, or a part of it that keeps its shape.

        Raises:
            UserError: naming the key, what was found and what is allowed.
        """
        entry = checked(_Paper, section, room.paper)
        for name, found in entry.experiments.items():
            named(name, f"{room.paper}.experiments")
            if isinstance(found, Mapping) and "kind" not in found:
                more = "A new one needs `kind`, or `like` and the name of the experiment to start from."
                others = set(entry.experiments) - {name}
                raise UserError(f"{room.paper}.experiments: {unknown('experiment', name, others, more)}")
        experiments = {name: Experiment.read(room, name, found) for name, found in entry.experiments.items()}
        figures = {name: _figure(room, name, found, experiments) for name, found in entry.figures.items()}
        claims = {name: _claim(room, name, found, figures) for name, found in entry.claims.items()}
        head = {"title": entry.title, "authors": entry.authors, "venue": entry.venue}
        return cls(name=room.paper, **head, experiments=experiments, figures=figures, claims=claims)

    @property
    def claimed(self) -> dict[str, Experiment]:
        """The experiments that claims may be measured on: all but points of sweeps."""
        return {name: experiment for name, experiment in self.experiments.items() if experiment.sweep is None}

    def experiment(self, name: str) -> Experiment:
        """An experiment by name, or a UserError that lists them."""
        if name not in self.experiments:
            raise UserError(f"{self.name}: {unknown('experiment', name, self.experiments)}")
        return self.experiments[name]

    def figure(self, name: str) -> Figure:
        """A figure by name, or a UserError that lists them."""
        if name not in self.figures:
            raise UserError(f"{self.name}: {unknown('figure', name, self.figures)}")
        return self.figures[name]


def _figure(room: Room, name: str, found: Any, experiments: Mapping[str, Experiment]) -> Figure:
    where = f"{room.paper}.figures.{name}"
    if not re.fullmatch(r"fig[0-9]+|extra_[a-z0-9_]+", str(name)):
        raise UserError(
            f"{room.paper}.figures: expected fig1, fig2, ... as in the paper, or extra_<name> for what goes beyond it; "
            f"found {shortened(name)}"
        )
    figure = checked(Figure, {"name": name, **found} if isinstance(found, Mapping) else found, where)
    drawings = {**room.drawings, **GENERAL}
    if figure.drawing not in drawings:
        if figure.draws:
            raise UserError(f"{where}.draws: {unknown('drawing', figure.draws, drawings)}")
        more = "A new one needs `draws` and one of these."
        raise UserError(f"{where}: {unknown('figure', name, room.drawings, more)}")
    for experiment in figure.experiments:
        if experiment not in experiments:
            more = f"To leave the figure out: `{name}: null`."
            raise UserError(f"{where}.experiments: {unknown('experiment', experiment, experiments, more)}")
    expected = [*drawings[figure.drawing]]
    if expected[-1:] == [...]:
        expected = expected[:-1] + [expected[-2]] * max(0, len(figure.experiments) - len(expected) + 1)
    kinds = [sorted(key for key, kind in room.kinds.items() if issubclass(kind, wanted)) for wanted in expected]
    told = ", ".join(" or ".join(names) for names in kinds)
    if len(kinds) != len(figure.experiments):
        raise UserError(f"{where}.experiments: expected one of each kind: {told}; found {list(figure.experiments)}")
    for experiment, allowed in zip(figure.experiments, kinds, strict=True):
        if experiments[experiment].kind not in allowed:
            raise UserError(
                f"{where}.experiments: {figure.drawing} draws experiments of the kind {told}; found {experiment!r} "
                f"of the kind {experiments[experiment].kind}"
            )
    if figure.drawing in GENERAL and any(experiments[name].sweep is None for name in figure.experiments):
        raise UserError(f"{where}.draws: {figure.drawing} draws sweeps, which make their figures themselves")
    return figure


def _claim(room: Room, name: str, found: Any, figures: Mapping[str, Figure]) -> Claim:
    where = f"{room.paper}.claims.{name}"
    if name not in room.claims():
        raise UserError(f"{room.paper}.claims: {unknown('claim', name, room.claims())}")
    claim = checked(Claim, {"name": name, **found} if isinstance(found, Mapping) else found, where)
    if claim.figure is not None and claim.figure not in {*figures, *room.drawings}:
        raise UserError(f"{where}.figure: {unknown('figure', claim.figure, figures)}")
    return claim


def _names(found: Any) -> Any:
    if not isinstance(found, list | tuple) or not found or len({*map(str, found)}) < len(found):
        raise ValueError("expected a list without repetitions")
    return found


def _rules(found: Any) -> Any:
    if not isinstance(found, list | tuple) or any(not isinstance(rule, str) for rule in found):
        raise ValueError("expected a list of dotted paths")
    return found


class _Run(Model):
    """What `config/config.yaml` says beside the papers."""

    seeds: Annotated[Count, Field(le=100_000)] | None = Field(
        None, description="a whole number of at least 1, or null for each experiment's own number"
    )
    seeds_per_job: Count | None = Field(
        None, description="a whole number of at least 1, or null for each experiment's own number"
    )
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="one of cpu, cuda, auto")
    container: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="an image for --sdm apptainer, such as figures.sif or docker://..., or null for none"
    )
    data_dir: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="a folder with the official files of the real data sets, or null to fetch them"
    )
    tensorboard: bool = Field(
        False, description="true or false: whether trainings of deep nets write events for TensorBoard as they run"
    )
    rooms: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="a folder with papers of your own, a folder for each (examples/own-project), or null for none"
    )
    race: Annotated[tuple[str, ...], BeforeValidator(_rules)] = Field(
        (), description="a list of dotted paths such as torch.optim.RMSprop: optimizers that race beside the registered"
    )
    race_problems: Mapping[str, Any] = Field(
        default_factory=dict, description="changes of the race's problems, laid out as in config/race.yaml"
    )


class Config(_Run):
    """The keys of `config/config.yaml`, but for those that are papers' names."""

    papers: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        description="a list of papers' short names, at least one"
    )


class Plan(_Run):
    """Everything that the workflow may run."""

    papers: Mapping[str, Paper]

    def paper(self, name: str) -> Paper:
        """A paper of this plan by name, or a UserError that lists them."""
        if name not in self.papers:
            raise UserError(unknown("paper", name, self.papers))
        return self.papers[name]


def make_plan(config: Mapping[str, Any], room_of: Callable[[str], Room], known: Collection[str]) -> Plan:
    """Check a whole configuration and make the plan.

    Args:
        config: the keys of `Config`, and under a paper's name whatever a user lays over its YAML.
        room_of: finds a paper's room.
        known: the names of all papers.

    Raises:
        UserError: naming the key or file, what was found, what is allowed.
    """
    run = checked(Config, {key: value for key, value in config.items() if key not in known}, "config")
    for name in run.papers:
        if name not in known:
            raise UserError(f"config.papers: {unknown('paper', name, known)}")
    papers = {name: load_paper(room_of(name), config.get(name), run.seeds) for name in run.papers}
    return Plan(**{**run.model_dump(), "papers": papers})


def load_paper(room: Room, mine: Any = None, seeds: int | None = None) -> Paper:
    """A paper's YAML with a user's changes laid over it, checked.

    Args:
        room: the paper's.
        mine: changes, as nested mappings of the same layout; None for none.
        seeds: the number of seeds of every experiment, in place of its own.
    """
    laid = reading.lay(reading.shipped(room.paper), {} if mine is None else mine, room.paper)
    if seeds is not None:
        laid = reading.lay(laid, {"experiments": {name: {"seeds": seeds} for name in laid["experiments"]}}, room.paper)
    for name, entry in laid["experiments"].items():  # a part that a job gets may have none
        if isinstance(entry, Mapping) and entry.get("optimizers") == {}:
            raise UserError(
                f"{room.paper}.experiments.{name}.optimizers: expected at least one; to leave the experiment out: "
                f"`{name}: null`"
            )
    return Paper.read(room, sweeps.expand(laid, room.paper))
