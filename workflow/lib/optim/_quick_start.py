"""Make the first optimizer of a process cheap."""

from __future__ import annotations

import torch


def skip_compiler_import() -> None:
    """Keep `torch.optim` from importing torch's compiler, 1.4 s of CPU for every training job, which nothing here uses.

    Some methods of the base class are wrapped so that a compiler leaves them alone; the wrapper imports the compiler
    on its first call, unless it finds the ready function in its own cache. Torch's own rules import it all the same.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain
