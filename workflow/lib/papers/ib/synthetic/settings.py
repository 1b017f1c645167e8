"""The settings of the synthetic experiments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from workflow.lib.number_types import Count, NonNegative, Positive
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.settings import Needs, Settings, Side

# A token's place in its sequence, counted from 1 as in the paper, or "random": any place, drawn per sequence.
Place = Annotated[Literal["random"] | Annotated[int, Field(ge=1, strict=True)], Field(union_mode="left_to_right")]


class Iterations(Options):
    """How long an optimizer runs."""

    iterations: Count


class JointIterations(Iterations):
    """How long an optimizer runs, and what it sees as parameters.

    `groups`: "joint" is W and u in one parameter group, "separate" one group each, with a norm each for rules whose
    `norm` is `per_group`.
    """

    groups: Literal["joint", "separate"] = "joint"


class Sequences(Settings):
    """Sequences of one signal among noise tokens, and where training starts (docs/papers/ib.md, section 3.1).

    Attributes:
        samples: n, the number of sequences; their labels alternate.
        tokens: T, the length of each sequence.
        dimension: d, of a token.
        signals: whether the two signals are orthogonal or antipodal.
        signal_norm: U, the norm of a signal.
        noise_norm: rho, the root mean square norm of a noise token.
        equal_scores: project the noise off the signals, so that all non-optimal tokens score 0.
        optimal_position: place of the signal; "random" draws it among tokens 2 .. T.
        query_position: place of the query; "random" draws it among all tokens.
        initial_norm: Frobenius norm of a Gaussian W_0; 0 starts at zero.
    """

    family: ClassVar[str] = "synthetic"
    options: ClassVar[type[Options]] = Iterations
    objectives: ClassVar[Mapping[str, Side]] = dict.fromkeys(("gap", "loss", "distraction", "misalignment_w"), "below")
    points_per_job: ClassVar[int] = 10
    without_torch: ClassVar[frozenset[str]] = frozenset({"gd", "ngd", "led_ngd", "polyak"})

    samples: Count
    tokens: Annotated[int, Field(ge=2, strict=True)]
    dimension: Count
    signals: Literal["orthogonal", "antipodal"]
    signal_norm: Annotated[Positive, Field(ge=1e-30, le=1e30)]
    noise_norm: Annotated[Positive, Field(ge=1e-30, le=1e30)]
    equal_scores: bool
    optimal_position: Place
    query_position: Place
    initial_norm: NonNegative

    @model_validator(mode="after")
    def _fits(self) -> Sequences:
        for name in ("optimal_position", "query_position"):
            place = getattr(self, name)
            if place != "random" and place > self.tokens:
                raise ValueError(f"{name}: expected a place from 1 to tokens = {self.tokens}, found {place}")
        if self.noise_norm < 1e-6 * self.signal_norm:
            raise ValueError(
                f"noise_norm: expected at least a millionth of signal_norm = {self.signal_norm:g}, because rounding "
                f"hides smaller noise from the max-margin problem; found {self.noise_norm:g}"
            )
        needed = self.samples * (self.tokens - 1) + 2
        if self.dimension < needed:
            raise ValueError(
                f"dimension: found {self.dimension}; expected at least samples * (tokens - 1) + 2 = {needed}, so that "
                "noise tokens and signals are linearly independent and the max-margin problem has a solution"
            )
        return self

    def needs(self) -> Needs:
        """What a training job asks of the machine, more where torch is imported."""
        return Needs(mem_mb=320, torch_mb=180)

    def variants(self) -> Mapping[str, Sequences]:
        """The data settings of this experiment by the index of their metrics: one, without an index."""
        return {"": self}

    def route(self, optimizer: Optimizer[Any]) -> Literal["fast", "plain"]:
        """Fast in the coordinates of the gradients' span, which only rules that commute with rotations may use.

        A class from elsewhere may also shrink what a start has outside the span, so from there it takes the plain path.
        """
        fast = optimizer.traits.rotations
        if "." in optimizer.rule:
            optimizer.try_step({"W (d x d)": (3, 3), **({"u (d)": (3,)} if isinstance(self, Joint) else {})})
            fast = fast and not any(settings.initial_norm for settings in self.variants().values())
        return "fast" if fast else "plain"


class FixedDecoder(Sequences):
    """W is trained; the decoder u is the unit vector along the difference of the signals."""


class Joint(Sequences):
    """W and the decoder u are trained together; u starts at 0."""

    options: ClassVar[type[Options]] = JointIterations
    objectives: ClassVar[Mapping[str, Side]] = {**FixedDecoder.objectives, "misalignment_u": "below"}


class Variants(Sequences):
    """Fixed-decoder training on several data settings at once, stacked into one set of runs.

    Attributes:
        changes: name -> what differs from the other settings. Samples, tokens and dimension are common to all.
    """

    changes: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _each_valid(self) -> Variants:
        if not self.changes:
            raise ValueError("changes: expected at least one variant, found none")
        for name, change in self.changes.items():
            if not re.fullmatch("[a-z][a-z0-9_]*", name):  # a part of the names of arrays and an index of metrics
                raise ValueError(
                    f"changes: expected names of lower-case letters, digits and underscores that start with a letter; "
                    f"found {name!r}"
                )
            fixed = {"samples", "tokens", "dimension", "changes"} & set(change)
            if fixed:
                raise ValueError(f"changes.{name}: {fixed.pop()} is common to all variants")
            try:
                self._changed(change)
            except ValidationError as error:
                problem = error.errors()[0]
                path = ".".join(["changes", name, *map(str, problem["loc"])])
                message = problem["msg"].removeprefix("Value error, ")
                raise ValueError(f"{path}: {message}; found {problem['input']!r}") from None
        return self

    def _changed(self, change: Mapping[str, Any]) -> FixedDecoder:
        return FixedDecoder.model_validate({**self.model_dump(exclude={"changes"}), **change})

    def variants(self) -> Mapping[str, Sequences]:
        """The data settings by the index of their metrics, such as `query_anywhere`."""
        return {name: self._changed(change) for name, change in self.changes.items()}


def array_name(variant: str, name: str) -> str:
    """What an array of one variant is called among those of all."""
    return f"{variant}.{name}" if variant else name


def arrays_of(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The arrays of one variant, under their own names."""
    prefix = array_name(variant, "")
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


KINDS: dict[str, type[Settings]] = {"fixed_decoder": FixedDecoder, "joint": Joint, "variants": Variants}
DRAWINGS: dict[str, tuple[Any, ...]] = {
    "fig2": (FixedDecoder,),
    "fig3": (FixedDecoder,),
    "fig5": (Joint,),
    "extra_rates": (FixedDecoder, ...),
    "extra_joint_rules": (Joint,),
    "extra_variants": (Variants,),
}
