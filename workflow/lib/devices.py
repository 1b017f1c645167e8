"""The device that a setting names."""

from __future__ import annotations

import torch

from workflow.lib.errors import UserError


def choose(name: str) -> torch.device:
    """The torch device for `cpu`, `cuda` or `auto` (cuda where there is one).

    Raises:
        UserError: `cuda` is asked for and there is none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UserError(
            "device: 'cuda' was asked for, but torch finds no GPU here. Run on a machine with one (and a torch built "
            "for it), or choose device 'cpu' or 'auto'."
        )
    return torch.device("cuda" if found and name in ("cuda", "auto") else "cpu")
