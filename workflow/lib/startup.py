"""What jobs do to be faster, in one place. Nothing here touches a process that is no such job.

CPU seconds saved for each training job, on one core of a small machine:

* torch's optimizer base class imports torch's compiler                      1.4
* the decorator of its own rules' `step` (Adam) does so too, on the first step    1.3 (once, whichever comes first)
* torch imports what it says of tensors without numbers, for compilers and exports        0.6
* it wraps every `step` in a profiler record and hooks        as much as a step on a small problem
* freed memory of some hundred KB goes back to the system, which clears it page by page at the next step
  (`keep_memory`)                                           a seventh of a step of three stacked tiny BERTs

for each drawing job

* matplotlib, imported, writes its artists' docstrings: tables of all their properties        0.15
* a PDF's fonts are cut to the letters used, with tables for setting text that no reader of a PDF asks for        0.12
* each renderer parses all formulas anew, and a figure has one for its layout and one for its PDF        0.09

and for each job

* pydantic looks for plugins among all installed packages, with a module that imports those of e-mail        0.03

How planning does without torch is in `workflow.lib.optim._reading`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_training = False
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


class _NoPlugins(ModuleType):
    """Pydantic's module that looks for plugins, finding none; whatever else is asked of it, it is itself."""

    get_plugins = tuple

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # an import asks whether this is a package
            raise AttributeError(name)
        del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def begin() -> None:
    """Say that this process is a job, before it imports what it needs."""
    name = "pydantic.plugin._loader"
    if name not in sys.modules:
        sys.modules[name] = _NoPlugins(name)


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


# What torch knows of the shapes that its operations give to tensors without numbers; and the members of the circle of
# imports around it that cannot be imported before it.
_SHAPES_ALONE = "torch._meta_registrations"
_AFTER_IT = ("torch._decomp", "torch._prims", "torch._refs", "torch.utils._content_store")


@contextmanager
def without_shapes_alone(rule: str, device: str) -> Iterator[None]:
    """Let a training on the CPU import torch without its rules for tensors that have shapes and no numbers.

    Not for a rule from elsewhere, which may compile or export; nothing of this library does. Whatever asks for a part
    of them later (transformers does) gets them all.

    Args:
        rule: the optimizer's.
        device: where it trains.
    """
    foreign = "." in rule and not rule.startswith("torch.optim.")
    if not _training or foreign or device != "cpu" or "torch" in sys.modules:
        yield
        return
    sys.modules[_SHAPES_ALONE] = ModuleType(_SHAPES_ALONE)
    try:
        yield
    finally:
        del sys.modules[_SHAPES_ALONE]
        if "torch" in sys.modules:  # a training that needs none may have one in its process that does
            sys.meta_path.insert(0, _Later())


class _Later(MetaPathFinder, Loader):
    """Enters the circle of imports where torch does, when a part of it is asked for, and then finds that part there."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in (_SHAPES_ALONE, *_AFTER_IT):
            return None
        sys.meta_path.remove(self)
        if name == _SHAPES_ALONE:
            return None
        importlib.import_module(_SHAPES_ALONE)
        spec = sys.modules[name].__spec__
        if spec is not None:
            spec.loader = self  # the import that asked goes on with this very spec, and is not to execute it again
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It was executed as a part of the circle."""


def begin_drawing() -> None:
    """Say that this process is a drawing job, before it imports what draws."""
    from matplotlib import artist

    silent: Any = artist.Artist
    if hasattr(silent, "_update_set_signature_and_docstring"):
        silent._update_set_signature_and_docstring = classmethod(lambda _: None)
    for name in ("Substitution", "_ArtistPropertiesSubstitution"):
        if writer := getattr(sys.modules.get("matplotlib._docstring"), name, None):
            writer.__call__ = lambda _, documented: documented

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
