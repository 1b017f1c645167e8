"""The claims of the synthetic experiments."""

from __future__ import annotations

from workflow.lib.papers import Measured
from workflow.lib.registry import Registry

CLAIMS: Registry[Measured] = Registry()
