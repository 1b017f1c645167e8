"""Typed settings: the base class of every paper's settings and the number types they are made of.

Imported while the workflow plans its jobs, so nothing heavy (torch, pandas) is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from workflow.lib.errors import UserError

if TYPE_CHECKING:
    from workflow.lib.plan.model import Optimizer


def _number(value: Any) -> Any:
    """Read `1e-5`, which YAML takes for a text, as the number it is; refuse true and false."""
    if isinstance(value, bool):
        raise ValueError("expected a number, found true or false")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"expected a number, found the text {value!r}") from None
    return value


def _whole(value: Any) -> Any:
    """Read a whole number given as text, as `--config` passes it; refuse everything else but whole numbers."""
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, found {value!r}")
    return value


_Number = BeforeValidator(_number)
_Whole = BeforeValidator(_whole)

Real = Annotated[float, _Number, Field(allow_inf_nan=False)]
Positive = Annotated[float, _Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, _Number, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, _Number, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, _Whole, Field(gt=0)]
Index = Annotated[int, _Whole, Field(ge=0)]
Whole = Annotated[int, _Whole]


class Needs(NamedTuple):
    """What one training job asks of the machine: memory in MB, run time in minutes, cores, GPUs."""

    mem_mb: int = 1000
    runtime: int = 10
    threads: int = 1
    gpu: int = 0


class Options(BaseModel):
    """What a paper lets each optimizer entry set beyond the optimizer's own hyper-parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(BaseModel):
    """The settings of one kind of experiment. Unknown keys are errors; cross-field checks go in validators.

    `family` names the folder inside the paper's room that holds this kind's data, training and metrics
    modules, for papers with several families of experiments; empty for the room itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    family: ClassVar[str] = ""
    options: ClassVar[type[Options]] = Options

    def downloads(self) -> tuple[str, ...]:
        """The real data sets (of workflow.lib.datasets) that these settings read."""
        return ()

    def check_start(self, optimizer: Optimizer, start: Optimizer) -> None:
        """Refuse, while planning, that an optimizer's runs go on from the end of another's (`start_from`).

        A kind of experiment whose training uses `Job.start` says here what it can go on from.

        Raises:
            UserError: with the reason; the plan adds the entry's name.
        """
        raise UserError("in experiments of this kind all runs start on their own")

    def needs(self) -> Needs:
        """What a training job with these settings asks of the machine."""
        return Needs()

    def route(self, optimizer: Optimizer) -> Literal["fast", "plain"]:
        """How the training carries a rule, told from its `traits` and `options` while planning, without torch.

        Returns:
            `fast`, or `plain` where the kind's shortcuts would not be right for the rule.

        Raises:
            UserError: with the reason, where the rule cannot run at all; the plan adds the entry's name.
        """
        return "fast"
