"""Which files of this library a stage depends on, read from their import statements.

Snakemake sees an edited command but not an edited import. Rules carry a digest of these files, so that editing a
paper's training code reruns that paper's training, and editing a figure only redraws.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGE = "workflow.lib"


def modules(*roots: str) -> list[Path]:
    """The files of the named modules, of all library modules they import, directly or not, and tables beside them."""
    found: set[Path] = set()
    waiting = [_file(root) for root in roots]
    while waiting:
        path = waiting.pop()
        if path is not None and path not in found:
            found.add(path)
            waiting.extend(_imports(path))
    return sorted(found | {table for path in found for table in path.parent.glob("*.csv")})


def _file(module: str) -> Path | None:
    """The file of a module of this library, or None for anything else."""
    base = _ROOT.joinpath(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


@cache
def _imports(path: Path) -> tuple[Path | None, ...]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(_file(name) for name in names if name.startswith(_PACKAGE))
