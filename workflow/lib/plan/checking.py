"""Validation whose findings are told as one line each: where, what was expected, what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workflow.lib.errors import UserError, shortened, unknown

Model = TypeVar("Model", bound=BaseModel)

# Points of sweeps have numbers in their names, such as ngd_lr0.01 and ngd_lr1e-05.
_NAME = re.compile(r"[a-z](?:[a-z0-9_]|[.-](?=[0-9]))*")


def checked(model: type[Model], values: Any, where: str, what: str = "key") -> Model:
    """Validate values.

    Args:
        model: the pydantic model.
        values: a mapping laid out as the model.
        where: the dotted path of the mapping, for messages.
        what: what its keys are called: key, setting, hyper-parameter.

    Raises:
        UserError: one line for each finding.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping of {what}s to values; found {shortened(values)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_line(problem, model, where, what) for problem in error.errors())) from None


def named(name: Any, where: str) -> str:
    """A name of an experiment or optimizer, which becomes part of a path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: expected a name of lower-case letters, digits and underscores that starts with a letter; "
            f"found {shortened(name)}"
        )
    return name


def _line(problem: Any, model: type[BaseModel], where: str, what: str) -> str:
    first = problem["loc"][0] if problem["loc"] else ""
    path = ".".join([where, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        return f"{where}: {unknown(what, first, [f.alias or key for key, f in model.model_fields.items()])}"
    if problem["type"] == "missing":
        return f"{path}: is missing; this {what} has no default"
    field = model.model_fields.get(str(first))
    if field is not None and field.description:
        found = problem["input"] if len(problem["loc"]) == 1 else f"{problem['input']!r} at {path}"
        return f"{where}.{first}: expected {field.description}; found {shortened(found)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # a check across several fields, which names them itself
        return f"{where}: {message}"
    found = "" if "found" in message else f"; found {shortened(problem['input'])}"
    return f"{path}: {message[0].lower()}{message[1:]}{found}"
