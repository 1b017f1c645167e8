"""The README's table and pictures of figures, from the plan and a run: `python -m tests.readme_table results`.

Where Chromium is and NODE_PATH names a folder with npm's playwright-core, the picture of the page is taken anew too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tests.budget import costs
from workflow.lib.costs import Cost
from workflow.lib.page import PAGE
from workflow.lib.plan.model import Figure
from workflow.lib.plan.reading import ROOT, read_yaml
from workflow.lib.rooms import make_plan

HEAD = "| figure | shows | target | CPU minutes | claims that hold |\n| --- | --- | --- | --- | --- |"
PICTURES = "docs/figures"
WIDTH, COLOURS = 1000, 256  # of a picture: sharp on a screen, and small


def table(results: Path) -> str:
    """One row for each figure, in the order of the page, with what all its jobs cost in CPU time."""
    claims = pd.read_csv(results / "claims.csv", keep_default_na=False)
    spent = costs(results)
    rows = [HEAD]
    for paper, figure in _figures():
        mine = claims[(claims["paper"] == paper) & (claims["figure"] == figure.name)]
        held = f"{(mine['verdict'] == 'holds').sum()} of {len(mine)}" if len(mine) else "–"
        name = f"`{paper}` [{figure.name}]({PICTURES}/{paper}-{figure.name}.png)"
        target = f"`results/{paper}/figures/{figure.name}.pdf`"
        rows.append(f"| {name} | {figure.title} | {target} | {_minutes(spent, results / paper, figure)} | {held} |")
    return "\n".join(rows)


def _minutes(spent: Mapping[Path, Cost], paper: Path, figure: Figure) -> str:
    """CPU minutes of the figure's own jobs and of its experiments': data, runs, metrics, drawing."""
    names = {figure.name, *figure.experiments}
    logs = {path: path.relative_to(paper / "logs").parts for path in spent if path.is_relative_to(paper / "logs")}
    seconds = sum(
        spent[path].seconds for path, parts in logs.items() if parts[1:] and parts[1].removesuffix(".log") in names
    )
    return f"{seconds / 60:.1f}" if seconds > 3 else "< 0.1"


def pictures(results: Path, folder: Path) -> None:
    """The figures of a run, made small; what is no longer drawn goes."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for paper, figure in _figures():
        _small(results / paper / "figures" / f"{figure.name}.png", folder / f"{paper}-{figure.name}.png")


def screen(results: Path, picture: Path) -> None:
    """The first screen of a run's page, as headless Chromium shows it."""
    chromium = shutil.which("chromium")
    if chromium is None or "NODE_PATH" not in os.environ:
        return
    script = Path(__file__).parent / "page" / "screen.cjs"
    subprocess.run(["node", str(script), chromium, str(results / PAGE), str(picture)], check=True)
    _small(picture, picture)


def _small(drawn: Path, picture: Path) -> None:
    from PIL import Image

    with Image.open(drawn) as whole:
        width = min(WIDTH, whole.width)
        size = width, round(whole.height * width / whole.width)
        small = whole.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    # An octree keeps the colours of thin lines, which a median cut gives up for shades of white.
    few = small.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


def _figures():
    papers = make_plan(read_yaml(ROOT / "config" / "config.yaml")).papers.values()
    return [(paper.name, figure) for paper in papers for figure in paper.figures.values()]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    start = text.index("| figure | shows |")
    end = text.index("\n\n", start)
    readme.write_text(text[:start] + table(Path(sys.argv[1])) + text[end:])
    pictures(Path(sys.argv[1]), ROOT / PICTURES)
    screen(Path(sys.argv[1]), ROOT / "docs" / "page.png")
