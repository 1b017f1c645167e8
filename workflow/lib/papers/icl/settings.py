"""The kinds of experiment of this paper: training on sampled prompts, and on the population loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from workflow.lib import grids
from workflow.lib.number_types import Count, Probability, number
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.settings import Needs, Settings, Side

# How far probabilities may sum, and dot products of features lie, from what they should be.
TOLERANCE = 1e-8


def _distribution(value: Any) -> Any:
    """Read `balanced`, one number (the dominant feature's probability) or one number for each feature."""
    if value == "balanced":
        return value
    several = isinstance(value, list | tuple)
    try:
        numbers = [number(p) for p in (value if several else [value])]
    except ValueError:
        numbers = []
    if not numbers or not all(isinstance(p, int | float) for p in numbers):
        raise ValueError(
            "expected balanced, or the probability of the dominant feature, or a list with the probability of "
            f"each feature; found {value!r}"
        )
    for p in numbers:
        if not 0 <= p <= 1:
            raise ValueError(f"expected probabilities between 0 and 1, found {p!r}")
    if several and abs(math.fsum(numbers) - 1) > TOLERANCE:
        raise ValueError(f"expected probabilities that sum to 1, found the sum {math.fsum(numbers):.6g}")
    return tuple(numbers) if several else numbers[0]


def _vectors(value: Any) -> Any:
    """Read `dense`, `basis` or a list of vectors; whether the vectors are orthonormal is checked here too."""
    if value in ("dense", "basis"):
        return value
    rows = value if isinstance(value, list | tuple) else None
    if not rows or not all(isinstance(row, list | tuple) and row for row in rows):
        raise ValueError(f"expected dense, basis or a list of vectors, found {value!r}")
    for i, row in enumerate(rows, start=1):
        if any(isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) for x in row):
            raise ValueError(f"expected vectors of numbers, found v_{i} = {row!r}")
        if len(row) != len(rows[0]):
            raise ValueError(f"expected vectors of one length, found {len(rows[0])} and {len(row)} (v_1 and v_{i})")
    for i, v in enumerate(rows, start=1):
        for j, w in enumerate(rows[:i], start=1):
            product = math.fsum(a * b for a, b in zip(v, w, strict=True))
            if abs(product - (i == j)) > TOLERANCE:
                raise ValueError(
                    f"expected orthonormal vectors, found <v_{j}, v_{i}> = {product:.6g} instead of {int(i == j)}"
                )
    return tuple(tuple(row) for row in rows)


Distribution = Annotated[Literal["balanced"] | Probability | tuple[float, ...], BeforeValidator(_distribution)]
Vectors = Annotated[Literal["dense", "basis"] | tuple[tuple[float, ...], ...], BeforeValidator(_vectors)]


class Prompts(Settings):
    """Training on sampled prompts (docs/papers/icl.md, sections 3 and 5)."""

    family: ClassVar[str] = "prompts"
    objectives: ClassVar[Mapping[str, Side]] = {"error": "below", "training_error": "below", "loss": "below"}
    points_per_job: ClassVar[int] = 10

    feature_count: Count = Field(ge=2)
    dimension: Count
    features: Vectors
    probabilities: Distribution
    context_length: Count
    prompts: Count
    mask_query: bool
    epochs: Count
    record_every: Count
    fresh_prompts: Count
    error_threshold: Probability
    attention_threshold: Probability

    @model_validator(mode="after")
    def _fits(self) -> Prompts:
        if self.feature_count > self.dimension:
            raise ValueError(
                f"feature_count: found {self.feature_count}, expected at most dimension = {self.dimension}, "
                "because the features are orthonormal"
            )
        given = len(self.probabilities) if isinstance(self.probabilities, tuple) else self.feature_count
        if given != self.feature_count:
            raise ValueError(f"probabilities: found {given} numbers, expected feature_count = {self.feature_count}")
        if isinstance(self.features, tuple):
            shape = len(self.features), len(self.features[0])
            if shape != (self.feature_count, self.dimension):
                raise ValueError(
                    f"features: found {shape[0]} vectors of {shape[1]} numbers, expected feature_count = "
                    f"{self.feature_count} vectors of dimension = {self.dimension} numbers"
                )
        return self

    @property
    def distribution(self) -> tuple[float, ...]:
        """The probability p_k of each feature."""
        if isinstance(self.probabilities, tuple):
            return self.probabilities
        count = self.feature_count
        if self.probabilities == "balanced":
            return (1 / count,) * count
        return (self.probabilities, *((1 - self.probabilities) / (count - 1) for _ in range(count - 1)))

    @property
    def recorded(self) -> list[int]:
        """The epochs at which something is recorded: every `record_every`-th and the last."""
        return grids.regular(self.epochs, self.record_every)

    @property
    def checked_at(self) -> int:
        """The place in `recorded` where the closed forms are held against their definitions: early, but not at once."""
        return len(self.recorded) // 8

    @property
    def numbers(self) -> range:
        """The numbers 1 .. K of the features, as the paper counts them and the metrics are indexed."""
        return range(1, self.feature_count + 1)


