"""The settings of the deep experiments."""

from __future__ import annotations

from workflow.lib.settings import Settings

KINDS: dict[str, type[Settings]] = {}
