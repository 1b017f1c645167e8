"""The README's table of figures, from the plan and the claims of a run: `python -m tests.readme_table results`."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from workflow.lib.plan.reading import ROOT, read_yaml
from workflow.lib.rooms import make_plan

HEAD = "| figure | shows | target | claims that hold |\n| --- | --- | --- | --- |"


def table(results: Path) -> str:
    """One row for each figure, in the order of the page."""
    claims = pd.read_csv(results / "claims.csv", keep_default_na=False)
    rows = [HEAD]
    for paper in make_plan(read_yaml(ROOT / "config" / "config.yaml")).papers.values():
        for figure in paper.figures.values():
            mine = claims[(claims["paper"] == paper.name) & (claims["figure"] == figure.name)]
            held = f"{(mine['verdict'] == 'holds').sum()} of {len(mine)}" if len(mine) else "–"
            target = f"`results/{paper.name}/figures/{figure.name}.pdf`"
            rows.append(f"| `{paper.name}` {figure.name} | {figure.title} | {target} | {held} |")
    return "\n".join(rows)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    start = text.index("| figure | shows |")
    end = text.index("\n\n", start)
    readme.write_text(text[:start] + table(Path(sys.argv[1])) + text[end:])
