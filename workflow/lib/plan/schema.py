"""JSON schemas for editors, made from the models: `python -m workflow.lib schemas` writes them.

They complete and check keys while a YAML is written; what counts is still what the models say when the plan is made.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from workflow.lib import optim
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import Claim, Config, Figure, Room
from workflow.lib.plan.race import ProblemEntry, Protocol
from workflow.lib.plan.sweeps import Target

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# Any value may be swept in place.
_SWEPT = {"$ref": "#/$defs/sweep"}
_SWEEP = {
    "type": "object",
    "required": ["sweep"],
    "properties": {
        "sweep": {
            "anyOf": [
                {"type": "array", "minItems": 1, "items": {"type": ["number", "string", "boolean"]}},
                {
                    "type": "object",
                    "properties": {
                        "log": {"type": "array", "minItems": 3, "maxItems": 3, "description": "[first, last, points]"}
                    },
                    "required": ["log"],
                    "additionalProperties": False,
                },
            ]
        },
        **Setting.model_json_schema()["properties"],
    },
    "additionalProperties": False,
}
# What pydantic calls a bound of a value that it also validates in another way.
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_LABEL = {"type": "string", "description": "the label of the entry whose runs end where these begin"}


def paper_schema(room: Room) -> dict[str, Any]:
    """The schema of `config/papers/<paper>.yaml`."""
    settings = {kind: _fields(model) for kind, model in room.kinds.items()}
    options = [_fields(kind.options)["properties"] for kind in room.kinds.values()]
    rules = [_fields(optim.hyperparameters(name))["properties"] for name in optim.names()]
    numbers: dict[str, Any] = {}
    for known in [*rules, *options]:
        numbers |= known
    experiment = {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind", "about", "seeds", "settings", "optimizers"],
        "properties": {
            "kind": {"enum": list(room.kinds)},
            "about": {"type": "string"},
            "seeds": {"type": "integer", "minimum": 1},
            "stream": {"type": "integer", "minimum": 0},
            "seeds_per_job": {"type": "integer", "minimum": 1},
            **_evident(
                "objective", {"enum": sorted({name for kind in room.kinds.values() for name in kind.objectives})}
            ),
            **_evident("target", Target.model_json_schema()),
            "settings": {"type": "object"},
            "optimizers": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    # A dotted path has hyper-parameters of its own, which only its class knows.
                    "if": {"properties": {"rule": {"pattern": r"\."}}, "required": ["rule"]},
                    "else": {
                        "properties": {
                            "rule": {"enum": list(optim.names())},
                            **_evident("start_from", _LABEL),
                            **numbers,
                        },
                        "additionalProperties": False,
                    },
                },
            },
        },
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}}, "then": {"properties": {"settings": fields}}}
            for kind, fields in settings.items()
        ],
    }
    return {
        "$schema": _DRAFT,
        "title": f"config/papers/{room.paper}.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "title": {"type": "string"},
            "authors": {"type": "string"},
            "venue": {"type": "string"},
            "experiments": {"type": "object", "additionalProperties": experiment},
            "figures": {"type": "object", "additionalProperties": _entry(Figure)},
        },
        "$defs": _definitions([*room.kinds.values(), *(kind.options for kind in room.kinds.values())]),
    }


def claims_schema() -> dict[str, Any]:
    """The schema of `config/claims/<paper>.yaml`."""
    return {"$schema": _DRAFT, "title": "config/claims", "type": "object", "additionalProperties": _entry(Claim)}


def config_schema(papers: tuple[str, ...]) -> dict[str, Any]:
    """The schema of `config/config.yaml` and of a user's own file."""
    schema = Config.model_json_schema()
    schema["properties"] |= {paper: {"type": "object"} for paper in papers}
    return {"$schema": _DRAFT, **schema, "title": "config/config.yaml", "required": []}


def race_schema() -> dict[str, Any]:
    """The schema of `config/race.yaml`."""
    problem = ProblemEntry.model_json_schema()
    plain = {"type": ["number", "string", "boolean", "array", "null"]}
    values = {"type": "object", "additionalProperties": _evident("value", plain)["value"]}
    protocol = {**_fields(Protocol), "required": []}
    problem["properties"] |= {
        "settings": values,
        "entry": values,
        "start": {"type": "object", "additionalProperties": values},
        "protocol": protocol,
        **_evident("target", Target.model_json_schema()),
        **_evident("objective", {"type": "string"}),
        "lr": _SWEPT,
    }
    rules = {rule: _fields(optim.hyperparameters(rule)) for rule in optim.names()}
    return {
        "$schema": _DRAFT,
        "title": "config/race.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "protocol": protocol,
            "optimizers": {"type": "object", "properties": rules, "additionalProperties": values},
            "problems": {"type": "object", "additionalProperties": problem},
        },
        "$defs": _definitions([]),
    }


def standard(schema: Any) -> Any:
    """A schema, or a part of one, with the names of bounds that editors know."""
    if isinstance(schema, dict):
        # A key of the user's may have such a name too; its value is a schema.
        names = {key: key if isinstance(value, dict) else _BOUNDS.get(key, key) for key, value in schema.items()}
        return {names[key]: standard(value) for key, value in schema.items()}
    return [standard(value) for value in schema] if isinstance(schema, list) else schema


def _entry(model: type[BaseModel]) -> dict[str, Any]:
    """A model as YAML gives it, under its name."""
    schema = model.model_json_schema()
    schema["properties"].pop("name")
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """A settings class whose values carry evidence: each is `{value, source, where}`, or bare in a user's file."""
    fields = model.model_json_schema(ref_template="#/$defs/{model}").get("properties", {})
    wrapped = {key: entry for name, value in fields.items() for key, entry in _evident(name, value, _SWEPT).items()}
    return {"type": "object", "properties": wrapped, "additionalProperties": False}


def _evident(name: str, *values: dict[str, Any]) -> dict[str, Any]:
    """One value that carries evidence, by name: `{value, source, where}`, or bare; then other forms it may have."""
    evidence = Setting.model_json_schema()["properties"]
    whole = {
        "type": "object",
        "properties": {"value": values[0], "source": evidence["source"], "where": evidence["where"]},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {name: {"anyOf": [whole, *values]}}


def _definitions(models: list[type[BaseModel]]) -> dict[str, Any]:
    found: dict[str, Any] = {"sweep": _SWEEP}
    for model in models:
        found |= model.model_json_schema(ref_template="#/$defs/{model}").get("$defs", {})
    return found
