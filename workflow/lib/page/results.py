"""What lies in a results folder, as the page tells it: papers, figures, claims and settings."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.lib.errors import UserError
from workflow.lib.files import readable
from workflow.lib.look import RULES
from workflow.lib.page import texts

# Sources in the order in which a reader of settings asks for them.
SOURCES = ("user", "choice", "inferred", "recalled", "derived", "paper")


@dataclass(frozen=True)
class Setting:
    """A value with its evidence."""

    experiment: str
    name: str
    value: Any
    source: str
    where: str

    @property
    def told(self) -> str:
        """The value, rounded."""
        return texts.value(self.value)

    @property
    def exact(self) -> str:
        """The value with every digit."""
        return texts.exact(self.value)


@dataclass(frozen=True)
class Claim:
    """One line of claims.csv."""

    name: str
    paper: str
    figure: str
    statement: str
    measured: float
    band: str
    verdict: str
    settings: str
    source: str
    reason: str
    fresh: float | None = None

    @classmethod
    def read(cls, row: Mapping[str, str], fresh: float | None = None) -> Claim:
        """A claim from its line, with the share of fresh seeds in its band where that was measured."""
        low, high, measured = (float(row[key] or "nan") for key in ("low", "high", "measured"))
        return cls(
            name=row["claim"],
            band=texts.band(low, high, float(row["share"])),
            measured=measured,
            fresh=fresh,
            **{key: row[key] for key in ("paper", "figure", "statement", "verdict", "settings", "source", "reason")},
        )

    @property
    def told(self) -> str:
        """What was measured, rounded."""
        return texts.number(self.measured)

    @property
    def kinds(self) -> str:
        """What the page's filter knows it by: its verdict, and whether it or its band is ours or the paper's."""
        tags = re.findall(r"\b(?:paper|" + "|".join(SOURCES) + r")\b", self.source.split("(")[0])
        whose = {"paper" if tag == "paper" else "ours" for tag in tags}
        return " ".join([self.verdict.replace(" ", "-"), *sorted(whose), *(["user"] if self.own else [])])

    @property
    def own(self) -> bool:
        """Whether it was measured with a user's settings."""
        return self.settings.startswith("yours")


@dataclass(frozen=True)
class Figure:
    """One figure: what its JSON says, where its files are, and the claims about it."""

    paper: str
    name: str
    folder: Path
    description: Mapping[str, Any]
    claims: tuple[Claim, ...] = ()
    stale: bool = False

    @property
    def id(self) -> str:
        """Its anchor."""
        return f"{self.paper}-{self.name}"

    @property
    def title(self) -> str:
        """Its title, or its name where no title is known."""
        return str(self.description.get("title") or self.name)

    @property
    def heading(self) -> str:
        """Its number as papers print it."""
        numbered = re.fullmatch(r"fig([0-9]+)", self.name)
        return f"Figure {numbered[1]}" if numbered else self.name.removeprefix("extra_").replace("_", " ").capitalize()

    @property
    def extra(self) -> bool:
        """Whether it goes beyond the paper."""
        return not self.name.startswith("fig")

    @property
    def experiments(self) -> list[tuple[str, str, list[Setting]]]:
        """Each experiment's name, what it is about, and its settings: the user's and ours first."""
        return [
            (
                experiment["name"],
                experiment.get("about", ""),
                sorted(
                    (Setting(experiment["name"], s["setting"], s["value"], s["source"], s["where"])
                     for s in experiment["settings"]),
                    key=lambda setting: SOURCES.index(setting.source),
                ),
            )
            for experiment in self.description.get("experiments", ())
        ]  # fmt: skip

    def file(self, kind: str) -> Path:
        """One of its files."""
        return self.folder / f"{self.name}.{kind}"

    def kinds(self) -> str:
        """What the page's filter knows it by: all that its claims are known by."""
        return " ".join(sorted({kind for claim in self.claims for kind in claim.kinds.split()}))

    @property
    def optimizers(self) -> list[str]:
        """The names of the rules whose runs it draws, in the order of legends; a rule of the user's own as it is."""
        runs = [experiment.get("optimizers", {}) for experiment in self.description.get("experiments", ())]
        rules = {label: rule for experiment in runs for label, rule in experiment.items()}
        series = [entry for entry in self.description.get("series", ()) if entry.get("role") == "run"]
        drawn = {rules[entry["series"]] for entry in series if entry["series"] in rules}
        return [*(rule.name for key, rule in RULES.items() if key in drawn), *sorted(drawn - {*RULES})]

    def rows(self) -> list[list[str]]:
        """The lines of its CSV: panel, series, part, x, y, low, high; a table made elsewhere may have no parts."""
        return _csv(self.file("csv"), ("panel", "series", "part", "x", "y", "low", "high"), optional="part")


