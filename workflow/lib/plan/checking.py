"""Validation whose findings are told as one line each: where, what was expected, what was found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
        found = [_line(problem, model, where, what) for problem in _joined(error.errors())]
        raise UserError("\n".join(dict.fromkeys(found))) from None


def named(name: Any, where: str) -> str:
    """A name of an experiment or optimizer, which becomes part of a path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: expected a name of lower-case letters, digits and underscores that starts with a letter; "
            f"found {shortened(name)}"
        )
    return name


# What pydantic says of forms -> the words of YAML.
_FORMS_TOLD = {
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "too_short": "expected a list that is not empty",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "string_type": "expected a text",
    "int_type": "expected a whole number",
}


def _worded(problem: Any) -> str:
    """What pydantic says of one problem."""
    return _FORMS_TOLD.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))


def _joined(problems: Sequence[Any]) -> Iterator[Any]:
    """Problems, those of one value as one: a value that fits none of several forms has one for each of them.

    Where a value is wrong in its parts, that the whole of it is too short without them says nothing.
    """
    places: dict[tuple[Any, ...], list[Any]] = {}
    for problem in problems:
        # The names of forms have brackets or dashes, as in `literal['random']`; those of fields and places have none.
        loc = tuple(part for part in problem["loc"] if isinstance(part, int) or _FIELD.fullmatch(part))
        loc = tuple(part for part in loc if part not in _FORMS)
        places.setdefault(loc, []).append({**problem, "loc": loc})
    for loc, found in places.items():
        within = any(other != loc and other[: len(loc)] == loc for other in places)
        if within and all(problem["type"] in ("too_short", "string_type", "dict_type") for problem in found):
            continue
        fitting = found
        if any(problem["type"] not in (*_OTHER_FORMS, "literal_error") for problem in found):
            fitting = [problem for problem in found if problem["type"] not in _OTHER_FORMS]
        messages = [_worded(problem) for problem in fitting]
        joined = " or ".join(dict.fromkeys(_EXPECTED.sub("", message) for message in messages))
        yield {**fitting[0], "type": "forms", "msg": f"expected {joined}"} if len(fitting) > 1 else fitting[0]


# Said of the forms that a value does not have, where it has another one.
_OTHER_FORMS = ("string_type", "dict_type", "model_type", "int_type", "none_required")
_EXPECTED = re.compile(r"^(?:Input should be|expected) ")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_FORMS = ("str", "float", "int", "bool", "list", "tuple", "dict", "none", "constrained-int")


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
    message = _worded(problem)
    if not problem["loc"]:  # a check across several fields, which names them itself
        return f"{where}: {message}"
    found = "" if "found" in message else f"; found {shortened(problem['input'])}"
    return f"{path}: {message[0].lower()}{message[1:]}{found}"
