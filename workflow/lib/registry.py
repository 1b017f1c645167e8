"""A dictionary that functions enter by decoration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


class Registry(dict[str, Function]):
    """Name -> function, filled by `@registry("name")`.

    >>> square = Registry()
    >>> @square("two")
    ... def two(): return 4
    >>> square["two"]()
    4
    """

    def __call__(self, name: str) -> Callable[[Function], Function]:
        """Enter the decorated function under a name that is not taken."""

        def enter(function: Function) -> Function:
            if name in self:
                raise ValueError(f"{name!r} is registered twice")
            self[name] = function
            return function

        return enter
