"""The number types of settings and hyper-parameters: what YAML and the command line may give for each.

Imported while the workflow plans its jobs, so nothing heavy (torch, pandas) is imported here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from workflow.lib.errors import shortened

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
# Beyond this a float is no longer exact, and no count means anything.
_LARGEST = 10**15


def number(value: Any) -> Any:
    """Read `1e-5`, which YAML takes for a text, as the number it is; refuse true and false. Types are checked later."""
    if isinstance(value, bool):
        raise ValueError("expected a number, found true or false")
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ValueError(f"expected a number, found the text {shortened(value)}")
        return float(value)
    if isinstance(value, list):
        raise ValueError(f"expected a number, found {shortened(value)}; several in turn are a sweep: {{sweep: [...]}}")
    if value is None:
        raise ValueError("expected a number, found null")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"expected a number with a decimal point or e, or a smaller one; found {shortened(value)}")
    return value


def _whole(value: Any) -> Any:
    """Read a whole number given as text, as `--config` passes it; refuse everything else but whole numbers."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number{_whole_form(value)}, found {shortened(value)}")
    if abs(value) > _LARGEST:
        raise ValueError(f"expected a whole number of at most 10^15, found {shortened(value)}")
    return value


def _whole_form(value: Any) -> str:
    """How a whole number that was written as another kind of value is to be written."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    return f" such as {value:.0f}" if isinstance(value, float) and abs(value) < _LARGEST and value.is_integer() else ""


_Number = BeforeValidator(number)
_Whole = BeforeValidator(_whole)

Real = Annotated[float, _Number, Field(allow_inf_nan=False)]
Positive = Annotated[float, _Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, _Number, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, _Number, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, _Number, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, _Whole, Field(gt=0)]
Index = Annotated[int, _Whole, Field(ge=0)]
Whole = Annotated[int, _Whole]
