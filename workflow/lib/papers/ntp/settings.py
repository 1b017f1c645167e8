"""The kinds of experiment of this paper: two-stage training on a random or on a spelled-out data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from workflow.lib.errors import UserError
from workflow.lib.number_types import Count, NonNegative, Positive
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.settings import Needs, Settings, Side


class TwoStageOptions(Options):
    """The optimizer's own `lr` serves stage 1 (values); `lr_kq`, where it is given, stage 2 (keys and queries)."""

    lr_kq: Positive | None = None


def learning_rates(optimizer: Optimizer[TwoStageOptions]) -> tuple[float, float]:
    """The `lr` of stage 1 and of stage 2; NaN for a rule without one."""
    first = float(optimizer.hyperparameters.get("lr", math.nan))
    return first, first if optimizer.options.lr_kq is None else optimizer.options.lr_kq


class TwoStage(Settings):
    """What every two-stage run needs (docs/papers/ntp.md, section 5).

    The entries of both matrices start uniform in (-`init_scale`, `init_scale`): at 0 from zero, as Algorithm 1 prints.
    """

    options = TwoStageOptions
    objectives: ClassVar[Mapping[str, Side]] = {
        "loss_ov": "below",
        "cos_ov": "above",
        "loss": "below",
        "cos_kq": "above",
    }
    points_per_job = 10

    steps_ov: Count
    steps_kq: Count
    init_scale: NonNegative

    def dimension(self, vocabulary_size: int) -> int:
        """The embedding dimension d for a vocabulary: as small as orthonormal tokens allow, unless the kind says."""
        return vocabulary_size

    def route(self, optimizer: Optimizer[TwoStageOptions]) -> Literal["fast", "plain"]:
        """Fast for every rule: both stages move the whole matrices, with a loss for each run."""
        if optimizer.options.lr_kq is not None and "lr" not in optimizer.hyperparameters:
            raise UserError(f"lr_kq: the rule {optimizer.rule} has no lr that it could take the place of")
        return "fast"

    def needs(self) -> Needs:
        """What a training job asks of the machine: each seed has its curves, of some 40 numbers a step, and copies."""
        return Needs(seed_mb=2 + (self.steps_ov + self.steps_kq) * 40 * 8 / 1e6)


class RandomSentences(TwoStage):
    """A random realizable data set: every one-token sentence, and random longer ones (section 3)."""

    vocabulary_size: Count = Field(ge=2, le=150)  # metrics list all sentences of three tokens
    embedding_dimension: Count
    sentences: Count
    lengths: tuple[Count, ...] = Field(min_length=1)

    def dimension(self, vocabulary_size: int) -> int:
        """The embedding dimension d."""
        return self.embedding_dimension

    @model_validator(mode="after")
    def _possible(self) -> RandomSentences:
        size = self.vocabulary_size
        if self.embedding_dimension < size:
            raise ValueError(
                f"embedding_dimension: found {self.embedding_dimension}, expected at least vocabulary_size = {size}, "
                "because Assumption 2 asks for orthonormal tokens"
            )
        if not all(2 <= length <= size for length in self.lengths):
            raise ValueError(
                f"lengths: found {list(self.lengths)}, expected each between 2 and vocabulary_size = {size}"
            )
        distinct = sum(math.perm(size, length) for length in set(self.lengths))
        if self.sentences > distinct:
            raise ValueError(
                f"sentences: found {self.sentences}, but only {distinct} distinct sentences of these lengths exist"
            )
        return self


class Strings(TwoStage):
    """A data set spelled out in strings, one letter a token; every proper prefix is followed by its next letter.

    A probe is an unseen sentence with its expected next letter at the end.
    """

    strings: tuple[str, ...] = Field(min_length=1)
    probes: tuple[str, ...]

    @field_validator("strings", "probes")
    @classmethod
    def _long_enough(cls, strings: tuple[str, ...]) -> tuple[str, ...]:
        for string in strings:
            if len(string) < 2:
                raise ValueError(f"expected strings of at least 2 letters, found {string!r}")
        return strings

    @model_validator(mode="after")
    def _realizable(self) -> Strings:
        from workflow.lib.papers.ntp import language

        try:
            data, alphabet = language.from_strings(self.strings)
            language.encode(self.probes, alphabet)
        except UserError as error:
            raise ValueError(str(error)) from None
        if data.vocabulary_size < 2 or (broken := language.violations(data)):
            reason = "one letter alone has nothing to be told from" if data.vocabulary_size < 2 else broken[0]
            raise ValueError(f"strings: expected data that are realizable (Assumptions 1 and 3); {reason}")
        return self


KINDS: dict[str, type[Settings]] = {"random_sentences": RandomSentences, "strings": Strings}
DRAWINGS = {
    "fig1": (Strings,),
    "fig2": (TwoStage,),
    "extra_zero_init": (TwoStage, ...),  # the first is drawn; where the others end is told
    "extra_rates": (TwoStage, TwoStage),
    "extra_dataset_shift": (TwoStage,),
}
