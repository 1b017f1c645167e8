"""The figures of the synthetic experiments."""

from __future__ import annotations

from workflow.lib.papers import Draw
from workflow.lib.registry import Registry

FIGURES: Registry[Draw] = Registry()
