"""Optimizers from elsewhere, by dotted path: torch's own, and a user's without a fork.

Planning imports their module, because their source is not this library's to read; torch is imported with it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel

from workflow.lib import startup
from workflow.lib.errors import UserError, unknown
from workflow.lib.number_types import Real, Whole
from workflow.lib.optim import _reading
from workflow.lib.optim.traits import Traits

if TYPE_CHECKING:
    import torch

# What torch's own classes do not say of themselves.
_ENTRYWISE = {
    *("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD"),
}
# Flags of torch that would have these optimizers run otherwise than the rooms do.
_INTERNAL = _reading.INTERNAL | {"differentiable", "capturable"}


@cache
def optimizer_class(rule: str) -> type[torch.optim.Optimizer]:
    """The class at a dotted path.

    The module is looked for where Python looks, and last in the folder that the command runs in, so that no file there
    takes the place of an installed package.

    Raises:
        UserError: naming what cannot be imported, is not there, or is no optimizer.
    """
    name, _, attribute = rule.rpartition(".")
    if not all(part.isidentifier() for part in rule.split(".")):
        raise UserError(f"expected a dotted path such as torch.optim.AdamW, found {rule!r}")
    here = str(Path.cwd())
    if not {"", here} & {*sys.path}:
        sys.path.append(here)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{rule}: cannot import {name} from {here} or the installed packages: {type(error).__name__}: {error}"
        ) from None
    import torch

    found = getattr(module, attribute, None)
    if found is None:
        there = [key for key, item in vars(module).items() if _is_optimizer(item)]
        place = getattr(module, "__file__", None) or name
        raise UserError(f"{rule}: {unknown('optimizer', attribute, there)} (in {place})")
    if not _is_optimizer(found) or found is torch.optim.Optimizer:
        raise UserError(f"{rule}: expected a subclass of torch.optim.Optimizer, found {found!r}")
    return found  # type: ignore[no-any-return]


def files(rule: str) -> tuple[Path, ...]:
    """The files of the class and of those it is derived from, but torch's."""
    classes = [item for item in optimizer_class(rule).__mro__ if item is not object and not _is_torch_s(item)]
    return tuple(Path(inspect.getfile(item)) for item in classes)


@cache
def hyperparameters(rule: str) -> type[BaseModel]:
    """The constructor's arguments after the parameters, typed where annotations or defaults tell."""
    constructor = optimizer_class(rule).__init__
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except Exception:  # an annotation that exists for type checkers alone
        hints = {}
    fields: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "forbid"
    for argument in list(inspect.signature(constructor).parameters.values())[2:]:
        if argument.kind is argument.VAR_KEYWORD:
            extra = "allow"
        elif argument.kind is not argument.VAR_POSITIONAL and argument.name not in _INTERNAL:
            needed = argument.default is argument.empty
            hint = hints.get(argument.name, _kind(argument.default))
            fields[argument.name] = (_checkable(hint), ... if needed else argument.default)
    return _reading.model(rule.rpartition(".")[2], fields, extra)


def traits(rule: str, hyperparameters: Mapping[str, Any]) -> Traits:
    """What the class says of itself, or is known of torch's; of any other nothing good is assumed."""
    found = optimizer_class(rule)
    told = getattr(found, "traits", None)
    if told is not None:
        told = told(**hyperparameters) if callable(told) else told
        if not isinstance(told, Traits):
            raise ValueError(f"traits: expected workflow.lib.optim.traits.Traits, found {told!r}")
        return told
    closure = inspect.signature(found.step).parameters.get("closure")
    needs_loss = closure is not None and closure.default is closure.empty
    if not _is_torch_s(found):
        return Traits(needs_loss=needs_loss)
    along_gradients = found.__name__ == "SGD" and not hyperparameters.get("weight_decay")
    entrywise = found.__name__ in _ENTRYWISE
    together = found.__name__ == "LBFGS"  # others that are not entrywise look at rows, columns or the whole of a tensor
    return Traits(entrywise=entrywise, rotations=along_gradients, needs_loss=needs_loss, one_norm=together)


def check(rule: str, hyperparameters: Mapping[str, Any]) -> None:
    """Build the class once on a parameter of its own, and let one that is not known take a step.

    Raises:
        UserError: with what its constructor or its step said.
    """
    import torch

    startup.spare()
    parameter = torch.ones(2, 2, requires_grad=True)
    try:
        optimizer = optimizer_class(rule)([parameter], **hyperparameters)  # type: ignore[call-arg]
    except Exception as error:
        told = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise UserError(f"{rule} refuses these hyper-parameters: {told}") from None
    if _moves_any(optimizer_class(rule)):
        return

    def closure() -> torch.Tensor:  # as everywhere here: a loss and a gradient, without the graph behind them
        parameter.grad = parameter.detach().clone()
        return parameter.detach().square().sum() / 2

    closure()
    with explained(rule):
        optimizer.step(closure)  # type: ignore[arg-type]


