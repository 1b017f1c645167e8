"""How the loops of a room's `kernels` are compiled, cached, and loaded again without what only compiling needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys

Function = TypeVar("Function", bound=Callable[..., object])
# NaN and infinity keep their meaning: runs may diverge. (Caches of `kernels` do not notice a change here.)
_LOOSE = {"reassoc", "contract", "nsz"}
# `_Cache` goes into what numba keeps to itself: with any other release, compiled loops are loaded as numba does it.
_KNOWN = "0.68."


def compiled(function: Function) -> Function:
    """Compile with vectorised sums (the order of summation is fixed, but not left to right).

    Compiled code is cached beside its file or in the user's cache folder; without a writable one it is
    compiled anew by every process.
    """
    try:
        found = numba.njit(function, cache=True, fastmath=_LOOSE)
    except RuntimeError:
        _without_scipy()
        return cast(Function, numba.njit(function, fastmath=_LOOSE))
    # Without `py_func` numba was told not to compile.
    if hasattr(found, "py_func") and numba.__version__.startswith(_KNOWN):
        found._cache = _Cache(found.py_func)  # type: ignore[no-untyped-call]
    return cast(Function, found)


def part(function: Function) -> Function:
    """A part of a compiled function, which takes its lines in.

    Were it compiled by itself, a process that compiles would call that code, and one that loads its caller from the
    cache would call the caller's own copy: two orders of summation, which differ in the last digits.
    """
    return cast(Function, numba.njit(function, fastmath=_LOOSE, inline="always"))


class _Cache(FunctionCache):
    """numba's own, but what it knows of types and functions is read in only where something has to be compiled.

    numba reads it before it looks into the cache, which takes as long as some hundred steps of training.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, or None."""
        target_context.refresh = lambda: rtsys.initialize(target_context)  # memory alone
        try:
            found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        finally:
            del target_context.refresh
        if found is None:
            _without_scipy()
        return found


def _without_scipy() -> None:
    """Let numba load its matrix routines without scipy, whose import takes longer than a training here.

    numba looks for scipy's BLAS when it loads them, and does without it where there is none; no loop of a room calls
    it. Where scipy was imported before, nothing is spared and nothing changes.
    """
    blas = "scipy.linalg.cython_blas"
    if "scipy.linalg" in sys.modules:
        return
    # With None in its place, its import fails.
    sys.modules[blas] = None  # type: ignore[assignment]
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[blas]