class PopulationOptions(Options):
    """How long one optimizer runs."""

    iterations: Count


# Longer prompts have more pairs of counts than the exact expectation can visit at every step.
LONGEST = 2000
Length = Literal["infinite"] | Annotated[Count, Field(le=LONGEST)]


class Population(Settings):
    """Descent on the population loss, for several numbers of features and lengths of prompts at once."""

    family: ClassVar[str] = "population"
    options: ClassVar[type[Options]] = PopulationOptions
    objectives: ClassVar[Mapping[str, Side]] = {"mean_error": "below", "error": "below"}
    points_per_job: ClassVar[int] = 10
    without_torch: ClassVar[frozenset[str]] = frozenset({"gd"})

    feature_counts: tuple[Count, ...] = Field(min_length=1)
    context_lengths: tuple[Length, ...] = Field(min_length=1)
    dominant_probability: Probability
    phases_of: Count
    plateau_of: Count
    error_threshold: Probability
    snapshots: Count

    @field_validator("feature_counts")
    @classmethod
    def _enough(cls, counts: Sequence[int]) -> Sequence[int]:
        if min(counts) < 3:
            raise ValueError(f"expected at least 3 features each, found {min(counts)}")
        if list(counts) != sorted(set(counts)):
            raise ValueError(f"expected numbers in increasing order, found {list(counts)}")
        return counts

    @field_validator("context_lengths")
    @classmethod
    def _distinct(cls, lengths: Sequence[Any]) -> Sequence[Any]:
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"expected lengths without repetitions, found {list(lengths)}")
        return lengths

    @model_validator(mode="after")
    def _fits(self) -> Population:
        if not 0 < self.dominant_probability < 1:
            raise ValueError(f"dominant_probability: found {self.dominant_probability}, expected between 0 and 1")
        for name in ("phases_of", "plateau_of"):
            if getattr(self, name) not in self.feature_counts:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected one of feature_counts = {list(self.feature_counts)}"
                )
        return self

    def needs(self) -> Needs:
        """What a training job asks of the machine, more where torch is imported."""
        return Needs(mem_mb=335, torch_mb=150)

    def route(self, optimizer: Optimizer[PopulationOptions]) -> Literal["fast", "plain"]:
        """Fast for rules that move each entry by its own gradient, or that commute with rotations; see `carried`."""
        return "plain" if self.carried(optimizer) == "matrices" else "fast"

    def carried(self, optimizer: Optimizer[PopulationOptions]) -> Literal["entries", "coordinates", "matrices"]:
        """Which parameters a rule moves (docs/papers/icl.md, section 6.4).

        The classes of columns, coordinates of the K x K matrices whose classes have equal entries, or those matrices.
        """
        traits = optimizer.traits
        if traits.entrywise and not traits.needs_loss:
            return "entries"
        return "coordinates" if traits.rotations else "matrices"

    @property
    def systems(self) -> list[tuple[int, int]]:
        """The pairs of a number of features K and a prompt length N; 0 stands for prompts of any length."""
        lengths = [0 if length == "infinite" else length for length in self.context_lengths]
        return [(count, length) for count in self.feature_counts for length in lengths]


KINDS: dict[str, type[Settings]] = {"prompts": Prompts, "population": Population}
DRAWINGS = {
    "fig1": (Population,),
    "fig2": (Prompts, Prompts),
    "fig3": (Prompts, Prompts),
    "extra_ten_features": (Prompts, Prompts),
    "extra_plateau": (Population, Population),
    "extra_scaling": (Population,),
    "extra_trap": (Prompts, Prompts),
}
