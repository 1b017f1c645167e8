"""The race: every rule on every problem of `config/race.yaml`, over one grid of learning rates for all of them.

A problem is an experiment of a paper, shortened where that is said, with an objective and a target. What a rule is
refused for is told here, while planning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from workflow.lib import optim
from workflow.lib.errors import UserError, shortened, unknown
from workflow.lib.files import readable
from workflow.lib.number_types import Count, Index
from workflow.lib.plan import reading, sweeps
from workflow.lib.plan.checking import checked, named
from workflow.lib.plan.evidence import Model, Setting, at
from workflow.lib.plan.model import Experiment, Paper, Room

# The name that the race's results go by, where papers have theirs.
NAME = "race"
# What runs of a rule without a learning rate are called.
UNTUNED = "as_it_is"


class Protocol(Model):
    """How rules are tuned and judged.

    tuning_seeds, tuning_stream: on which each learning rate is tried; judging_seeds, judging_stream: on which the best
    one is judged, never the same. Where the best one lies at an end of the grid, `extension_points` follow beyond it,
    at most `extensions` times.
    """

    tuning_seeds: Count
    tuning_stream: Index
    judging_seeds: Count
    judging_stream: Index
    extension_points: Count
    extensions: Index


class ProblemEntry(Model):
    """A problem as the YAML gives it."""

    paper: str
    experiment: str
    about: str
    lr: Any = Field(description="a sweep such as {sweep: {log: [1e-3, 10, 7]}}")
    unit: str = "steps"
    protocol: dict[str, Any] = Field(default_factory=dict)
    objective: Any = None
    target: Any = None
    settings: dict[str, Any] = Field(default_factory=dict)
    start: dict[str, Any] = Field(default_factory=dict)
    entry: dict[str, Any] = Field(default_factory=dict)


class Problem(Model):
    """One problem of the race.

    Attributes:
        name: its own.
        paper: whose experiment it is.
        like: that experiment's name.
        about: what it is, in words.
        unit: what its steps are.
        section: the experiment as YAML gives it, with the entries alone that others start from.
        entry: what every rule's entry says beside the rule and its hyper-parameters.
        lrs: the grid of learning rates before it is extended, in increasing order.
        protocol: how rules are tuned and judged on it.
    """

    name: str
    paper: str
    like: str
    about: str
    unit: str
    section: dict[str, Any]
    entry: dict[str, Setting]
    lrs: tuple[float, ...]
    protocol: Protocol

    def experiment(
        self, room: Room, rule: str, hyperparameters: Mapping[str, Setting], lrs: Sequence[float], judging: bool = False
    ) -> Experiment:
        """The runs of a rule: an entry for each learning rate, or one alone for a rule that has none.

        Raises:
            UserError: the problem cannot carry the rule.
        """
        own = {key: setting.model_dump() for key, setting in {**hyperparameters, **self.entry}.items()}
        tuned = tunable(rule)
        entries = (
            {point(lr): {"rule": rule, "lr": lr, **own} for lr in lrs} if tuned else {UNTUNED: {"rule": rule, **own}}
        )
        return self.entered(room, entries, judging)

    def entered(self, room: Room, entries: Mapping[str, Any], judging: bool) -> Experiment:
        """The problem with some entries, on the seeds of tuning or of judging."""
        draws = self.protocol
        section = {
            **self.section,
            "seeds": draws.judging_seeds if judging else draws.tuning_seeds,
            "stream": draws.judging_stream if judging else draws.tuning_stream,
            "optimizers": {**self.section["optimizers"], **entries},
        }
        return Paper.read(room, {"experiments": {self.name: section}}).experiment(self.name)

    @property
    def goal(self) -> sweeps.Target:
        """When its objective counts as reached."""
        return checked(sweeps.Target, self.section["target"]["value"], f"{NAME}.problems.{self.name}.target")

    def base(self, room_of: Callable[[str], Room]) -> Experiment:
        """The problem without any rule's entry."""
        return self.entered(room_of(self.paper), {}, judging=False)

    def refusal(self, room: Room, rule: str, hyperparameters: Mapping[str, Setting]) -> str:
        """Why a rule cannot run here; empty where it can."""
        try:
            self.experiment(room, rule, hyperparameters, self.lrs[:1])
        except UserError as error:
            told = str(error)
            for label in (point(self.lrs[0]), UNTUNED):
                told = told.replace(f"{self.paper}.experiments.{self.name}.optimizers.{label}: ", "")
            return " ".join(told.split())
        return ""


