"""From YAML to a checked plan: what runs, with which settings, each with its source.

The workflow's own files under `config/papers/` give every setting as `{value, source, where}`. What a user
lays over them (`--configfile mine.yaml`, `--config`) may be a bare value and is tagged `user`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from workflow.lib import experiments
from workflow.lib.errors import UserError, from_os_error, unknown

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "workflow" / "schemas"


@dataclass(frozen=True)
class Setting:
    """A value with its evidence: `source` is one of paper, inferred, recalled, derived, choice, user."""

    value: Any
    source: str
    where: str


@dataclass(frozen=True)
class Experiment:
    """One experiment of the plan; `checked` holds it typed."""

    paper: str
    name: str
    about: str
    seeds: int
    settings: Mapping[str, Setting]
    optimizers: Mapping[str, Mapping[str, Setting]]
    rules: Mapping[str, str]
    kind: str

    def plain(self, *optimizers: str) -> dict[str, Any]:
        """The experiment without sources, with the named optimizers (all when none is named)."""
        chosen = optimizers or tuple(self.optimizers)
        return {
            "kind": self.kind,
            "settings": {key: setting.value for key, setting in self.settings.items()},
            "optimizers": {
                label: {"rule": self.rule(label)}
                | {key: setting.value for key, setting in self.optimizers[label].items()}
                for label in chosen
            },
        }

    def rule(self, label: str) -> str:
        """The registered optimizer behind a label, or a UserError that lists the labels."""
        if label not in self.optimizers:
            raise UserError(f"{self.paper}.experiments.{self.name}: {unknown('optimizer', label, self.optimizers)}")
        return self.rules[label]

    @cached_property
    def checked(self) -> experiments.Experiment:
        """The experiment with typed settings and optimizers."""
        return experiments.parse(self.paper, self.name, self.plain())

    def section(self) -> dict[str, Any]:
        """The experiment as its YAML gives it, every setting with its source."""

        def written(values: Mapping[str, Setting]) -> dict[str, Any]:
            return {key: vars(setting) for key, setting in values.items()}

        return {
            "kind": self.kind,
            "about": self.about,
            "seeds": self.seeds,
            "settings": written(self.settings),
            "optimizers": {label: {"rule": self.rules[label]} | written(v) for label, v in self.optimizers.items()},
        }

    def sourced(self) -> Iterator[tuple[str, Setting]]:
        """Every setting with its name; an optimizer's settings as `optimizer.name`."""
        yield from self.settings.items()
        for label, values in self.optimizers.items():
            yield from ((f"{label}.{key}", setting) for key, setting in values.items())

    def blocks(self, size: int) -> list[str]:
        """The seeds cut into blocks of at most `size`, named `0-9`, `10-19`, or `3` for a single one."""
        starts = range(0, self.seeds, size)
        return [block_name(start, min(start + size, self.seeds) - 1) for start in starts]


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
        raise UserError(f"seeds: expected one seed such as 3 or a block such as 0-9, found {name!r}")
    return seeds


@dataclass(frozen=True)
class Figure:
    """One figure of the plan."""

    name: str
    title: str
    experiments: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """One entry of a paper's ledger, with its acceptance band (an open end is None).

    `source` says where the claim comes from, `band` where the band does; `share` of the seeds must lie in it.
    """

    name: str
    figure: str | None
    statement: str
    low: float | None
    high: float | None
    share: float
    source: str
    band: str
    where: str


@dataclass(frozen=True)
class Paper:
    """One paper of the plan."""

    name: str
    title: str
    authors: str
    venue: str
    experiments: Mapping[str, Experiment]
    figures: Mapping[str, Figure]
    claims: Mapping[str, Claim]

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

    def part(self, figures: Collection[str] = (), claims: Collection[str] = ()) -> dict[str, Any]:
        """The YAML of a part of the paper, as `parse_paper` reads it: some figures with their experiments, or claims.

        Claims need every experiment.
        """
        drawn = {name: self.figure(name) for name in figures}
        used = set(self.experiments) if claims else {e for figure in drawn.values() for e in figure.experiments}
        return {
            "title": self.title,
            "authors": self.authors,
            "venue": self.venue,
            "experiments": {
                name: experiment.section() for name, experiment in self.experiments.items() if name in used
            },
            "figures": {name: {"title": f.title, "experiments": list(f.experiments)} for name, f in drawn.items()},
            "claims": {name: {k: v for k, v in vars(self.claims[name]).items() if k != "name"} for name in claims},
        }


