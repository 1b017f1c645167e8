"""Sweeps: a value given as several becomes one ordinary run for each, before anything else looks at the plan.

`lr: {sweep: [0.01, 0.1]}` is a list of values, `lr: {sweep: {log: [1e-3, 1, 7]}}` seven values evenly on a log axis.
A sweep in an optimizer's entry makes an experiment of its own, named by the entry and the swept values' names, which
holds a labelled run for each point; a sweep in an experiment's settings makes an experiment for each point. Two sweeps
of one entry make a grid. The experiment itself stays as it is without the sweep, so that figures and claims of a paper
never hang on points.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from workflow.lib.errors import UserError
from workflow.lib.number_types import Real
from workflow.lib.plan.evidence import Model, Setting

# Points of a sweep; and of its settings alone, where each is an experiment with jobs and files of its own.
MOST = 10_000
MOST_EXPERIMENTS = 2_000
_FIXED = {
    "rule": "give each rule an entry of its own",
    "start_from": "give each start an entry of its own",
    "seeds": "it is one number for all points",
    "stream": "it is one number for all points",
    "seeds_per_job": "it is one number for all points",
    "kind": "an experiment has one kind",
    "objective": "all points are compared by one",
    "target": "all points are compared by one",
    "about": "it is a text",
}


class Sweep(Model):
    """What an experiment that holds points of a sweep says of it (`plan.sweeps` makes them).

    Attributes:
        of: the experiment that it was given in.
        entry: the label of the swept optimizer, None where settings alone are swept.
        settings: the settings that are swept.
        values: the optimizer's values that are swept.
        points: the labels of its points, where an optimizer is swept.
        shipped: what the swept values are without the sweep, where they are anything.
    """

    of: str
    entry: str | None = None
    settings: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    shipped: Mapping[str, Setting] = Field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of all swept values: one, or two of a grid."""
        return (*self.settings, *self.values)


class Target(Model):
    """When an objective counts as reached: above a number, or below one."""

    above: Real | None = Field(None, description="a number")
    below: Real | None = Field(None, description="a number")

    @model_validator(mode="after")
    def _one(self) -> Target:
        if (self.above is None) == (self.below is None):
            raise ValueError("expected one of `above: <number>` and `below: <number>`")
        return self

    @property
    def number(self) -> float:
        """The number alone."""
        (number,) = (end for end in (self.above, self.below) if end is not None)
        return number

    @property
    def low(self) -> bool:
        """Whether a low objective is a good one."""
        return self.below is not None

    def met(self, values: np.ndarray) -> np.ndarray:
        """Where values of the objective reach it; of their shape, never at NaN."""
        return values < self.number if self.low else values > self.number


@dataclass(frozen=True)
class Swept:
    """A value that is swept: its points, their evidence, and what it is without the sweep (None for nothing).

    `there` says that what it belongs to runs without it, too.
    """

    over: Any
    evidence: Mapping[str, Any] = field(default_factory=lambda: {"source": "user", "where": ""})
    base: Mapping[str, Any] | None = None
    there: bool = False

    @classmethod
    def of(cls, found: Any) -> Swept | None:
        """The sweep of a value as YAML gives it; None where it is a plain one."""
        if isinstance(found, Swept):
            return found
        if not isinstance(found, Mapping):
            return None
        if isinstance(found.get("value"), Mapping) and set(found["value"]) == {"sweep"}:
            found = {**found, **found["value"]}
            del found["value"]
        if "sweep" not in found:
            return None
        # Keys that are none are kept: every point has them, and is refused with their names.
        evidence = {"source": "user", "where": ""} | {k: v for k, v in found.items() if k not in ("sweep", "value")}
        base = {key: value for key, value in found.items() if key != "sweep"} if "value" in found else None
        return cls(found["sweep"], evidence, base)


@dataclass(frozen=True)
class _Axis:
    """A swept value's name, and its points by what labels call them."""

    key: str
    points: Mapping[str, Any]
    swept: Swept


