"""Where the files of a paper lie: in this checkout, or with a room of the user's own in the folder of the key `rooms`.

A room of this project has its code in `workflow/lib/papers/<paper>/`, its YAML in `config/` and its captions in
`workflow/report/<paper>/`. A room elsewhere has all of it in one folder: the modules, `paper.yaml`, `claims.yaml` and
`<figure>.rst`. Its code is imported as if it lay here, `workflow.lib.papers.<paper>`. The folder travels to jobs in an
environment variable.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from workflow.lib.errors import UserError

ROOT = Path(__file__).parents[2]
VARIABLE = "OWN_ROOMS"
_PAPERS = Path(__file__).parent / "papers"


def use(folder: str | Path) -> None:
    """Add a folder of rooms.

    Raises:
        UserError: it holds none, or one of a name that is taken.
    """
    place = Path(folder).absolute()
    found = _rooms(place)
    if not found:
        raise UserError(f"config.rooms: found no room in {place}; expected folders <paper>/ with a settings.py in each")
    if taken := set(found) & set(_rooms(_PAPERS)):
        raise UserError(f"config.rooms: {place / min(taken)}: this workflow has a paper of that name; choose another")
    for name, room in found.items():
        if not (name.isalnum() and name.islower() and name.isascii()):
            raise UserError(f"config.rooms: {room}: expected a name of small letters and digits, found {name!r}")
    os.environ[VARIABLE] = str(place)
    if loaded := sys.modules.get("workflow.lib.papers"):
        loaded.__path__[:] = packages()


def own() -> Path | None:
    """The folder of the user's own rooms, if there is one."""
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def packages() -> list[str]:
    """The folders in which `workflow.lib.papers` looks for rooms."""
    return [str(_PAPERS), *map(str, filter(None, [own()]))]


def rooms() -> dict[str, Path]:
    """The folders of all rooms, by paper."""
    place = own()
    return {**_rooms(_PAPERS), **(_rooms(place) if place else {})}


def is_own(paper: str) -> bool:
    """Whether a paper's room is the user's own."""
    return paper in rooms() and rooms()[paper].parent != _PAPERS


def configuration(paper: str) -> Path:
    """The YAML with a paper's experiments and figures."""
    return rooms()[paper] / "paper.yaml" if is_own(paper) else ROOT / "config" / "papers" / f"{paper}.yaml"


def ledger(paper: str) -> Path:
    """The YAML with a paper's claims."""
    return rooms()[paper] / "claims.yaml" if is_own(paper) else ROOT / "config" / "claims" / f"{paper}.yaml"


def caption(paper: str, drawing: str) -> Path:
    """The template of a figure's caption."""
    return (rooms()[paper] if is_own(paper) else ROOT / "workflow" / "report" / paper) / f"{drawing}.rst"


def module(name: str) -> Path | None:
    """The file of a module of this library, or None for anything else."""
    parts = name.split(".")
    if parts[:3] == ["workflow", "lib", "papers"] and len(parts) > 3 and is_own(parts[3]):
        base = rooms()[parts[3]].joinpath(*parts[4:])
    else:
        base = ROOT.joinpath(*parts)
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def in_library(path: Path) -> bool:
    """Whether a file is part of this library or of one of the user's own rooms."""
    place = own()
    return Path(__file__).parent in path.parents or (place is not None and place in path.parents)


@cache
def _rooms(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/settings.py"))}
