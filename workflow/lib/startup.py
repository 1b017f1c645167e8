"""What jobs do to be faster, in one place. Nothing here touches a process that is no such job.

CPU seconds saved, on one core of a small machine; on one machine only the first job of a kind imports (`forks.py`), on
a cluster each does. For a training

* torch's optimizer base class imports torch's compiler                      1.4
* the decorator of its own rules' `step` (Adam) does so too, on the first step    1.3 (once, whichever comes first)
* it wraps every `step` in a profiler record and hooks        as much as a step on a small problem
* freed memory of some hundred KB goes back to the system, which clears it page by page at the next step
  (`keep_memory`)                                           a seventh of a step of three stacked tiny BERTs

and for a drawing

* a PDF's fonts are cut to the letters used, with tables for setting text that no reader of a PDF asks for        0.12
* each renderer parses all formulas anew, and a figure has one for its layout and one for its PDF        0.09

How planning does without torch is in `workflow.lib.optim._reading`.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_training = False
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def begin_training() -> None:
    """Say that this process is a training job, whose optimizers may be spared what nothing in it uses."""
    global _training
    _training = True


def spare() -> None:
    """In a training job, spare the optimizers to come the import of torch's compiler."""
    if _training:
        _spare()


def spared(rule: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The class itself; in a training job a subclass of it whose steps have neither profiler nor hooks.

    It is for the rules of this library and torch's own: another class may count on its hooks and decorators.
    """
    return _spared(rule) if _training else rule  # type: ignore[arg-type]  # classes are hashable


def begin_drawing() -> None:
    """Say that this process is a drawing job."""
    from fontTools.subset import Options
    from matplotlib.mathtext import MathTextParser

    if hasattr(Options, "_drop_tables_default"):
        Options._drop_tables_default = [*Options._drop_tables_default, "GDEF", "GPOS", "GSUB", "MATH"]
    if hasattr(MathTextParser, "_parse_cached"):
        # The cache is one for all parsers, keyed by the parser first: those that parse alike are one.
        parsers: Any = MathTextParser
        parsers.__hash__ = lambda self: hash(self._output_type)
        parsers.__eq__ = lambda self, other: self._output_type == other._output_type


def keep_memory() -> None:
    """In a training job, let the allocator keep what is freed, where it is glibc's."""
    if _training and sys.platform == "linux":
        import ctypes

        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
                library.mallopt(option, 1 << 30)  # bytes


@cache
def _spare() -> None:
    import torch

    # The base class's methods are wrapped so that a compiler leaves them alone, and the wrapper imports the compiler
    # unless its cache holds the ready function.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain


@cache
def _spared(rule: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    import torch

    # Torch's own are wrapped for steps that are differentiated through; ours for `no_grad`, as here.
    step: Any = torch.no_grad()(getattr(rule.step, "__wrapped__", rule.step))
    step.hooked = True  # the mark of torch's wrapper with profiler and hooks
    return type(rule.__name__, (rule,), {"step": step, "__module__": rule.__module__, "__doc__": rule.__doc__})