def values(over: Any, where: str) -> list[Any]:
    """The values of a sweep.

    Args:
        over: a list of numbers, words, true or false; or `{log: [first, last, number of points]}`, whose values are
            rounded to three digits, or to as many as tell them apart.
        where: for messages.

    Raises:
        UserError: saying what was found and what is expected.

    >>> values({"log": ["1e-3", 1, 7]}, "lr")
    [0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1]
    """
    where = f"{where}.sweep"
    if isinstance(over, Mapping) and set(over) == {"log"}:
        found = _log(over["log"], where)
    elif isinstance(over, list | tuple):
        found = [_point(value, where) for value in over]
    else:
        raise UserError(
            f"{where}: expected a list such as [0.01, 0.1], or {{log: [first, last, number of points]}}; found {over!r}"
        )
    if not found:
        raise UserError(f"{where}: expected at least one value, found none")
    if len(found) > MOST:
        raise UserError(f"{where}: expected at most {MOST:,} points, found {len(found):,}")
    seen: set[tuple[bool, Any]] = set()
    for value in found:
        if (isinstance(value, bool), value) in seen:
            raise UserError(f"{where}: expected every value once, found {value!r} twice")
        seen.add((isinstance(value, bool), value))
    return found


def _log(given: Any, where: str) -> list[Any]:
    told = f"{where}.log: expected [first, last, number of points], such as [1e-3, 1, 7]"
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise UserError(f"{told}; found {given!r}")
    first, last, count = (_number(value) for value in given)
    if first is None or last is None or count is None:
        raise UserError(f"{told}, numbers all three; found {list(given)}")
    if first <= 0 or last <= 0:
        raise UserError(f"{told}, the ends above 0, as a log axis has no other numbers; found {list(given)}")
    if not isinstance(count, int) or not 2 <= count <= MOST:
        raise UserError(f"{told}, the last a whole number from 2 to {MOST:,}; found {given[2]!r}")
    if first == last:
        raise UserError(f"{told}, the ends different; found {list(given)}")
    exact = [first * (last / first) ** (place / (count - 1)) for place in range(1, count - 1)]
    for digits in range(3, 18):
        found = [first, *(_shortest(float(f"{value:.{digits}g}")) for value in exact), last]
        if len(set(found)) == count:
            return found
    raise UserError(f"{where}.log: expected ends that {count} numbers fit between; found {list(given)}")


