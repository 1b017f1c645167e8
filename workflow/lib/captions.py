"""Captions: the text of `workflow/report/<paper>/<figure>.rst`, measured facts, and every setting's source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from workflow.lib.plan.model import Paper, Setting

MEANINGS = {
    "paper": "read in the paper",
    "inferred": "deduced from the paper or from others' descriptions of it",
    "recalled": "from memory of the paper, unverified",
    "derived": "our own algebra, checked numerically",
    "choice": "the paper is silent; our decision",
    "user": "set by you",
}


def render(template: Path, paper: Paper, figure: str, facts: Mapping[str, Any]) -> str:
    """The caption of a figure in reStructuredText.

    Args:
        template: a Jinja text; the facts are its variables, and a missing one is an error.
        paper: the plan's paper.
        figure: name of the figure.
        facts: measured by the drawing function.
    """
    # reStructuredText needs no HTML escapes.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)  # noqa: S701
    text = environment.from_string(template.read_text(encoding="utf-8")).render(**facts)
    drawn = paper.figure(figure)
    heading = f"**{paper.title}** ({paper.authors}; {paper.venue}), {figure}: {drawn.title}"
    tables = [_settings_table(name, paper) for name in drawn.experiments]
    return "\n\n".join([heading, text.strip(), *tables]) + "\n"


def _settings_table(name: str, paper: Paper) -> str:
    experiment = paper.experiment(name)
    found = list(experiment.sourced())
    used = {setting.source for _, setting in found}
    lines = [
        f"Settings of *{name}* ({experiment.about}; seeds: {experiment.seeds})",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    rows = [("setting", "value", "source", "where"), *(_row(key, setting) for key, setting in found)]
    for row in rows:
        lines += [f"   {'* -' if not column else '  -'} {cell}" for column, cell in enumerate(row)]
    lines += ["", "; ".join(f"*{tag}*: {meaning}" for tag, meaning in MEANINGS.items() if tag in used) + "."]
    return "\n".join(lines)


def _row(name: str, setting: Setting) -> tuple[str, str, str, str]:
    value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value)
    return name, f"``{value}``" if value else "", setting.source, setting.where.replace("*", "\\*").replace("|", "\\|")
