"""An entry under `optimizers`: a rule with its hyper-parameters, and what a room adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from workflow.lib import optim
from workflow.lib.errors import UserError, unknown
from workflow.lib.optim.traits import Traits
from workflow.lib.plan.checking import checked, named
from workflow.lib.plan.evidence import Model, Setting, at

if TYPE_CHECKING:
    import torch

# Labels that the tables of metrics, and numbers in captions, use for something else.
RESERVED = ("data", "nan")


class Options(BaseModel):
    """What a paper lets each optimizer entry set beyond the optimizer's own hyper-parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


O = TypeVar("O", bound=Options, default=Any)  # noqa: E741


class Optimizer(Model, Generic[O]):
    """An entry under `optimizers`: a rule with its hyper-parameters, and the room's own options.

    `start_from` is the label of the entry whose runs end where these begin, None where they begin on their own.
    """

    label: str
    rule: str
    start_from: str | None = None
    given: Mapping[str, Setting]
    hyperparameters: Mapping[str, Any]
    options: O

    @classmethod
    def read(cls, label: str, entry: Any, options: type[Options], where: str) -> Optimizer:
        """Check one entry.

        Raises:
            UserError: naming the key, what was found and what is allowed.
        """
        if named(label, where) in RESERVED:
            raise UserError(f"{where}: the label {label!r} is taken; choose another one with `rule:`")
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{where}: expected a mapping of hyper-parameters to values, which may be empty ({{}}); found {entry!r}"
            )
        given = {key: Setting.read(value, f"{where}.{key}") for key, value in entry.items()}
        if isinstance(entry.get("rule"), str):  # a name, not a number: nothing to give evidence for
            given["rule"] = given["rule"].model_copy(update={"source": "choice"})
        rule = given["rule"].value if "rule" in given else label
        with at(where):
            known = optim.hyperparameters(rule)
        start = given["start_from"].value if "start_from" in given else None
        if not isinstance(start, str | None):
            raise UserError(f"{where}.start_from: expected the label of another entry; found {start!r}")
        values = {key: setting.value for key, setting in given.items() if key not in ("rule", "start_from")}
        anything = known.model_config.get("extra") == "allow"
        for key in values:
            if key not in known.model_fields and key not in options.model_fields and not anything:
                allowed = [*known.model_fields, *options.model_fields]
                raise UserError(f"{where}: {unknown('hyper-parameter', key, allowed)}")
        rest = {k: v for k, v in values.items() if k in options.model_fields and k not in known.model_fields}
        own = checked(known, {k: v for k, v in values.items() if k not in rest}, where, "hyper-parameter")
        hyperparameters = {key: getattr(own, key) for key in (*known.model_fields, *(own.model_extra or ()))}
        with at(where):
            optim.check(rule, hyperparameters)
        return cls(
            label=label,
            rule=rule,
            start_from=start,
            given=given,
            hyperparameters=hyperparameters,
            options=checked(options, rest, where, "option"),  # type: ignore[arg-type]  # of the kind's own class
        )

    @property
    def traits(self) -> Traits:
        """What a room has to know of the rule with these hyper-parameters."""
        return optim.traits(self.rule, self.hyperparameters)

    def try_step(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a rule that cannot move parameters of these shapes, by what messages call them (`optim.try_step`)."""
        optim.try_step(self.rule, self.hyperparameters, shapes)

    def build(self, parameters: Any, *, stacked: bool = False, **more: Any) -> torch.optim.Optimizer:
        """Make the torch optimizer for some parameters, with some hyper-parameters changed; see `optim.build`."""
        return optim.build(self.rule, parameters, stacked=stacked, **{**self.hyperparameters, **more})
