"""The closure that torch's conventions let every step take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """The loss that a closure returns, evaluated with gradients on; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
