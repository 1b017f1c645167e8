"""The file that a training keeps its state in, to go on after a kill with the numbers it would have had."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.lib import optim, sources
from workflow.lib.contract import Job
from workflow.lib.files import Arrays, atomic, set_aside
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer


class Checkpoint:
    """The states of the parts of a job that were begun, by name, as long as nothing that they hang on has changed.

    Args:
        path: the file; None to keep nothing.
        signature: a digest of everything that the numbers depend on.

    A file that cannot be read is moved aside, and the training begins anew.
    """

    def __init__(self, path: Path | None, signature: str) -> None:
        self._path = path
        self._signature = signature
        self._states: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        with path.open("rb") as file:
            try:
                found = torch.load(file, map_location="cpu", weights_only=True)
                same = found["signature"] == signature
            except MemoryError:  # it may be whole
                raise
            except Exception:  # torch raises many kinds, all about the same file
                told = f"{path}: was cut short or is no checkpoint. It is {set_aside(path)} now; beginning anew"
                print(told, file=sys.stderr)
                return
        if same:
            self._states = found["states"]
            print(f"going on from the checkpoint {path}", file=sys.stderr)
        else:
            print(f"the checkpoint {path} is of other settings, data or code; beginning anew", file=sys.stderr)

    def load(self, part: object) -> Mapping[str, Any] | None:
        """The state of a part, or None if it was not begun."""
        return self._states.get(str(part))

    def save(self, part: object, state: dict[str, Any]) -> None:
        """Keep the state of a part beside those of the others."""
        if self._path is None:
            return
        self._states[str(part)] = state
        whole = io.BytesIO()
        torch.save({"signature": self._signature, "states": self._states}, whole)
        with atomic(self._path) as temporary:  # written by Python, so that a full disk is the OSError it is everywhere
            temporary.write_bytes(whole.getbuffer())


def signature(experiment: Experiment, optimizer: Optimizer, data: Mapping[int, Arrays], job: Job, device: str) -> str:
    """A digest of settings, data, start, code and torch's version."""
    digest = hashlib.sha256(f"{experiment}{optimizer}{device}{torch.__version__}".encode())
    for path in sources.modules(f"{__package__}.training", *optim.files(optimizer.rule)):
        digest.update(path.read_bytes())
    for number, arrays in data.items():
        digest.update(f"seed {number}".encode())
        _add(digest, arrays.items())
    _add(digest, (job.start or {}).items())
    return digest.hexdigest()


def _add(digest: Any, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    for name, array in arrays:
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
