"""The settings of the sparse contextual bigram experiments (docs/papers/scb.md, sections 3 and 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from workflow.lib.errors import UserError
from workflow.lib.number_types import Count, Index, NonNegative, Positive, Probability
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.settings import Needs, Settings, Side

SwitchRule = Literal["largest_deviations", "largest", "robust_deviations", "share_of_largest", "threshold"]


class RunOptions(Options):
    """What an optimizer entry says beyond its step rule.

    Runs begin at step 0 with uniform attention and a share `pretrained` of the true transitions, and end at
    `iterations`; those with `boosting` end at `boosting_steps`, and others go on from there (`start_from`), after the
    stage switch where `switch` says so. `attention` says whether the attention is a free matrix or the softmax of one;
    `attention_factor` multiplies its step size. `rounding` keeps the largest entries of the attention for the last
    `rounding_steps`, in which only the value matrix moves.
    """

    boosting: bool = False
    switch: bool = False
    attention: Literal["linear", "softmax"] = "linear"
    attention_factor: Positive = 1.0
    pretrained: Probability = 0.0
    rounding: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RunOptions:
        if self.boosting and (self.switch or self.rounding):
            raise ValueError("boosting: these runs end before the switch and the rounding; found true for two of them")
        if self.rounding and self.attention == "softmax":
            raise ValueError("rounding: only linear attention can be rounded; found attention 'softmax'")
        return self


class Bigram(Settings):
    """A sparse contextual bigram and its training.

    Sequences of `positions` tokens over `states` states are drawn from the stationary distribution of a
    transition matrix; the last token chooses which `support` positions the next token depends on. The matrix is
    `transition` (row i: the distribution after state i), or when that is null, rows drawn from a symmetric
    Dirichlet distribution until the correlation K_P reaches `minimum_correlation`. The weights of the positions
    are equal when `weight_concentration` is null, else Dirichlet.

    The first stage, boosting, ends after `boosting_steps`. At the switch each row of the attention keeps the entries
    that `switch_rule` says (`problem.kept_entries`), some rules by a `switch_level`, which is null for the others.
    """

    options = RunOptions
    without_torch: ClassVar[frozenset[str]] = frozenset({"gd", "preconditioned_prox"})
    objectives: ClassVar[Mapping[str, Side]] = {
        "value_distance": "below",
        "attention_distance": "below",
        "loss": "below",
    }

    states: Annotated[Count, Field(ge=2, le=256)]
    positions: Count
    support: Count
    batch_size: Count
    iterations: Count
    boosting_steps: Index
    switch_rule: SwitchRule
    switch_level: Positive | None
    rounding_steps: Index
    transition: list[list[NonNegative]] | None
    transition_concentration: Positive
    minimum_correlation: NonNegative
    weight_concentration: Positive | None
    record_every: Count

    @field_validator("transition")
    @classmethod
    def _stochastic(cls, rows: list[list[float]] | None) -> list[list[float]] | None:
        if rows is None:
            return None
        for index, row in enumerate(rows):
            if len(row) != len(rows):
                raise ValueError(f"expected a square matrix; found {len(row)} numbers in row {index} of {len(rows)}")
            if abs(sum(row) - 1) > 1e-9:
                raise ValueError(f"expected rows that sum to 1; found the sum {sum(row):.6g} in row {index}")
        if all(math.isclose(a, b, abs_tol=1e-9) for row in rows for a, b in zip(row, rows[0], strict=True)):
            raise ValueError("expected rows that differ, because with equal ones no token tells anything of the next")
        from workflow.lib.papers.scb.problem import stationary

        zeros = (stationary(rows) <= 0).nonzero()[0]
        if zeros.size:
            raise ValueError(
                f"expected a stationary distribution mu without zeros, because the gradients are divided by it; "
                f"found mu = 0 at state {zeros[0]}"
            )
        return rows

    @model_validator(mode="after")
    def _consistent(self) -> Bigram:
        if self.support > self.positions:
            raise ValueError(f"support: expected at most positions = {self.positions}, found {self.support}")
        if self.support == self.positions and (self.weight_concentration is None or self.positions == 1):
            raise ValueError(
                f"support: expected fewer than positions = {self.positions}, because equal weights on all of them are "
                f"the attention that training starts from; found {self.support}"
            )
        if self.boosting_steps > self.iterations:
            raise ValueError(
                f"boosting_steps: the switch lies beyond the end; expected at most iterations = {self.iterations}, "
                f"found {self.boosting_steps}"
            )
        if self.boosting_steps + self.rounding_steps > self.iterations:
            raise ValueError(
                f"rounding_steps: expected at most iterations - boosting_steps = "
                f"{self.iterations - self.boosting_steps}, found {self.rounding_steps}"
            )
        if self.switch_rule.startswith("largest") != (self.switch_level is None):
            expected = "null" if self.switch_level is not None else "a number"
            raise ValueError(
                f"switch_level: expected {expected} for the rule {self.switch_rule}; found {self.switch_level}"
            )
        if self.transition is not None and len(self.transition) != self.states:
            raise ValueError(f"transition: expected {self.states} rows (states), found {len(self.transition)}")
        if self.transition is None:
            import numpy as np

            from workflow.lib.papers.scb.problem import draw_transition

            try:
                draw_transition(*self.drawn, np.random.default_rng(0), self.tries)
            except UserError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def drawn(self) -> tuple[int, float, float]:
        """What random transitions are drawn by: N, the concentration of their rows, and the least correlation."""
        return self.states, self.transition_concentration, self.minimum_correlation

    @property
    def tries(self) -> int:
        """How many random transitions planning draws at most: fewer large ones, which are more alike."""
        return max(10, 2000 // self.states)

    def route(self, optimizer: Optimizer[RunOptions]) -> Literal["fast", "plain"]:
        """Fast for every rule: the compiled gradients are those of A (or its logits) and V as they are."""
        if optimizer.options.switch and optimizer.start_from is None:
            raise UserError("switch: only runs that go on from boosted ones (start_from) go through the switch")
        if optimizer.options.attention_factor != 1 and "lr" not in optimizer.hyperparameters:
            raise UserError(f"attention_factor: the rule {optimizer.rule} has no lr that it could multiply")
        return "fast"

    def check_start(self, optimizer: Optimizer[RunOptions], start: Optimizer[RunOptions]) -> None:
        """Runs go on from boosting ones, with linear attention and all that was learned."""
        if not start.options.boosting:
            raise UserError(f"expected runs with `boosting`; those of {start.label!r} go on to the end themselves")
        for name in ("boosting", "pretrained"):
            if getattr(optimizer.options, name):
                raise UserError(f"a run that goes on from another one has no {name!r} of its own")
        if optimizer.options.attention == "softmax":
            raise UserError("softmax attention starts from scratch, because its logits are not those of a boosted run")

    def needs(self) -> Needs:
        """What a training job asks of the machine: time grows with tokens, memory with positions."""
        tokens = self.iterations * self.batch_size * self.positions
        mem_mb = 370 + self.positions * self.states // 1000
        return Needs(mem_mb, seed_mb=1, torch_mb=150, runtime=10 + int(tokens / 1e10))


class Checks(Bigram):
    """A small bigram on which the formulas themselves are checked.

    `samples` sequences estimate expectations; gradients and losses are taken at random parameters that lie
    `scale` away from the start.
    """

    samples: Count
    scale: Positive

    def needs(self) -> Needs:
        """What a job asks of the machine: little, as nothing is trained."""
        return Needs(mem_mb=300, seed_mb=1)


KINDS: dict[str, type[Settings]] = {"bigram": Bigram, "checks": Checks}
DRAWINGS: dict[str, tuple[Any, ...]] = {
    "fig1": (Bigram, Bigram),
    "fig2": (Bigram,),
    "fig3": (Bigram, Bigram),
    "fig4": (Bigram, Bigram),
    "fig5": (Bigram, Bigram),
    "fig6": (Bigram, Bigram),
    "extra_switch": (Bigram, ...),
    "extra_baselines": (Bigram,),
    "extra_transfer": (Bigram,),
    "extra_long": (Bigram,),
    "extra_alignment": (Bigram,),
}