class Race(Model):
    """All problems, and all rules with the hyper-parameters that are not their defaults."""

    problems: Mapping[str, Problem]
    rules: Mapping[str, Mapping[str, Setting]]

    def problem(self, name: str) -> Problem:
        """A problem by name, or a UserError that lists them."""
        if name not in self.problems:
            raise UserError(f"{NAME}: {unknown('problem', name, self.problems)}")
        return self.problems[name]

    def rule(self, name: str) -> Mapping[str, Setting]:
        """A rule's hyper-parameters, or a UserError that lists the rules."""
        if name not in self.rules:
            raise UserError(f"{NAME}: {unknown('optimizer', name, self.rules)}")
        return self.rules[name]

    def only(self, problem: str, rule: str) -> Race:
        """One pair of them, without evidence or anything that is only read: what its job gets."""
        whole = self.problem(problem)
        section = {key: value for key, value in whole.section.items() if key != "about"}
        for key in ("settings", "objective", "target"):
            section[key] = _bare(section[key])
        section["optimizers"] = {label: _bare(entry) for label, entry in section["optimizers"].items()}
        bare = whole.model_copy(update={"about": "", "unit": "", "section": section, "entry": _plain(whole.entry)})
        return Race(problems={problem: bare}, rules={rule: _plain(self.rule(rule))})

    def refusals(self, room_of: Callable[[str], Room]) -> dict[tuple[str, str], str]:
        """Pairs of a problem and a rule that cannot run, with the reason."""
        found = {
            (name, rule): problem.refusal(room_of(problem.paper), rule, values)
            for name, problem in self.problems.items()
            for rule, values in self.rules.items()
        }
        return {pair: reason for pair, reason in found.items() if reason}


def _bare(found: Any) -> Any:
    """A mapping as YAML gives it, or one setting, with values alone."""
    if not isinstance(found, Mapping):
        return found
    if "value" in found:
        return {"value": found["value"], "source": "choice", "where": ""}
    return {key: _bare(value) for key, value in found.items()}


