"""Holding measured values against the bands of a ledger."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.errors import unknown
from workflow.lib.files import atomic, readable, write_text
from workflow.lib.page import texts
from workflow.lib.plan.model import Claim, Experiment, Paper
from workflow.lib.runs import Metrics, NotRecordedError

if TYPE_CHECKING:
    import pandas as pd

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
        measured, good = verdict(
            measure(metrics, _Planned(paper.experiments, metrics)), claim.low, claim.high, claim.share
        )
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


def write_csv(path: Path | str, rows: Iterable[dict[str, object]]) -> None:
    """Write claims.csv, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if value != value else value for name, value in row.items()})


def read_csv(paths: Iterable[Path | str]) -> pd.DataFrame:
    """Read and join the claims tables of several papers."""
    import pandas as pd  # which judging a paper does without

    tables = []
    for path in paths:
        with readable(path):
            tables.append(pd.read_csv(path, keep_default_na=False, na_values={"low": "", "high": "", "measured": ""}))
            fresh = Path(path).parent / "robustness" / "robustness.csv"  # there if somebody asked for it
            shares = pd.read_csv(fresh).set_index("claim")["share"] if fresh.exists() else pd.Series(dtype=float)
            tables[-1]["fresh"] = tables[-1]["claim"].map(shares)
    return pd.concat(tables, ignore_index=True)


def _fresh(share: float) -> str:
    """The share of fresh seeds inside the band; one below 95 % is a band that depends on the seeds."""
    return "" if math.isnan(share) else f"{share:.0%}" + (" (depends on the seeds)" if share < ROBUST else "")


def _counted(claims: pd.DataFrame) -> str:
    """How many claims hold, fail and were not measured."""
    counts = claims["verdict"].value_counts()
    told = f"{counts.get('holds', 0)} of {len(claims)} hold, {counts.get('fails', 0)} fail"
    return f"{told}, {counts['not measured']} were not measured" if "not measured" in counts else told


def _readable_table(claims: pd.DataFrame) -> pd.DataFrame:
    """The table as a person reads it: what fails first, then what was not measured."""
    import pandas as pd

    claims = claims.iloc[np.argsort(claims["verdict"].map(list(VERDICTS).index), kind="stable")]
    table = pd.DataFrame(
        {
            "": claims["verdict"].map(VERDICTS),
            "claim": claims["claim"],
            "statement": claims["statement"],
            "measured": claims["measured"].map(texts.number),
            "band": [
                texts.band(low, high, share)
                for low, high, share in zip(claims["low"], claims["high"], claims["share"], strict=True)
            ],
            "source": claims["source"],
        }
    )
    if claims["fresh"].notna().any():
        table["fresh seeds"] = [_fresh(share) for share in claims["fresh"]]
    if claims["reason"].any():
        table["why"] = claims["reason"]
    if (claims["settings"] != "as shipped").any():
        table["settings"] = claims["settings"]
    return table


def write_markdown(path: Path | str, claims: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """Write a table that a person likes to read, paper by paper, failing claims first."""
    parts = [
        f"# Claims: {_counted(claims)}\n",
        "*measured* is the decisive seed's value: the worst one that has to lie in the band. "
        "*source* says where the claim comes from, and the band where that differs.\n",
    ]
    for paper, mine in claims.groupby("paper", sort=False):
        parts.append(f"## {paper}: {titles[str(paper)]}\n\n{_counted(mine)}.\n")
        table = _readable_table(mine)
        lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
        lines += ["| " + " | ".join(str(v).replace("|", "\\|") for v in r) + " |" for r in table.to_numpy()]
        parts.append("\n".join(lines) + "\n")
    write_text(path, "\n".join(parts))
