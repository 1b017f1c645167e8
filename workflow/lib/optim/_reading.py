"""What planning knows of a registered rule, read from its source text.

Importing torch takes 2 s, too long for every start of the workflow and every stage that only checks a configuration.
So a rule's file is parsed and not imported, and two parts of it are evaluated alone: the annotations and defaults of
the constructor's arguments, in which the number types of `workflow.lib.number_types` and `Literal` may stand; and the
static method `traits`, which may use `Traits` and its arguments. This is this folder's own text; a class from
elsewhere is imported (`_foreign`). Whatever reads a rule in this way is in this file.
"""

from __future__ import annotations
import __future__

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from workflow.lib import number_types
from workflow.lib.optim.traits import Traits

# Said by the code that runs an optimizer, not by a configuration.
INTERNAL = frozenset({"stacked", "maximize"})


@cache
def class_name(path: Path) -> str:
    """The name of the optimizer's class in a rule's file."""
    return _class(path).name


@cache
def hyperparameters(path: Path) -> type[BaseModel]:
    """The constructor's arguments after the parameters, as a pydantic model."""
    found = next(item for item in _functions(path) if item.name == "__init__").args
    positional = found.args[2:]  # after self and params
    defaults = [None] * (len(positional) - len(found.defaults)) + found.defaults[-len(positional) or len(found.args) :]
    known = {**vars(number_types), "Literal": Literal}
    fields: dict[str, Any] = {}
    for argument, default in zip([*positional, *found.kwonlyargs], [*defaults, *found.kw_defaults], strict=True):
        if argument.arg in INTERNAL:
            continue
        assert argument.annotation is not None, f"{path}: {argument.arg} has no annotation"
        annotation = eval(ast.unparse(argument.annotation), known)  # noqa: S307  (see above)
        fields[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return model(path.stem, fields)


def model(name: str, fields: dict[str, Any], extra: Literal["allow", "forbid"] = "forbid") -> type[BaseModel]:
    """A pydantic model of the hyper-parameters of a rule."""
    config = ConfigDict(extra=extra, frozen=True, protected_namespaces=())
    return create_model(f"{name}_hyperparameters", __config__=config, **fields)


@cache
def traits(path: Path) -> Callable[..., Traits]:
    """The static method `traits` of the optimizer's class."""
    (found,) = [item for item in _functions(path) if item.name == "traits"]
    alone = ast.Module([ast.FunctionDef(**{**vars(found), "decorator_list": []})], [])
    known: dict[str, Any] = {"Traits": Traits}
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.fix_missing_locations(alone), str(path), "exec", flags=flags), known)  # noqa: S102  (see above)
    return known["traits"]


@cache
def _class(path: Path) -> ast.ClassDef:
    # Walked and not only looked through, because a class may be defined where it is first asked for.
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    (found,) = [node for node in tree if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return found


def _functions(path: Path) -> list[ast.FunctionDef]:
    return [item for item in _class(path).body if isinstance(item, ast.FunctionDef)]
