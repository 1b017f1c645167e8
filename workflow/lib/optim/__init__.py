"""Optimizers, one per file, by name: `workflow/lib/optim/<name>.py` defines one `torch.optim.Optimizer`.

A file's class takes its parameters, then keyword-only hyper-parameters whose annotations are the number
types of `workflow.lib.settings`. Parameters may carry a leading run dimension (`stacked=True` where the
rule couples entries): every run is then optimized on its own, as if it were alone.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from workflow.lib import settings, startup
from workflow.lib.errors import UserError, unknown

if TYPE_CHECKING:
    import torch

_FOLDER = Path(__file__).parent
# Said by the code that runs an optimizer, not by a configuration.
_INTERNAL = {"stacked"}


def names() -> tuple[str, ...]:
    """The names of all registered optimizers: the modules of this folder that do not start with `_`."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("[!_]*.py")))


def source(name: str) -> Path:
    """The file of an optimizer.

    Raises:
        UserError: there is no such optimizer.
    """
    if name not in names():
        raise UserError(unknown("optimizer", name, names()))
    return _FOLDER / f"{name}.py"


@cache
def hyperparameters(name: str) -> type[BaseModel]:
    """The hyper-parameters of an optimizer as a pydantic model.

    Read from the constructor's keyword-only arguments in the source text, because importing torch (2 s)
    only to check a configuration would make every start of the workflow slow.
    """
    (constructor,) = [
        item
        for node in ast.parse(source(name).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    ]
    known = {**vars(settings), "Literal": Literal}
    fields: dict[str, Any] = {}
    for argument, default in zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True):
        if argument.arg in _INTERNAL:
            continue
        assert argument.annotation is not None, f"{name}: {argument.arg} has no annotation"
        annotation = eval(ast.unparse(argument.annotation), known)  # noqa: S307  (our own source text)
        fields[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return create_model(f"{name}_hyperparameters", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of an optimizer (imports torch)."""
    source(name)
    module = importlib.import_module(f"{__name__}.{name}")
    import torch

    (found,) = [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, torch.optim.Optimizer)
        and item.__module__ == module.__name__
        and not item.__name__.startswith("_")
    ]
    return found


def build(name: str, parameters: Any, **hyperparameters: Any) -> torch.optim.Optimizer:
    """Make an optimizer by name, as `build("ngd", [w], step_size=0.1, stacked=True)`."""
    rule = optimizer_class(name)
    startup.spare(rule)
    return rule(parameters, **hyperparameters)
