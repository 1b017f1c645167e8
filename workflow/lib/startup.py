"""What training jobs do to start faster, in one place. Nothing here touches a process that is not a training job.

CPU seconds saved for each training job, on one core of a small machine:

* torch's optimizer base class imports torch's compiler                      1.4
* the decorator of its own rules' `step` (Adam) does so too, on the first step    1.3 (once, whichever comes first)
* it wraps every `step` in a profiler record and hooks        as much as a step on a small problem
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_training = False


def begin_training() -> None:
    """Say that this process is a training job, whose optimizers may be spared what nothing in it uses."""
    global _training
    _training = True


def spare(rule: type[torch.optim.Optimizer]) -> None:
    """Spare an optimizer of this library, in a training job, what its base class costs; elsewhere do nothing."""
    if not _training:
        return
    import torch

    # The base class's methods are wrapped so that a compiler leaves them alone, and the wrapper imports the compiler
    # unless its cache holds the ready function.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain
    if "step" not in vars(rule):  # one of torch's own, whose wrapper is for steps that are differentiated through
        plain = getattr(rule.step, "__wrapped__", None)
        if plain is None:
            return
        rule.step = torch.no_grad()(plain)  # type: ignore[method-assign]
    rule.step.hooked = True  # type: ignore[attr-defined]
