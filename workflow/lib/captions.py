"""Captions: the text of `workflow/report/<paper>/<figure>.rst`, measured facts, and every setting's source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from workflow.lib import places
from workflow.lib.errors import UserError
from workflow.lib.plan import reading
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import GENERAL, Experiment, Paper

MEANINGS = {
    "paper": "read in the paper",
    "inferred": "deduced from the paper or from others' descriptions of it",
    "recalled": "from memory of the paper, unverified",
    "derived": "our own algebra, checked numerically",
    "choice": "the paper is silent; our decision",
    "user": "set by you",
}


# Settings of yours that a caption lists; its tables have the others.
_LISTED = 8


def changed(paper: Paper, figure: str) -> list[str]:
    """Which settings behind a figure the user changed, as `experiment.setting = value`.

    How many seeds there are is told by the text; an optimizer that stands beside the shipped ones changes none of them.
    """
    drawn = paper.figure(figure)
    if drawn.drawing in GENERAL:
        return []
    # The race is no room, and draws what its own configuration says.
    figures = _shipped(paper.name).get("figures", {figure: {"experiments": list(drawn.experiments)}})
    given = (figures.get(figure) or figures.get(drawn.drawing) or {}).get("experiments")
    others = [] if list(drawn.experiments) == given else [f"{figure}.experiments = {', '.join(drawn.experiments)}"]
    return others + [change for name in drawn.experiments for change in _changed(paper, paper.experiment(name))]


def _changed(paper: Paper, experiment: Experiment) -> list[str]:
    sourced = [("stream", experiment.given["stream"]), *experiment.sourced()]
    mine = {name: setting for name, setting in sourced if setting.source == "user"}
    if not mine:
        return []
    entries = _shipped(paper.name).get("experiments", {}).values()
    beside = set(experiment.optimizers).difference(*(entry["optimizers"] for entry in entries))
    return [
        f"{experiment.name}.{name} = {setting.told}"
        for name, setting in mine.items()
        if name.rpartition(".")[0] not in beside
    ]


def _shipped(paper: str) -> Mapping[str, Any]:
    """A room's YAML; nothing for what is no room."""
    return reading.read_once(places.configuration(paper)) if paper in places.rooms() else {}


def text(template: Path, facts: Mapping[str, Any], diverged: Sequence[str] = (), changed: Sequence[str] = ()) -> str:
    """What a figure's caption says, in reStructuredText.

    Args:
        template: a Jinja text; the facts are its variables, and a missing one is an error. `shipped` is true where
            nothing was changed: what holds of the shipped settings alone is said there and nowhere else.
        facts: measured by the drawing function; shown as text, whatever they hold.
        diverged: which of the runs drawn diverged and where, told where the template does not speak of it.
        changed: the settings that the user changed, told before all else.
    """
    # reStructuredText needs no HTML escapes, but escapes of its own.
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        told = (
            environment.from_string(template.read_text(encoding="utf-8"))
            .render(shipped=not changed, **_plain(facts))
            .strip()
        )
    except OSError:
        raise
    except Exception as error:  # whatever the expressions of a template raise
        raise UserError(f"{template}: is not a template of this figure's caption ({error})") from error
    if changed:
        more = f"; and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        told = f"**With settings of yours:** {'; '.join(_plain(list(changed[:_LISTED])))}{more}.\n\n{told}"
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
    heading = f"**{_escaped(f'{paper.title} ({paper.authors}; {paper.venue}), {figure}: {_title(paper, figure)}')}**"
    tables = [_settings_table(paper, experiment) for experiment in _shown(paper, figure)]
    return "\n\n".join([heading, text, *tables]) + "\n"


def described(text: str, paper: Paper, figure: str) -> dict[str, Any]:
    """The same for programs: figure, paper, caption, and the experiments with every setting."""
    head = {"name": paper.name, "title": paper.title, "authors": paper.authors, "venue": paper.venue}
    return {
        "figure": figure,
        "title": _title(paper, figure),
        "paper": head,
        "caption": text,
        "experiments": [_experiment(paper, experiment) for experiment in _shown(paper, figure)],
    }


def _title(paper: Paper, figure: str) -> str:
    """The title, which may speak of settings that the user changed."""
    return paper.figure(figure).title + (", with settings of yours" if changed(paper, figure) else "")


def _about(paper: Paper, experiment: Experiment) -> str:
    """What an experiment is about, which may speak of such settings, too."""
    return experiment.about + (", with settings of yours" if _changed(paper, experiment) else "")


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


def _experiment(paper: Paper, experiment: Experiment) -> dict[str, Any]:
    settings = [("seeds", experiment.given["seeds"]), *experiment.sourced()]
    return {
        "name": experiment.name,
        "about": _about(paper, experiment),
        "optimizers": {label: optimizer.rule for label, optimizer in experiment.optimizers.items()},
        "settings": [{"setting": name, **setting.model_dump(mode="json")} for name, setting in settings],
    }


def _settings_table(paper: Paper, experiment: Experiment) -> str:
    found = list(experiment.sourced())
    used = {setting.source for _, setting in found}
    lines = [
        f"Settings of *{experiment.name}* ({_escaped(_about(paper, experiment))}; seeds: {experiment.seeds})",
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
    return _escaped(name), _escaped(setting.told), setting.source, _escaped(setting.where)


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
