"""Captions: the text of `workflow/report/<paper>/<figure>.rst`, measured facts, and every setting's source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from workflow.lib.errors import UserError
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import Experiment, Paper

MEANINGS = {
    "paper": "read in the paper",
    "inferred": "deduced from the paper or from others' descriptions of it",
    "recalled": "from memory of the paper, unverified",
    "derived": "our own algebra, checked numerically",
    "choice": "the paper is silent; our decision",
    "user": "set by you",
}


def text(template: Path, facts: Mapping[str, Any], diverged: Sequence[str] = ()) -> str:
    """What a figure's caption says, in reStructuredText.

    Args:
        template: a Jinja text; the facts are its variables, and a missing one is an error.
        facts: measured by the drawing function; shown as text, whatever they hold.
        diverged: which of the runs drawn diverged and where, told where the template does not speak of it.
    """
    # reStructuredText needs no HTML escapes, but escapes of its own.
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        told = environment.from_string(template.read_text(encoding="utf-8")).render(**_plain(facts)).strip()
    except OSError:
        raise
    except Exception as error:  # whatever the expressions of a template raise
        raise UserError(f"{template}: is not a template of this figure's caption ({error})") from error
    if diverged and "iverged" not in told:
        told += f"\n\nDiverged, and left out from there: {'; '.join(_plain(list(diverged)))}."
    # Numbers that diverged or shortened runs do not have.
    dashed, count = re.subn(r"(?<![\w-])-?nan(?![\w-])", "–", told)
    return (
        f"{dashed}\n\nA dash stands for a number that these runs do not have: they diverged, or are too short."
        if count
        else told
    )


def render(text: str, paper: Paper, figure: str) -> str:
    """The caption as the report shows it: heading, text, and every setting with its source."""
    drawn = paper.figure(figure)
    heading = f"**{_escaped(f'{paper.title} ({paper.authors}; {paper.venue}), {figure}: {drawn.title}')}**"
    tables = [_settings_table(experiment) for experiment in _shown(paper, figure)]
    return "\n\n".join([heading, text, *tables]) + "\n"


def described(text: str, paper: Paper, figure: str) -> dict[str, Any]:
    """The same for programs: figure, paper, caption, and the experiments with every setting."""
    drawn = paper.figure(figure)
    head = {"name": paper.name, "title": paper.title, "authors": paper.authors, "venue": paper.venue}
    return {
        "figure": figure,
        "title": drawn.title,
        "paper": head,
        "caption": text,
        "experiments": [_experiment(experiment) for experiment in _shown(paper, figure)],
    }


def _shown(paper: Paper, figure: str) -> list[Experiment]:
    """The experiments of a figure; those of a sweep as one, whose swept settings have all their values."""
    drawn = [paper.experiment(name) for name in paper.figure(figure).experiments]
    first = drawn[0]
    if first.sweep is None:
        return drawn
    every = {key: list(dict.fromkeys(one.given[key].value for one in drawn)) for key in first.sweep.settings}
    given = {
        key: setting.model_copy(update={"value": every.get(key, setting.value)}) for key, setting in first.given.items()
    }
    return [first.model_copy(update={"given": given, "name": first.sweep.of})]


def _experiment(experiment: Experiment) -> dict[str, Any]:
    settings = [("seeds", experiment.given["seeds"]), *experiment.sourced()]
    return {
        "name": experiment.name,
        "about": experiment.about,
        "optimizers": {label: optimizer.rule for label, optimizer in experiment.optimizers.items()},
        "settings": [{"setting": name, **setting.model_dump(mode="json")} for name, setting in settings],
    }


def _settings_table(experiment: Experiment) -> str:
    found = list(experiment.sourced())
    used = {setting.source for _, setting in found}
    lines = [
        f"Settings of *{experiment.name}* ({_escaped(experiment.about)}; seeds: {experiment.seeds})",
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
    value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value, ensure_ascii=False)
    return _escaped(name), _escaped(value), setting.source, _escaped(setting.where)


def _escaped(text: str) -> str:
    r"""Plain text in reStructuredText: no mark-up in it counts, and "p. 9" begins no list.

    >>> print(_escaped("p. 9: *d*"))
    p\. 9\: \*d\*
    """
    return re.sub(r"([^\w\s]|_(?!\w))", r"\\\1", " ".join(text.split()))


def _plain(facts: Any) -> Any:
    """Facts with the mark-up in their texts escaped; what no mark-up needs stays readable."""
    if isinstance(facts, str):  # two dots at the start of a line begin a directive, a colon in a word makes a link
        return re.sub(r"([\\`*|]|_(?!\w)|^\.(?=\.)|(?<=\w):(?=\w))", r"\\\1", " ".join(facts.split()))
    if isinstance(facts, Mapping):
        return {_plain(key): _plain(value) for key, value in facts.items()}
    return type(facts)(map(_plain, facts)) if isinstance(facts, list | tuple) else facts
