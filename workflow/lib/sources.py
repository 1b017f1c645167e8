"""Which files a stage depends on, read from import statements.

Snakemake sees an edited command but not an edited import. Rules carry a digest of these files, so that editing a
paper's training code reruns that paper's training, and editing a figure only redraws.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from workflow.lib import places
from workflow.lib.errors import UserError

_PACKAGE = "workflow.lib"


def modules(*roots: str | Path) -> list[Path]:
    """The files of the named modules, of all they import, directly or not, and tables beside them.

    Imports are followed into this library, and from a user's file also into the folder that the command runs in.

    Args:
        roots: names of modules of this library, or files.
    """
    found: set[Path] = set()
    here = Path.cwd()
    waiting = [root if isinstance(root, Path) else places.module(root) for root in roots]
    while waiting:
        path = waiting.pop()
        if path is not None and path not in found:
            found.add(path)
            waiting.extend(_imports(path, None if places.in_library(path) else here))
    return sorted(found | {table for path in found if places.in_library(path) for table in path.parent.glob("*.csv")})


def _file(module: str, root: Path) -> Path | None:
    """The file of a module below a folder, or None for anything else."""
    base = root.joinpath(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those that only type checkers read; nothing is imported within an expression."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                waiting.extend(getattr(node, part, ()))


@cache
def _imports(path: Path, here: Path | None) -> tuple[Path | None, ...]:
    """The files that one imports: of a user's file also those below the folder `here`."""
    names = []
    for node in _run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level:
                if here is None:
                    raise UserError(
                        f"{path}, line {node.lineno}: a room imports by full names, as workflow.lib.papers.ntp.data"
                    )
                if here not in path.parents:
                    continue
                package = ".".join([*path.relative_to(here).parts[: -node.level], *filter(None, [node.module])])
            names += [package, *(f"{package}.{alias.name}".lstrip(".") for alias in node.names)]
    library = tuple(places.module(name) for name in names if name.startswith(_PACKAGE))
    if here is None or here not in path.parents:
        return library
    # A package's own file runs before that of a module in it.
    parts = [name.split(".") for name in names if name]
    return (*library, *(_file(".".join(part[:i]), here) for part in parts for i in range(1, len(part) + 1)))
