"""The rules that `kernels` carries: those that move W and u along their gradients, how far hanging on norms and gap."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workflow.lib.papers.ib.synthetic.settings import Iterations, JointIterations
from workflow.lib.plan.optimizer import Optimizer

_W, _U = 0, 1


class Along(NamedTuple):
    """W and u each take lr (t + 1)^(-decay) gap^[power = 2] / N^power times their gradient; the first entry is W's.

    N is the norm of the gradients that `measured_by`, shape (2, 2), takes together for this one. Where N is 0 it does
    not move.
    """

    lr: np.ndarray
    decay: np.ndarray
    measured_by: np.ndarray
    power: int


def along(optimizer: Optimizer[Iterations], joint: bool) -> Along | None:
    """The rule of an optimizer, None for a rule that torch carries."""
    given = optimizer.hyperparameters
    if optimizer.rule == "gd":
        return _along(given["lr"], measured_by=np.zeros((2, 2)), power=0)
    if optimizer.rule == "polyak":
        return _along(given["lr"] / given["factor"], measured_by=np.ones((2, 2)), power=2)
    if optimizer.rule == "ngd":
        apart = given["norm"] == "per_tensor" or (given["norm"] == "per_group" and _groups(optimizer) == "separate")
        return _along(given["lr"], given["decay"], measured_by=np.eye(2) if apart else np.ones((2, 2)))
    if optimizer.rule == "led_ngd":
        lr, decay = ([given[f"other_{name}"], given[name]] for name in ("lr", "decay"))
        leader = _U if joint else _W
        measured_by = np.zeros((2, 2))
        measured_by[:, leader] = 1
        return _along(lr, decay, measured_by) if joint else _along(lr[_U], decay[_U], measured_by)
    return None


def _along(lr: Any, decay: Any = 0.0, measured_by: np.ndarray | None = None, power: int = 1) -> Along:
    both = [np.array(np.broadcast_to(value, 2), dtype=float) for value in (lr, decay)]
    return Along(both[0], both[1], np.asarray(measured_by, dtype=bool), power)


def _groups(optimizer: Optimizer[Iterations]) -> str:
    return optimizer.options.groups if isinstance(optimizer.options, JointIterations) else "joint"
