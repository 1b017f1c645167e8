"""The number types of settings and hyper-parameters: what YAML and the command line may give for each.

Imported while the workflow plans its jobs, so nothing heavy (torch, pandas) is imported here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


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
