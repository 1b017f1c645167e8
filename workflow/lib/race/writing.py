"""What the race leaves: its table, its pictures, and the leaderboard that the documentation shows."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from workflow.lib import costs, plotting, stages
from workflow.lib.errors import UserError
from workflow.lib.files import readable, write_text
from workflow.lib.plan.model import Figure, Paper
from workflow.lib.plan.race import NAME, Race
from workflow.lib.plan.reading import ROOT
from workflow.lib.race import figures, standings
from workflow.lib.race.standings import RAN, Standings

TABLE, BOARD = "race.csv", "leaderboard.md"
FIGURES = tuple(figures.TITLES)
KINDS = {"pdf": "pdf", "png": "png", "csv": "csv", "caption": "rst", "description": "json"}


def results(race: Race, runs: Path, folder: Path) -> None:
    """Write race.csv, leaderboard.md and all pictures.

    Args:
        race: its plan.
        runs: holds the files of all pairs that were not refused.
        folder: to write to; pictures go to `figures`.
    """
    costs.work_begins()
    found = standings.gather(race, runs)
    paper = head(found)
    for name in FIGURES:
        template = ROOT / "workflow" / "report" / NAME / f"{name}.rst"
        outputs = {key: folder / "figures" / f"{name}.{suffix}" for key, suffix in KINDS.items()}
        with plotting.look():
            stages.write_drawing(figures.FIGURES[name](found), paper, name, template, outputs)
    write_text(folder / BOARD, leaderboard(found))
    standings.write(folder / TABLE, found.rows.values())


def head(found: Standings) -> Paper:
    """The race as captions and pages know a paper: its problems as experiments, with every rule as it was judged."""
    experiments = {name: standings.tuned(found, name) for name in found.race.problems}
    drawn = {
        name: Figure(name=name, title=title, experiments=tuple(experiments)) for name, title in figures.TITLES.items()
    }
    title = "The race: every optimizer on every paper's problem"
    return Paper(name=NAME, title=title, authors="this workflow", venue="beyond the papers", experiments=experiments,
                 figures=drawn, claims={})  # fmt: skip


def leaderboard(found: Standings) -> str:
    """The leaderboard as markdown: rules by how many problems they solve, then by how far they are behind."""
    race = found.race
    lines = [
        f"Run on {date.today().isoformat()} with {', '.join(_versions())}.",
        f"Training took {_seconds(found):.0f} CPU seconds.",
        "",
        "* solved: problems on which more than half of the judging seeds get to the target; won: on how many of these",
        "  nobody is faster (ties count for all); behind: steps over those of the best, the median of the solved.",
        "* whole grid: the share of all tuning runs that get there, whatever their learning rate; diverged: problems",
        "  on which a judging seed did, though tuned.",
        "",
        "| optimizer | solved | won | behind | whole grid | diverged |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [line for _, line in sorted(_line(found, rule) for rule in race.rules)]
    lines += ["", f"Steps to the target over those of the best, on each problem ({_dagger(found)}):", ""]
    names = list(race.problems)
    lines += [f"| optimizer | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    lines += [f"| `{rule}` | {' | '.join(_cell(found, name, rule) for name in names)} |" for rule in race.rules]
    refused = [f"* `{row.rule}` on {row.problem}: {row.reason}" for row in found.rows.values() if row.status != RAN]
    return "\n".join([*lines, *(["", "Refused while planning:", "", *refused] if refused else [])]) + "\n"


def _seconds(found: Standings) -> float:
    """CPU seconds of all training runs."""
    runs = [entrant for pair in found.pairs.values() for entrant in (*pair.grid, pair.judged)]
    return sum(entrant.seconds * entrant.end.size for entrant in runs)


def _line(found: Standings, rule: str) -> tuple[tuple[float, float, str], str]:
    """A rule's line, with what lines are sorted by."""
    rows = [found.rows[name, rule] for name in found.race.problems]
    ran = [row for row in rows if row.status == RAN]
    behind = [row.behind for row in rows if not math.isnan(row.behind)]
    middle = median(behind) if behind else math.inf
    wins = sum(row.behind == 1 for row in rows)
    untuned = sum(row.grid_reached for row in ran) / len(ran) if ran else 0.0
    cells = [f"`{rule}`", f"{len(behind)} of {len(rows)}", str(wins), f"{middle:.3g}" if behind else "–",
             f"{untuned:.0%}", str(sum(row.diverged > 0 for row in ran))]  # fmt: skip
    return (-len(behind), middle, rule), f"| {' | '.join(cells)} |"


def _cell(found: Standings, problem: str, rule: str) -> str:
    row = found.rows[problem, rule]
    if row.status != RAN:
        return "refused"
    told = "–" if math.isnan(row.behind) else f"{row.behind:.3g}"
    return f"{told}†" if row.edge else told


def _dagger(found: Standings) -> str:
    dashes = "–: half of the judging seeds or more do not get there"
    if any(row.edge for row in found.rows.values()):
        return f"{dashes}; †: the best learning rate lies at an end of what was tried"
    return dashes


def _versions() -> Sequence[str]:
    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "numpy", "numba"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


# What stands above the leaderboard in the documentation is written by hand; the leaderboard replaces what lies between.
_BEGIN, _END = "<!-- leaderboard: made by `python -m workflow.lib leaderboard` -->", "<!-- leaderboard ends -->"


def document(folder: Path, page: Path) -> None:
    """Put the leaderboard and the pictures of a race into the page of the documentation.

    Args:
        folder: of a race that has run, such as results/race.
        page: docs/race.md; pictures go to the folder of its name beside it.

    Raises:
        UserError: the race has not run, or the page has no place for a leaderboard.
    """
    with readable(folder / BOARD):
        board = (folder / BOARD).read_text(encoding="utf-8")
    with readable(page):
        text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{page}: expected the lines {_BEGIN} and {_END}, between which the leaderboard goes")
    pictures = page.with_suffix("")
    pictures.mkdir(exist_ok=True)
    shown = []
    for name, title in figures.TITLES.items():
        with readable(folder / "figures" / f"{name}.png"):
            shutil.copyfile(folder / "figures" / f"{name}.png", pictures / f"{name}.png")
        shown.append(f"![{title}]({pictures.name}/{name}.png)")
    write_text(page, f"{before}{begin}\n\n{board}\n" + "\n\n".join(shown) + f"\n\n{end}{after}")