@dataclass(frozen=True)
class Paper:
    """One paper's results."""

    name: str
    title: str
    authors: str
    venue: str
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def verdicts(self) -> Counter[str]:
        """How many claims hold, fail, were not measured."""
        return Counter(claim.verdict for claim in self.claims)

    @property
    def other_claims(self) -> list[Claim]:
        """Claims about no figure that is here."""
        drawn = {figure.name for figure in self.figures}
        return [claim for claim in self.claims if claim.figure not in drawn]

    @property
    def sources(self) -> Counter[str]:
        """How many settings of the drawn experiments come from where."""
        found = {(s.experiment, s.name): s.source for f in self.figures for *_, own in f.experiments for s in own}
        return Counter(found.values())


@dataclass(frozen=True)
class Results:
    """A results folder."""

    folder: Path
    papers: tuple[Paper, ...] = field(default_factory=tuple)

    @classmethod
    def read(cls, folder: Path, order: Sequence[str] = ()) -> Results:
        """Everything that was drawn and judged.

        Args:
            folder: such as `results`.
            order: names of papers to begin with; others follow.

        Raises:
            UserError: there is nothing, or a file cannot be read.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder. Expected one that the workflow wrote, such as results")
        found = sorted({path.parent.parent.name for path in folder.glob("*/figures/*.csv")})
        names = [*(name for name in order if name in found), *(name for name in found if name not in order)]
        if not names:
            raise UserError(f"{folder}: no figures lie there. Run snakemake first, or name another folder")
        return cls(folder, tuple(_paper(folder / name) for name in names))

    @property
    def optimizers(self) -> dict[str, int]:
        """In how many figures each rule runs, in the order of legends."""
        count = Counter(rule for paper in self.papers for figure in paper.figures for rule in figure.optimizers)
        known = [rule.name for rule in RULES.values() if rule.name in count]
        return {name: count[name] for name in (*known, *sorted(count.keys() - {*known}))}

    @property
    def claims(self) -> list[Claim]:
        """The claims of all papers."""
        return [claim for paper in self.papers for claim in paper.claims]


def sources_of(folder: Path) -> Iterable[Path]:
    """The files that a page is made from."""
    yield from folder.glob("*/claims.csv")
    yield from folder.glob("*/robustness/robustness.csv")
    for kind in ("csv", "json", "png"):
        yield from folder.glob(f"*/figures/*.{kind}")


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a claims.csv, and what the robustness table beside it says of them."""
    table = path.parent / "robustness" / "robustness.csv"
    shares: dict[str, float] = {}
    if table.exists():
        with readable(table), table.open(encoding="utf-8", newline="") as lines:
            shares = {row["claim"]: float(row["share"]) for row in csv.DictReader(lines) if row["share"]}
    with readable(path), path.open(encoding="utf-8", newline="") as lines:
        return tuple(Claim.read(row, shares.get(row["claim"])) for row in csv.DictReader(lines))


def _paper(folder: Path) -> Paper:
    table = folder / "claims.csv"
    claims = read_claims(table) if table.exists() else ()
    judged = table.stat().st_mtime if claims else float("inf")
    figures = tuple(_figure(folder, path.stem, claims, judged) for path in (folder / "figures").glob("*.csv"))
    heads = [figure.description["paper"] for figure in figures if "paper" in figure.description]
    head: Mapping[str, str] = heads[0] if heads else {}
    return Paper(
        name=folder.name,
        title=head.get("title", ""),
        authors=head.get("authors", ""),
        venue=head.get("venue", ""),
        figures=tuple(sorted(figures, key=_place)),
        claims=claims,
    )


def _figure(folder: Path, name: str, claims: Sequence[Claim], judged: float) -> Figure:
    path = folder / "figures" / f"{name}.json"
    description: dict[str, Any] = {}
    if path.exists():
        with readable(path):
            description = json.loads(path.read_text(encoding="utf-8"))
    own = tuple(claim for claim in claims if claim.figure == name)
    metrics = [folder / "metrics" / f"{e['name']}.parquet" for e in description.get("experiments", ())]
    stale = any(table.exists() and table.stat().st_mtime > judged for table in metrics)
    return Figure(folder.name, name, folder / "figures", description, own, stale and bool(own))


def _place(figure: Figure) -> tuple[bool, int, str]:
    """fig1, fig2, ..., then what goes beyond the paper."""
    number = re.sub(r"\D", "", figure.name)
    return figure.extra, int(number) if number and not figure.extra else 0, figure.name


def _csv(path: Path, columns: Sequence[str], optional: str) -> list[list[str]]:
    """These columns of a table, in this order."""
    with readable(path), path.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        head = next(rows, [])
        if not {*columns} - {optional} <= {*head}:
            raise ValueError(f"its columns are {', '.join(head) or 'missing'}")
        places = [head.index(column) if column in head else None for column in columns]
        return [["" if place is None else row[place] for place in places] for row in rows]