def _shortest(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _number(value: Any) -> int | float | None:
    """A number, also as text (YAML takes `1e-3` for one); None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else float(value)
        except ValueError:
            return None
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _point(value: Any, where: str) -> Any:
    number = _number(value)
    if number is not None:
        return number
    if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value)):
        return value
    raise UserError(
        f"{where}: expected numbers, words, true or false, because every point is named by its value; found {value!r}"
    )


def _names(points: Sequence[Any]) -> dict[str, Any]:
    """Values by what labels call them: six digits, or as many as tell them apart."""
    short = [_told(value) for value in points]
    return {
        text if short.count(text) == 1 else _told(value, ""): value for text, value in zip(short, points, strict=True)
    }


def _told(value: Any, digits: str = ".6g") -> str:
    if isinstance(value, float):
        return f"{value:{digits}}".replace("+", "")
    return str(value).lower()


def label(parts: Sequence[str]) -> str:
    """A name of a point from its parts.

    >>> label(["ngd", *suffixes({"lr": "0.01", "beta1": "0.9", "init": "zero"})])
    'ngd_lr0.01_beta1_0.9_init_zero'
    """
    return "_".join(parts)


def suffixes(told: Mapping[str, str]) -> Iterator[str]:
    """Names of values with the values, such as lr0.01."""
    for key, value in told.items():
        apart = "_" if key[-1].isdigit() or value[0].isalpha() else ""
        yield f"{key.lower()}{apart}{value}"


def expand(laid: Mapping[str, Any], paper: str) -> dict[str, Any]:
    """A paper's YAML in which every point of a sweep is an ordinary run.

    Args:
        laid: as `reading.lay` returns it.
        paper: its name.

    Raises:
        UserError: naming what cannot be swept, or what two points would share.
    """
    experiments: dict[str, Any] = {}
    figures = dict(laid.get("figures", {}))
    made: dict[str, str] = {}
    for name, section in laid.get("experiments", {}).items():
        where = f"{paper}.experiments.{name}"
        if not isinstance(section, Mapping):
            experiments[name] = section
            continue
        settings, entries = _axes(section, where)
        if not settings and not entries:
            experiments[name] = section
            continue
        if section.get("objective") is None or section.get("target") is None:
            raise UserError(
                f"{where}: points of a sweep are compared by an objective, and it names none; expected `objective:` "
                "with a metric of its runs and `target:` with `{above: <number>}` or `{below: <number>}`"
            )
        plain = _plain(section, settings, entries)
        if all(axis.swept.base is not None or axis.swept.there for axis in settings):
            experiments[name] = plain
        for figure, title, drawn in _drawn(name, plain, section, settings, entries, where):
            for point, points_section in drawn.items():
                if point in laid["experiments"] or point in made:
                    other = f"{paper}.experiments.{made.get(point, point)}"
                    raise UserError(f"{where}: a point of its sweep is called {point!r}, as one of {other}; rename one")
                experiments[point] = points_section
            made |= dict.fromkeys(drawn, name)
            if figure in figures:
                raise UserError(
                    f"{paper}.figures: the sweep in {where} is drawn as {figure!r}, which is there; rename it"
                )
            figures[figure] = {"title": title, "draws": "sweep", "experiments": [*drawn]}
    return {**laid, "experiments": experiments, "figures": figures} if made else dict(laid)


def _axes(section: Mapping[str, Any], where: str) -> tuple[list[_Axis], dict[str, list[_Axis]]]:
    """What is swept: of the settings, and of each optimizer's entry."""
    for key in ("sweep", "together"):
        if key in section:
            raise UserError(f"{where}.{key}: a sweep stands in place of a value, such as `lr: {{sweep: [0.01, 0.1]}}`")
    optimizers = section.get("optimizers")
    optimizers = optimizers if isinstance(optimizers, Mapping) else {}
    _refuse(section, where)
    entries = {}
    for entry, given in optimizers.items():
        if isinstance(given, Mapping):
            if "sweep" in given:
                raise UserError(f"{where}.optimizers.{entry}: an entry cannot be swept; one of its values can")
            _refuse(given, f"{where}.optimizers.{entry}")
            entries[entry] = _of(given, f"{where}.optimizers.{entry}")
    entries = {entry: axes for entry, axes in entries.items() if axes}
    settings = section.get("settings")
    if isinstance(settings, Mapping) and "sweep" in settings:
        raise UserError(f"{where}.settings: cannot be swept as a whole; one of its values can")
    axes = _of(settings, f"{where}.settings") if isinstance(settings, Mapping) else []
    count = math.prod(len(axis.points) for axis in axes)
    if count > MOST_EXPERIMENTS:
        raise UserError(
            f"{where}.settings: expected a sweep of at most {MOST_EXPERIMENTS:,} points, each an experiment "
            f"with data of its own; found {count:,}"
        )
    for entry, own in [("", []), *entries.items()]:
        at = f"{where}.optimizers.{entry}" if entry else where
        together = [*axes, *own]
        if len(together) > 2:
            keys = ", ".join(axis.key for axis in together)
            raise UserError(
                f"{at}: expected sweeps of at most two values at a time, as a figure has two axes; found {keys}"
            )
        count = math.prod(len(axis.points) for axis in together)
        if count > MOST:
            raise UserError(f"{at}: expected a grid of at most {MOST:,} points, found {count:,}")
    return axes, entries


def _refuse(section: Mapping[str, Any], where: str) -> None:
    for key in _FIXED.keys() & section.keys():
        if Swept.of(section[key]) is not None:
            raise UserError(f"{where}.{key}: cannot be swept: {_FIXED[key]}")


def _of(given: Mapping[str, Any], where: str) -> list[_Axis]:
    axes = []
    for key, found in given.items():
        swept = Swept.of(found)
        if swept is not None:
            points = values(swept.over, f"{where}.{key}")
            axes.append(_Axis(str(key), _names(points), swept))
            if len(axes[-1].points) < len(points):
                raise UserError(f"{where}.{key}.sweep: expected words that differ in more than case; found {points}")
    return axes


def _plain(
    section: Mapping[str, Any], settings: Collection[_Axis], entries: Mapping[str, Collection[_Axis]]
) -> dict[str, Any]:
    """The experiment without its sweeps: with the values that they take the place of, where there are any."""
    plain = dict(section)
    if settings:
        plain["settings"] = _without(section["settings"], settings)
    if entries:
        plain["optimizers"] = {
            entry: _without(given, entries.get(entry, ()))
            for entry, given in section["optimizers"].items()
            if all(axis.swept.base is not None or axis.swept.there for axis in entries.get(entry, ()))
        }
    return plain


def _without(given: Any, axes: Collection[_Axis]) -> Any:
    if not axes:
        return given
    bases = {axis.key: axis.swept.base for axis in axes}
    return {key: bases.get(key, value) for key, value in given.items() if bases.get(key, value) is not None}


def _drawn(
    name: str,
    plain: Mapping[str, Any],
    section: Mapping[str, Any],
    settings: Sequence[_Axis],
    entries: Mapping[str, Sequence[_Axis]],
    where: str,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The figure of each sweep: its name, its title, and the experiments that hold its points."""
    varied = [axis.key for axis in settings]
    keys = label(varied)
    others = {entry: given for entry, given in plain.get("optimizers", {}).items() if entry not in entries}
    shipped = {axis.key: axis.swept.base for axis in settings if axis.swept.base is not None}
    if settings and others:
        drawn = {}
        for point, changed in _grid(settings):
            told = {"of": name, "settings": varied, "shipped": shipped}
            drawn[label([name, *point])] = _changed({**plain, "optimizers": others}, changed, told)
        yield _figure(name, keys), f"{_listed(varied)} swept, in {name}", drawn
    for entry, axes in entries.items():
        numbers = [axis.key for axis in axes]
        drawn = {}
        needed = _before(entry, section["optimizers"])
        for point, changed in _grid(settings):
            points = {}
            for place, mine in _grid(axes):
                points[label([entry, *place])] = {"rule": entry, **section["optimizers"][entry], **mine}
            bases = {axis.key: axis.swept.base for axis in axes if axis.swept.base is not None}
            own: dict[str, Any] = {
                "of": name,
                "entry": entry,
                "settings": varied,
                "values": numbers,
                "points": [*points],
            }
            own["shipped"] = {**shipped, **bases}
            chain = {before: plain["optimizers"][before] for before in needed if before in plain["optimizers"]}
            if points.keys() & chain.keys():
                raise UserError(f"{where}.optimizers.{entry}: a point of its sweep has the label of another entry")
            inside = {**plain, "optimizers": {**chain, **points}}
            drawn[label([name, *point, entry, *numbers])] = _changed(inside, changed, own)
        title = f"{_listed([*varied, *numbers])} of {entry} swept, in {name}"
        yield _figure(name, keys, entry, *numbers), title, drawn


def _grid(axes: Sequence[_Axis]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Every point: the parts of its name, and its values with their evidence."""
    for names in itertools.product(*(axis.points for axis in axes)):
        told = {axis.key: text for axis, text in zip(axes, names, strict=True)}
        changed = {axis.key: {**axis.swept.evidence, "value": axis.points[told[axis.key]]} for axis in axes}
        yield list(suffixes(told)), changed


def _changed(section: Mapping[str, Any], settings: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, Any]:
    return {**section, "settings": {**section.get("settings", {}), **settings}, "sweep": dict(sweep)}


def _before(entry: str, optimizers: Mapping[str, Any]) -> list[str]:
    """The labels whose runs an entry's runs go on from."""
    found: list[str] = []
    while True:
        given = optimizers.get(entry)
        start = given.get("start_from") if isinstance(given, Mapping) else None
        start = start.get("value") if isinstance(start, Mapping) else start
        if not isinstance(start, str) or start in found:
            return found
        found.append(start)
        entry = start


def _figure(*parts: str) -> str:
    return "extra_sweep_" + re.sub(r"[^a-z0-9]+", "_", label([part for part in parts if part]).lower())


def _listed(keys: Sequence[str]) -> str:
    return " and ".join(keys)