def try_step(rule: str, hyperparameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let two stacked runs take a step on parameters of these shapes; see `workflow.lib.optim.try_step`."""
    if _moves_any(optimizer_class(rule)):
        return
    import torch

    parameters = [torch.zeros(2, *shape) for shape in shapes.values()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        build(rule, parameters, True, hyperparameters).step(lambda: torch.ones(2))
    except Exception as error:
        told = " and ".join(shapes)
        raise UserError(f"{rule} takes no step on {told}: {type(error).__name__}: {error}") from None


def seed(number: int) -> None:
    """Seed the generators of torch, NumPy and Python, from which a class may draw by itself."""
    import random

    import numpy as np
    import torch

    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002  (the one that others draw from without asking)
    random.seed(number)


@contextmanager
def explained(rule: str) -> Iterator[None]:
    """Tell of what goes wrong in a class from elsewhere by its own line, in place of the lines that called it.

    Raises:
        UserError: an error came out of the class.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        theirs = {str(path.resolve()) for path in (*files(rule), Path(inspect.getfile(optimizer_class(rule))))}
        lines = [
            line for line in traceback.extract_tb(error.__traceback__) if str(Path(line.filename).resolve()) in theirs
        ]
        called = isinstance(error, TypeError) and "step()" in str(error)
        if not lines and not called:
            raise
        place = f" ({lines[-1].filename}, line {lines[-1].lineno}: {lines[-1].line})" if lines else ""
        mend = ""
        if called:
            mend = (
                " A step is called as torch's: step(closure), where closure makes the gradients and returns the loss."
            )
        elif "require grad" in str(error) or "grad_fn" in str(error):
            mend = " Gradients and losses come without the graph behind them, so that a step cannot differentiate them."
        raise UserError(f"{rule} takes no step: {type(error).__name__}: {error}{place}.{mend}") from None


def build(rule: str, parameters: Iterable[Any], stacked: bool, hyperparameters: Mapping[str, Any]) -> Any:
    """Make the optimizer; see `workflow.lib.optim.build`."""
    found = optimizer_class(rule)
    given = list(parameters)
    if given and all(isinstance(group, dict) and set(group) == {"params"} for group in given):
        # Groups without values of their own, which not every class takes.
        given = [p for group in given for p in _tensors(group["params"])]
    startup.spare()
    make = startup.spared(found) if _is_torch_s(found) else found
    if not stacked or traits(rule, hyperparameters).entrywise:
        return make(given, **hyperparameters)  # type: ignore[call-arg]
    if "stacked" in inspect.signature(found.__init__).parameters:
        return make(given, stacked=True, **hyperparameters)  # type: ignore[call-arg]
    from workflow.lib.optim._each_run import EachRun

    return EachRun(given, lambda own: make(own, **hyperparameters))  # type: ignore[call-arg]


def _tensors(params: Any) -> list[Any]:
    return [params] if hasattr(params, "grad") else list(params)


def _is_optimizer(item: Any) -> bool:
    import torch

    return isinstance(item, type) and issubclass(item, torch.optim.Optimizer)


def _is_torch_s(found: type) -> bool:
    return found.__module__.startswith("torch.")


def _moves_any(found: type) -> bool:
    """Whether a class is one of torch's that are known to move tensors of any shape."""
    return _is_torch_s(found) and found.__name__ in (*_ENTRYWISE, "LBFGS")


def _kind(default: Any) -> Any:
    """The type that a default tells: that of a number may be any number."""
    return float if type(default) in (int, float) else type(default) if type(default) in (bool, str) else Any


def _checkable(hint: Any) -> Any:
    """The part of an annotation that a value of a configuration can be held to."""
    if hint is float:
        return Real
    if hint in (bool, str, type(None)) or typing.get_origin(hint) in (Annotated, Literal):
        return hint
    if hint is int:
        return Whole
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        known = [kind for kind in map(_checkable, typing.get_args(hint)) if kind is not Any]
        return typing.Union[tuple(known)] if known else Any  # noqa: UP007  (made of what is found)
    if typing.get_origin(hint) is tuple and ... not in typing.get_args(hint):
        return tuple.__class_getitem__(tuple(map(_checkable, typing.get_args(hint))))
    return Any