@dataclass(frozen=True)
class Plan:
    """Everything that the workflow may run."""

    papers: Mapping[str, Paper]
    seeds_per_job: int
    device: str
    data_dir: str | None

    def paper(self, name: str) -> Paper:
        """A paper of this plan by name, or a UserError that lists them."""
        if name not in self.papers:
            raise UserError(unknown("paper", name, self.papers))
        return self.papers[name]


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check a whole configuration and make the plan.

    Args:
        config: the keys of `config/config.yaml`, and under a paper's name whatever a user lays over
            `config/papers/<paper>.yaml`.

    Raises:
        UserError: naming the key or file, what was found, what is allowed.
    """
    known = experiments.papers()
    run = {key: value for key, value in config.items() if key not in known}
    _check(run, "config.schema.yaml", "config")
    for name in run["papers"]:
        if name not in known:
            raise UserError(f"config.papers: {unknown('paper', name, known)}")
    return Plan(
        papers={name: load_paper(name, config.get(name), run.get("seeds")) for name in run["papers"]},
        seeds_per_job=run["seeds_per_job"],
        device=run["device"],
        data_dir=run.get("data_dir"),
    )


def load_paper(name: str, overlay: Any = None, seeds: int | None = None) -> Paper:
    """Read `config/papers/<name>.yaml`, lay a user's changes over it and check every value.

    Args:
        name: the paper's short name.
        overlay: changes, as nested mappings of the same layout.
        seeds: the number of seeds of every experiment, in place of its own.
    """
    experiments.kinds(name)
    path = _shipped(name)
    shipped = read_yaml(path)
    if overlay is not None and not isinstance(overlay, Mapping):
        raise UserError(f"{name}: expected a mapping laid out as {path.name}, found {overlay!r}")
    return parse_paper(name, _merge(shipped, overlay or {}), shipped["experiments"], seeds)


def parse_paper(
    name: str, section: Mapping[str, Any], shipped: Mapping[str, Any] | None = None, seeds: int | None = None
) -> Paper:
    """Check a paper's section of the configuration and make a plan of it.

    Args:
        name: the paper's short name.
        section: laid out as `config/papers/<name>.yaml`.
        shipped: the experiments as the project gives them, to tell changed values from given ones.
        seeds: the number of seeds of every experiment, in place of its own.
    """
    _check(section, "paper.schema.yaml", name)
    found = {}
    for label, entry in section["experiments"].items():
        original = (shipped or {}).get(label, {})
        settings = _settings(entry["settings"], original.get("settings", {}))
        optimizers = {
            rule: _settings(values, original.get("optimizers", {}).get(rule, {}))
            for rule, values in entry["optimizers"].items()
        }
        rules = {rule: values.get("rule", rule) for rule, values in entry["optimizers"].items()}
        count = seeds if seeds is not None else entry["seeds"]
        found[label] = Experiment(name, label, entry["about"], count, settings, optimizers, rules, entry["kind"])
        found[label].checked  # noqa: B018  (raises what is wrong with it, before anything runs)

    figures = {key: Figure(key, f["title"], tuple(f["experiments"])) for key, f in section["figures"].items()}
    for figure in figures.values():
        for experiment in figure.experiments:
            if experiment not in found:
                where = f"{name}.figures.{figure.name}.experiments"
                raise UserError(f"{where}: {unknown('experiment', experiment, found)}")
    claims = {
        key: Claim(
            name=key,
            figure=c["figure"],
            statement=c["statement"],
            low=c.get("low"),
            high=c.get("high"),
            share=c.get("share", 1.0),
            source=c["source"],
            band=c.get("band", c["source"]),
            where=c.get("where", ""),
        )
        for key, c in section["claims"].items()
    }
    return Paper(name, section["title"], section["authors"], section["venue"], found, figures, claims)


def title(paper: str) -> str:
    """The title of a paper, without checking the rest of its YAML."""
    return str(read_yaml(_shipped(paper))["title"])


def _shipped(paper: str) -> Path:
    return ROOT / "config" / "papers" / f"{paper}.yaml"


def to_json(value: Any) -> str:
    """JSON for the command line: compact, the same text for the same values."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping, with the file and line named when it is not one."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise from_os_error(error) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8") from None
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML. {_one_line(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected keys with values, found {type(loaded).__name__}")
    return loaded


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).replace(' in "<unicode string>"', " at").split())


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, mapping by mapping; a bare value replaces a whole setting."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _settings(entry: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, Setting]:
    return {key: _setting(value, shipped.get(key)) for key, value in entry.items() if key != "rule"}


def _setting(found: Any, shipped: Any) -> Setting:
    """A value with its source; a changed value never keeps the evidence of the value it replaced."""
    if not isinstance(found, Mapping):
        return Setting(found, "user", "")
    same_evidence = (
        isinstance(shipped, Mapping)
        and found.get("source") == shipped.get("source")
        and found.get("where") == shipped.get("where")
    )
    if same_evidence and found["value"] != shipped["value"]:
        return Setting(found["value"], "user", "")
    return Setting(found["value"], found.get("source", "user"), found.get("where", ""))


def _check(found: Mapping[str, Any], schema: str, where: str) -> None:
    """Check a mapping against a schema of `workflow/schemas/`."""
    validator = jsonschema.Draft202012Validator(read_yaml(SCHEMAS / schema))
    error = jsonschema.exceptions.best_match(validator.iter_errors(found))
    if error is not None:
        path = ".".join([where, *(str(part) for part in error.absolute_path)])
        raise UserError(_explain(error, path))


def _explain(error: jsonschema.ValidationError, path: str) -> str:
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        allowed = schema.get("properties", {})
        (extra, *_) = [key for key in error.instance if key not in allowed]
        return f"{path}: {unknown('key', extra, allowed)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{path}: the key {missing[0]!r} is missing"
    expected = schema.get("description") or error.message
    return f"{path}: expected {expected}; found {error.instance!r}"
