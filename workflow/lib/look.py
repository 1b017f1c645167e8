"""How optimizers look, the same in every figure of every paper: colour, dash, marker, name and order.

Colours are told apart by readers with any colour vision (Okabe and Ito; Tol's muted scheme for what comes after).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workflow.lib.plan.model import Experiment

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777",
)  # fmt: skip
Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn; `line` and `points` are keyword arguments of matplotlib."""

    name: str
    color: str
    dash: Dash
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """A line."""
        return {"color": self.color, "linestyle": self.dash, "label": self.name}

    @property
    def points(self) -> dict[str, Any]:
        """Points without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "none", "label": self.name}


# Of the second and further entries of a rule, and of rules that are not registered, from the second one on.
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)

# Rule -> its look, in the order of legends.
RULES = {
    "gd": Look("GD", BLUE, "-", "o"),
    "sgd": Look("SGD", SKY, "-", "s"),
    "ngd": Look("NGD", RED, "-", "^"),
    "sngd": Look("SNGD", ORANGE, "-", "v"),
    "polyak": Look("Polyak step", GREEN, "-", "D"),
    "sps": Look("SPS", "#117733", "-", "P"),
    "adam": Look("Adam", PINK, "-", "X"),
    "preconditioned_prox": Look("prox", "#332288", "-", "*"),
    "led_ngd": Look("NGD, led", "#882255", "-", "<"),
}
_FREE = ("#999933", "#AA4499", "#661100", "#44AA99", "#DDCC77", "#88CCEE", "#6699CC", "#888888")
_FREE_MARKERS = "hpd>8H1234"


def looks(experiment: Experiment, names: Mapping[str, str] | None = None) -> dict[str, Look]:
    """The look of every optimizer of an experiment, by label.

    The first label of a known rule gets the rule's colour; further ones, and rules of the user's own, get the next free
    colours with a dash of their own.

    Args:
        experiment: its optimizers in the order of the YAML.
        names: label -> name in legends, where the rule's name would not tell entries apart.
    """
    names = names or {}
    found: dict[str, Look] = {}
    seen: set[str] = set()
    free = 0
    for label, optimizer in experiment.optimizers.items():
        known = RULES.get(optimizer.rule)
        if known is not None and optimizer.rule not in seen:
            found[label] = Look(names.get(label, known.name), known.color, known.dash, known.marker)
        else:
            dash = DASHES[1 + free % (len(DASHES) - 1)]
            found[label] = Look(
                names.get(label, label), _FREE[free % len(_FREE)], dash, _FREE_MARKERS[free % len(_FREE_MARKERS)]
            )
            free += 1
        seen.add(optimizer.rule)
    return found


def ordered(labels: Iterable[str], experiment: Experiment) -> list[str]:
    """Labels in the order of legends: known rules first, each in its place."""
    place = {rule: index for index, rule in enumerate(RULES)}
    return sorted(labels, key=lambda label: place.get(experiment.optimizers[label].rule, len(place)))
