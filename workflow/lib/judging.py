"""Holding measured values against the bands of a ledger."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.errors import unknown
from workflow.lib.files import atomic, write_text
from workflow.lib.page.results import Claim as Told
from workflow.lib.page.results import read_claims
from workflow.lib.plan.model import Claim, Experiment, Paper
from workflow.lib.runs import Metrics, NotRecordedError

COLUMNS = (
    "claim", "paper", "figure", "statement", "measured", "low", "high", "share", "verdict", "settings", "source",
    "reason",
)  # fmt: skip
# Below this share of fresh seeds a band is reported as one that depends on the seeds.
ROBUST = 0.95
VERDICTS = {"fails": "✗ fails", "not measured": "not measured", "holds": "✓"}


def _excess(array: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """How far each value lies outside a band: at most 0 inside, infinite for NaN."""
    excess = np.maximum(
        array - high if high is not None else np.full_like(array, -math.inf),
        low - array if low is not None else np.full_like(array, -math.inf),
    )
    return np.where(np.isnan(array), math.inf, excess)


def inside(array: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Which values lie in a band, ends included; NaN never does."""
    return np.asarray(_excess(array, low, high) <= 0)


def verdict(values: object, low: float | None, high: float | None, share: float = 1.0) -> tuple[float, bool]:
    """Judge the values of all seeds against a band, ends included.

    Args:
        values: a number, or one per seed; NaN never lies in a band.
        low: lower end, None for none.
        high: upper end, None for none.
        share: the share of seeds that must lie in the band.

    Returns:
        The decisive value (the worst one that still has to lie in the band) and whether it does.

    >>> verdict([1.0, 1.2, 9.0], 0.5, 1.5)
    (9.0, False)
    >>> verdict([1.0, 1.2, 9.0], 0.5, 1.5, share=0.6)
    (1.2, True)
    """
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    excess = _excess(array, low, high)
    order = np.argsort(excess, kind="stable")
    decisive = order[math.ceil(share * array.size - 1e-9) - 1]
    return float(array[decisive]), bool(excess[decisive] <= 0)


class _Planned(dict[str, Experiment]):
    """Experiments by name, of which a user may have left some out; what is looked at counts as used."""

    def __init__(self, experiments: Mapping[str, Experiment], metrics: Metrics) -> None:
        super().__init__(experiments)
        self._metrics = metrics

    def __getitem__(self, name: str) -> Experiment:
        found: Experiment = super().__getitem__(name)
        self._metrics.used |= {(name, label) for label in found.optimizers}
        return found

    def __missing__(self, name: str) -> Experiment:
        raise NotRecordedError(unknown("experiment", name, self))


def judged(paper: Paper, claim: Claim, measure: Measured, metrics: Metrics) -> dict[str, object]:
    """One line of claims.csv: what was measured, the verdict, and whether the settings were the user's."""
    metrics.used.clear()
    measured, told, reason = math.nan, "not measured", ""
    try:
        with np.errstate(all="ignore"):  # what has no number, or an infinite one, is judged as that
            values = measure(metrics, _Planned(paper.experiments, metrics))
        measured, good = verdict(values, claim.low, claim.high, claim.share)
        told = "holds" if good else "fails"
    except NotRecordedError as error:  # shortened runs, or an experiment that was left out
        reason = str(error)
    own = [
        change
        for name, experiment in paper.experiments.items()
        for change in experiment.own({optimizer for used, optimizer in metrics.used if used == name})
        if any(used == name for used, _ in metrics.used)
    ]
    if told == "fails":
        reason = claim.reason if not own else ""
        if math.isnan(measured):
            told, reason = "not measured", "a seed recorded no such number"
    explained = told == "fails" and reason  # in the ledger
    if told != "holds" and not explained and (lost := _diverged(metrics)):
        reason = f"diverged: {lost}" + (f" ({reason})" if reason else "")
    return {
        "claim": claim.name,
        "paper": paper.name,
        "figure": claim.figure or "",
        "statement": claim.statement,
        "measured": measured,
        "low": math.nan if claim.low is None else claim.low,
        "high": math.nan if claim.high is None else claim.high,
        "share": claim.share,
        "verdict": told,
        "settings": f"yours: {'; '.join(own)}" if own else "as shipped",
        "source": claim.evidence,
        "reason": reason,
    }


