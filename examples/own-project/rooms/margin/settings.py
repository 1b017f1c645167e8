"""The kind of experiment of this paper."""

from __future__ import annotations

from workflow.lib.number_types import Count, Positive
from workflow.lib.plan.settings import Settings


class Separable(Settings):
    """Points with labels that a plane through the origin separates.

    points: their number; dimension: of each; gap: their least distance to the plane; steps: of the optimizer.
    """

    points: Count
    dimension: Count
    gap: Positive
    steps: Count


KINDS: dict[str, type[Settings]] = {"separable": Separable}
DRAWINGS = {"fig1": (Separable,)}
