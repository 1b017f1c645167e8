"""What a configuration may say, as tables made from the models: `python -m workflow.lib keys` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workflow.lib.plan.model import Config, Paper, Room


def markdown(defaults: Mapping[str, Any], papers: Iterable[tuple[Room, Paper]]) -> str:
    """The keys of `config/config.yaml`, then for each paper every setting of every kind of experiment.

    Args:
        defaults: what `config/config.yaml` says.
        papers: rooms, each with its paper as it is shipped.
    """
    return "\n".join(_lines(defaults, papers)) + "\n"


def _lines(defaults: Mapping[str, Any], papers: Iterable[tuple[Room, Paper]]) -> Iterator[str]:
    yield from ("| key | shipped | is |", "| --- | --- | --- |")
    for key in defaults:
        yield f"| `{key}` | `{_plain(defaults[key])}` | {Config.model_fields[key].description} |"
    for room, paper in papers:
        yield from ("", f"### `{room.paper}`")
        for kind, model in room.kinds.items():
            used = [f"`{name}`" for name, experiment in paper.experiments.items() if experiment.kind == kind]
            summary = (model.__doc__ or "").strip().splitlines()[0]
            yield from ("", f"`kind: {kind}`. {summary} Experiments: {', '.join(used) or 'none as shipped'}.", "")
            yield from ("| setting | takes |", "| --- | --- |")
            for name, field in model.model_json_schema()["properties"].items():
                yield f"| `{name}` | {_takes(field)} |"
            if options := [f"`{name}`" for name in model.options.model_fields]:
                yield from ("", f"An optimizer's entry here may also say {', '.join(options)}.")
            if objectives := [f"`{name}`" for name in model.objectives]:
                yield from ("", f"Points of a sweep may be compared by (`objective`) {', '.join(objectives)}.")


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return "null" if value is None else str(value)


def _takes(schema: Mapping[str, Any]) -> str:
    """What a JSON schema of one value lets through, in words."""
    if "anyOf" in schema:
        return " or ".join(_takes(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "object")
    if kind in ("integer", "number"):
        signs = {"gt": ">", "exclusiveMinimum": ">", "ge": "≥", "minimum": "≥", "le": "≤", "maximum": "≤"}
        limits = {sign: schema[key] for key, sign in signs.items() if key in schema}
        if limits.get(">") is not None and limits.get("≥", limits[">"]) > limits[">"]:
            del limits[">"]
        bounds = " and ".join(f"{sign} {limit}" for sign, limit in limits.items())
        return f"a {'whole ' if kind == 'integer' else ''}number {bounds}".rstrip()
    if kind == "array":
        return f"a list, each {_takes(schema['items'])}"
    return {"null": "`null`", "boolean": "`true`, `false`", "string": "a text"}.get(kind, "a mapping")
