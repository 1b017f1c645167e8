"""A value and its evidence, the base class of the plan's models, and where a mistake is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workflow.lib.errors import UserError
from workflow.lib.plan.checking import checked

Source = Literal["paper", "inferred", "recalled", "derived", "choice", "user"]


class Model(BaseModel):
    """The base class: unknown keys are errors, and nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Say where a mistake is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


class Setting(Model):
    """A value with its evidence."""

    value: Any
    source: Source = Field("user", description="one of paper, inferred, recalled, derived, choice, user")
    where: str = ""

    @classmethod
    def read(cls, found: Any, where: str) -> Setting:
        """A setting from `{value, source, where}` or from a bare value, which is the user's."""
        told = isinstance(found, Mapping) and bool({"value", "source", "where"} & set(found))
        return checked(cls, found if told else {"value": found}, where)

    @property
    def told(self) -> str:
        """The value as a reader of YAML writes it; of a number at most ten digits, so that 0.1 + 0.2 is 0.3.

        >>> Setting(value=[0.1 + 0.2, 20, None]).told, Setting(value="dense").told
        ('[0.3, 20, null]', 'dense')
        """
        if isinstance(self.value, str):
            return self.value
        return json.dumps(_rounded(self.value), ensure_ascii=False, default=str)

    def bare(self) -> Any:
        """The value alone, in a form that `read` takes."""
        return {"value": self.value} if isinstance(self.value, Mapping) else self.value


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