def _diverged(metrics: Metrics) -> str:
    """Which of the runs that were read diverged, and where."""
    told = []
    for experiment, optimizer in sorted(metrics.used):
        with suppress(NotRecordedError):  # of an optimizer that was left out
            told.append(metrics.divergence(experiment, optimizer))
    return "; ".join(filter(None, told))


def write_csv(path: Path | str, rows: Iterable[dict[str, object]]) -> None:
    """Write claims.csv, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if value != value else value for name, value in row.items()})


def write_joined(path: Path | str, tables: Iterable[Path]) -> None:
    """Write the lines of several claims.csv, and the share of fresh seeds in each band where it was measured."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, "fresh"), lineterminator="\n")
        writer.writeheader()
        for table in tables:
            fresh = {claim.name: claim.fresh for claim in read_claims(table)}
            with table.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    writer.writerow({**row, "fresh": "" if fresh[row["claim"]] is None else fresh[row["claim"]]})


def write_markdown(path: Path | str, tables: Iterable[Path], titles: Mapping[str, str]) -> None:
    """Write the claims of some tables as one that a person likes to read, paper by paper, failing claims first."""
    papers = [(table, read_claims(table)) for table in tables]
    parts = [
        f"# Claims: {_counted([claim for _, claims in papers for claim in claims])}\n",
        "*measured* is the decisive seed's value: the worst one that has to lie in the band. "
        "*source* says where the claim comes from, and the band where that differs.\n",
    ]
    if any(claim.own for _, claims in papers for claim in claims):
        parts.append("Claims and bands speak of the settings as shipped; *settings* says where yours were measured.\n")
    for table, claims in papers:
        paper = claims[0].paper if claims else table.parent.name
        parts.append(f"## {paper}: {titles[paper]}\n\n{_counted(claims)}.\n")
        columns = _readable(claims)
        parts.append(_line(columns) + "|" + "---|" * len(columns) + "\n")
        parts[-1] += "".join(map(_line, zip(*columns.values(), strict=True)))
    write_text(path, "\n".join(parts))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _counted(claims: Sequence[Told]) -> str:
    """How many claims hold, fail and were not measured."""
    counts = Counter(claim.verdict for claim in claims)
    told = f"{counts['holds']} of {len(claims)} hold, {counts['fails']} fail"
    return f"{told}, {counts['not measured']} were not measured" if counts["not measured"] else told


def _readable(claims: Sequence[Told]) -> dict[str, list[str]]:
    """The columns that a person reads: what fails first, then what was not measured."""
    claims = sorted(claims, key=lambda claim: list(VERDICTS).index(claim.verdict))
    columns = {
        "": [VERDICTS[claim.verdict] for claim in claims],
        "claim": [claim.name for claim in claims],
        "statement": [claim.statement for claim in claims],
        "measured": [claim.told for claim in claims],
        "band": [claim.band for claim in claims],
        "source": [claim.source for claim in claims],
    }
    if any(claim.fresh is not None for claim in claims):
        columns["fresh seeds"] = [_fresh(claim.fresh) for claim in claims]
    if any(claim.reason for claim in claims):
        columns["why"] = [claim.reason for claim in claims]
    if any(claim.own for claim in claims):
        columns["settings"] = [claim.settings for claim in claims]
    return columns


def _fresh(share: float | None) -> str:
    """The share of fresh seeds inside the band; one below 95 % is a band that depends on the seeds."""
    return "" if share is None else f"{share:.0%}" + (" (depends on the seeds)" if share < ROBUST else "")