def _plain(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    return {key: Setting(value=setting.value, source="choice", where="") for key, setting in settings.items()}


def take(path: Path) -> Race:
    """Read what a job got (`jobs.hand`)."""
    with readable(path):
        section = json.loads(path.read_text(encoding="utf-8"))
    return checked(Race, section, str(path))


def tunable(rule: str) -> bool:
    """Whether a rule has a learning rate."""
    return "lr" in optim.hyperparameters(rule).model_fields


def point(lr: float) -> str:
    """What the runs at a learning rate are called.

    >>> point(0.01), point(1e6)
    ('lr0.01', 'lr1e06')
    """
    return f"lr{lr:.6g}".replace("+", "")


def read(
    found: Mapping[str, Any],
    changes: Mapping[str, Any],
    rules: Collection[str],
    papers: Collection[str],
    room_of: Callable[[str], Room],
) -> Race:
    """Check the race's YAML with a user's changes laid over its problems.

    Args:
        found: what `config/race.yaml` says.
        changes: to its problems, as nested mappings of the same layout; null removes one.
        rules: dotted paths of rules beside the registered ones.
        papers: whose problems are raced on.
        room_of: finds a paper's room.

    Raises:
        UserError: naming the key, what was found and what is allowed.
    """
    for key in found.keys() - {"protocol", "optimizers", "problems"}:
        raise UserError(f"{NAME}: {unknown('key', key, ('protocol', 'optimizers', 'problems'))}")
    entries = {}
    for rule in dict.fromkeys([*optim.names(), *found["optimizers"], *rules]):
        optim.hyperparameters(rule)  # a UserError where there is no such rule
        values = found["optimizers"].get(rule, {})
        entries[rule] = {key: Setting.read(value, f"{NAME}.optimizers.{rule}.{key}") for key, value in values.items()}
    laid = dict(found["problems"])
    for name, change in changes.items():
        if change is None:
            if name not in laid:
                raise UserError(f"race_problems: {unknown('problem', name, laid)}")
            del laid[name]
        else:
            laid[named(name, "race_problems")] = _laid(laid.get(name, {}), change, f"race_problems.{name}")
    problems = {
        name: _problem(name, section, found["protocol"], room_of)
        for name, section in laid.items()
        if not isinstance(section, Mapping) or section.get("paper") in papers or section.get("paper") is None
    }
    if not problems:
        raise UserError(f"race_problems: expected at least one problem of the papers {', '.join(papers)}; found none")
    planned = Race(problems=problems, rules=entries)
    for name, problem in problems.items():
        with at(f"{NAME}.problems.{name}"):
            fetched = problem.base(room_of).settings.downloads()
        if fetched:
            raise UserError(
                f"{NAME}.problems.{name}: expected data that are made here, so that races can be compared; found "
                f"{', '.join(fetched)}, which would be fetched"
            )
    refused = planned.refusals(room_of)
    for name in problems:
        if all((name, rule) in refused for rule in entries):  # a mistake in the problem, not in a rule
            raise UserError(f"{NAME}.problems.{name}: no optimizer can run on it. {refused[name, next(iter(entries))]}")
    return planned


def _laid(base: Mapping[str, Any], change: Any, where: str) -> dict[str, Any]:
    """A user's changes of a problem laid over it."""
    if not isinstance(change, Mapping):
        raise UserError(f"{where}: expected a mapping laid out as in config/race.yaml, found {shortened(change)}")
    inner = {
        key: {**base[key], **value}
        for key, value in change.items()
        if isinstance(value, Mapping) and key in ("settings", "start", "entry", "protocol") and key in base
    }
    return {**base, **change, **inner}


def _problem(name: str, section: Any, protocol: Mapping[str, Any], room_of: Callable[[str], Room]) -> Problem:
    where = f"{NAME}.problems.{name}"
    entry = checked(ProblemEntry, section, where)
    shipped = reading.shipped(room_of(entry.paper).paper)["experiments"]
    if entry.experiment not in shipped:
        raise UserError(f"{where}.experiment: {unknown('experiment', entry.experiment, shipped)}")
    base = shipped[entry.experiment]
    for label in entry.start:
        if label not in base["optimizers"]:
            raise UserError(f"{where}.start: {unknown('optimizer', label, base['optimizers'])}")
    changed = {
        key: value
        for key in ("objective", "target")
        if (value := getattr(entry, key)) is not None
    }  # fmt: skip
    laid = reading.lay(
        {"experiments": {name: {**base, "optimizers": {label: base["optimizers"][label] for label in entry.start}}}},
        {
            "experiments": {
                name: {"settings": entry.settings, "optimizers": entry.start, "about": entry.about, **changed}
            }
        },
        entry.paper,
    )["experiments"][name]
    whole = {**protocol, **entry.protocol}
    values = {key: Setting.read(value, f"{where}.protocol.{key}").value for key, value in whole.items()}
    own = checked(Protocol, values, f"{where}.protocol")
    if own.tuning_stream == own.judging_stream:
        raise UserError(
            f"{where}.protocol: expected judging_stream to be another one than tuning_stream, so that no rule is "
            f"judged on what it was tuned on; found {own.judging_stream} twice"
        )
    swept = sweeps.Swept.of(entry.lr)
    if swept is None:
        raise UserError(f"{where}.lr: expected a sweep such as {{sweep: {{log: [1e-3, 10, 7]}}}}; found {entry.lr!r}")
    lrs = sweeps.values(swept.over, f"{where}.lr")
    if any(type(lr) not in (int, float) or lr <= 0 for lr in lrs) or len(lrs) < 2:
        raise UserError(f"{where}.lr: expected at least two numbers above 0; found {lrs}")
    for key in ("objective", "target"):
        if laid.get(key) is None:
            raise UserError(f"{where}.{key}: is missing; {entry.experiment} has none")
    return Problem(
        name=named(name, f"{NAME}.problems"),
        paper=entry.paper,
        like=entry.experiment,
        about=entry.about,
        unit=entry.unit,
        section=laid,
        entry={key: Setting.read(value, f"{where}.entry.{key}") for key, value in entry.entry.items()},
        lrs=tuple(sorted(float(lr) for lr in lrs)),
        protocol=own,
    )
