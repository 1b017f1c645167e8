"""The published curves of Figure 2 as digitised, and how ours lie beside them (docs/papers/ntp.md, section 8)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from workflow.lib.runs import Curve, NotRecordedError

# Names of the published panels -> our metric.
PANELS = {
    "L0": "loss_ov",
    "cos_ov": "cos_ov",
    "norm_ov": "norm_ov",
    "L": "loss",
    "cos_kq": "cos_kq",
    "norm_kq": "norm_kq",
}


@dataclass(frozen=True)
class Reading:
    """One digitised curve: steps, values and reading errors, each of shape (n,)."""

    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    def until(self, last: float) -> Reading:
        """The part up to a step."""
        inside = self.steps <= last
        return Reading(self.steps[inside], self.values[inside], self.errors[inside])

    def deviation(self, ours: Curve) -> np.ndarray:
        """Our median less the published value, over the reading error, at the readings up to our last step."""
        part = self.until(ours.steps[-1])
        recorded = ~np.isnan(ours.values).all(axis=0)
        if not recorded.any():
            raise NotRecordedError("no seed recorded anything to hold against the published curve")
        median = np.nanmedian(ours.values[:, recorded], axis=0)
        return (np.interp(part.steps, ours.steps[recorded], median) - part.values) / part.errors


@cache
def readings() -> Mapping[str, Reading]:
    """The digitised curves of Figure 2, by panel."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("t", "value", "pixel_error")
    return {
        panel: Reading(*(np.array([float(row[name]) for row in rows if row["panel"] == panel]) for name in columns))
        for panel in PANELS
    }
