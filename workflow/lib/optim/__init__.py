"""Optimizers, one per file, by name: `workflow/lib/optim/<name>.py` defines one `torch.optim.Optimizer`.

Torch's conventions hold (`lr`, parameter groups, closures, hooks, `state_dict`, schedulers), so they train any module:

>>> import torch
>>> from workflow.lib.optim import NGD, SPS, Adam
>>> _ = torch.manual_seed(0)
>>> inputs = torch.randn(64, 3)
>>> targets = inputs.sum(1, keepdim=True)
>>> net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
>>> optimizer = NGD([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.1}], lr=0.2)
>>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
>>> for _ in range(100):
...     optimizer.zero_grad()
...     loss = torch.nn.functional.mse_loss(net(inputs), targets)
...     loss.backward()
...     optimizer.step()  # SPS and Polyak need step(closure), which gives them the loss
...     scheduler.step()
>>> loss.item() < 0.02  # from 3.5
True

Parameters may carry a leading run dimension (`stacked=True`): every run is then optimized as if it were alone. In a
configuration `rule` is a name of this folder, or the dotted path of any other `torch.optim.Optimizer`, such as
`torch.optim.AdamW` or `my_package.my_module.MyOptimizer`, importable from the folder that the command runs in.

A file's class takes its parameters, then hyper-parameters whose annotations are the number types of
`workflow.lib.number_types`, and has a static method `traits` that says what rooms have to know (`Traits`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from workflow.lib import startup
from workflow.lib.errors import UserError, unknown
from workflow.lib.optim import _foreign, _reading
from workflow.lib.optim.traits import Traits
from workflow.lib.streams import Seed

if TYPE_CHECKING:
    import torch

_FOLDER = Path(__file__).parent


@cache
def names() -> tuple[str, ...]:
    """The names of all registered optimizers: the modules of this folder that do not start with `_`, but `traits`."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("[!_]*.py") if path.stem != "traits"))


def files(rule: str) -> tuple[Path, ...]:
    """The files of a rule, a registered name or a dotted path: of its class and what that is derived from, but torch's.

    Raises:
        UserError: there is no such optimizer.
    """
    return _foreign.files(rule) if _is_foreign(rule) else (_FOLDER / f"{rule}.py",)


def hyperparameters(rule: str) -> type[BaseModel]:
    """The hyper-parameters of a rule as a pydantic model.

    Raises:
        UserError: there is no such optimizer.
    """
    return _foreign.hyperparameters(rule) if _is_foreign(rule) else _reading.hyperparameters(_FOLDER / f"{rule}.py")


def traits(rule: str, hyperparameters: Mapping[str, Any]) -> Traits:
    """What a room has to know of a rule with these hyper-parameters.

    Raises:
        UserError: there is no such optimizer.
        ValueError: the hyper-parameters do not fit together.
    """
    if _is_foreign(rule):
        return _foreign.traits(rule, hyperparameters)
    return _reading.traits(_FOLDER / f"{rule}.py")(**hyperparameters)


def check(rule: str, hyperparameters: Mapping[str, Any]) -> None:
    """Refuse what types do not show; a class from elsewhere is built once, to hear what it says itself.

    Raises:
        UserError: saying what the class said.
    """
    try:
        traits(rule, hyperparameters)
        if _is_foreign(rule):
            _foreign.check(rule, hyperparameters)
    except ValueError as error:
        raise UserError(f"{rule}: {error}") from None


def try_step(rule: str, hyperparameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse, while planning, a class from elsewhere that cannot move some parameters, such as one for matrices alone.

    Args:
        rule: a dotted path; registered optimizers move anything.
        hyperparameters: by name.
        shapes: what messages call a parameter -> its shape in one run, small numbers in the place of large ones.

    Raises:
        UserError: with what the class said.
    """
    if _is_foreign(rule):
        _foreign.try_step(rule, hyperparameters, shapes)


def begin(rule: str, seed: Seed) -> None:
    """Before a training, seed what a class from elsewhere may draw from by itself; registered rules draw nothing."""
    if _is_foreign(rule):
        _foreign.seed(int(seed.sequence("drawn by the rule itself").generate_state(1)[0]))


def explained(rule: str) -> AbstractContextManager[None]:
    """Around steps: an error that comes out of a class from elsewhere is told by its own line, as a UserError."""
    return _foreign.explained(rule) if _is_foreign(rule) else nullcontext()


def optimizer_class(rule: str) -> type[torch.optim.Optimizer]:
    """The class of a rule (imports torch).

    Raises:
        UserError: there is no such optimizer.
    """
    if _is_foreign(rule):
        return _foreign.optimizer_class(rule)
    module = importlib.import_module(f"{__name__}.{rule}")
    return getattr(module, _reading.class_name(_FOLDER / f"{rule}.py"))  # type: ignore[no-any-return]


def build(rule: str, parameters: Iterable[Any], *, stacked: bool = False, **hyperparameters: Any) -> Any:
    """Make a `torch.optim.Optimizer`, as `build("ngd", [w], lr=0.1, stacked=True)`.

    Args:
        rule: a registered name, or a dotted path.
        parameters: tensors or parameter groups; tensors of shape (runs, ...) when stacked.
        stacked: every run is optimized as if alone. A class from elsewhere that neither acts entry by entry nor takes
            `stacked` is given one optimizer for each run (`_each_run.EachRun`).
        hyperparameters: by name.

    Raises:
        UserError: there is no such optimizer.
        TypeError: naming an unknown hyper-parameter.
        ValueError: naming a bad one.
    """
    if _is_foreign(rule):
        return _foreign.build(rule, parameters, stacked, hyperparameters)
    known = _reading.hyperparameters(_FOLDER / f"{rule}.py").model_fields
    for key in hyperparameters:
        if key not in known and key not in _reading.INTERNAL:
            raise TypeError(f"{rule}: {unknown('hyper-parameter', key, known)}")
    startup.spare()
    return startup.spared(optimizer_class(rule))(parameters, stacked=stacked, **hyperparameters)  # type: ignore[call-arg]


def _is_foreign(rule: str) -> bool:
    """Whether a rule is a dotted path; a UserError if it is no rule at all."""
    if rule in names():
        return False
    if isinstance(rule, str) and "." in rule:
        return True
    more = "Any other needs a dotted path, such as torch.optim.AdamW."
    raise UserError(unknown("optimizer", rule, names(), more))


def __getattr__(name: str) -> Any:
    """The registered optimizers by the names of their classes, imported when they are asked for."""
    if not name.startswith("_"):
        for rule in names():
            if _reading.class_name(_FOLDER / f"{rule}.py") == name:
                return optimizer_class(rule)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(_reading.class_name(_FOLDER / f"{rule}.py") for rule in names())])
