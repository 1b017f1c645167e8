"""Keep torch's optimizer base class from costing more than the small problems here."""

from __future__ import annotations

import torch


def trim(rule: type[torch.optim.Optimizer]) -> None:
    """Spare a rule of this library two costs of its base class that nothing here uses.

    * The base class imports torch's compiler (1.4 s of CPU for every training job): some of its methods are wrapped
      so that a compiler leaves them alone, and the wrapper imports it unless its cache holds the ready function.
    * It wraps `step` in a profiler record and step hooks, which cost as much as a step on a small problem.

    Torch's own rules (Adam) do both all the same.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain
    if "step" in vars(rule):
        rule.step.hooked = True  # type: ignore[attr-defined]
