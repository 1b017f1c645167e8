"""What is seen of a training while it runs: a bar with loss, device and time left; events for TensorBoard if wanted."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from workflow.lib.errors import UserError

LAST = 20  # steps in the running loss, and between two records of events


def check() -> None:
    """Raise a UserError unless events can be written."""
    if find_spec("tensorboardX") is None:
        raise UserError(
            "tensorboard: expected the package tensorboardX, which writes the events; found none. Install it "
            "(`pip install -e .[tensorboard]` in the project's folder), or leave tensorboard at false."
        )


class Watch:
    """A training that is looked at; to be used as a context.

    Args:
        title: what trains.
        total: steps of the whole training.
        done: steps before this beginning.
        device: where it trains.
        seeds: of the runs that train together.
        events: where events go; those of a training that begins anew replace what is there. None for none.
    """

    def __init__(
        self, title: str, total: int, done: int, device: str, seeds: Sequence[int], events: Path | None
    ) -> None:
        from tqdm import tqdm  # not to plan with, where this module is read too and snakemake alone may be installed

        quiet = 0.1 if sys.stderr.isatty() else 10.0  # seconds between updates; a log file needs few
        self.step, self.device, self.seeds = done, device, tuple(seeds)
        self._losses: deque[float] = deque(maxlen=LAST)
        self._bar = tqdm(total=total, initial=done, desc=title, unit="step", mininterval=quiet)
        self._writer: Any = None
        if events is not None:
            check()
            import tensorboardX  # type: ignore[import-untyped]

            if done == 0:
                for old in events.glob("events.out.tfevents.*"):  # these alone: the folder may be any
                    old.unlink()
            self._writer = tensorboardX.SummaryWriter(str(events), purge_step=done + 1, filename_suffix=f".{done}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def stepped(self, loss: str, values: Mapping[str, np.ndarray]) -> None:
        """One step is done.

        Args:
            loss: the name of what the bar shows.
            values: name -> one value per run, shape (runs,).
        """
        self.step += 1
        self._losses.append(float(np.mean(values[loss])))
        if len(self._losses) == 1 or self.step % LAST == 0:
            self.say(f"loss {np.mean(self._losses):.3g}, {self.device}")
            self.record(values)
        self._bar.update()

    def record(self, values: Mapping[str, np.ndarray]) -> None:
        """Write events of this step: name -> one value per run, shape (runs,)."""
        if self._writer is not None:
            for name, row in values.items():
                for seed, value in zip(self.seeds, row, strict=True):
                    self._writer.add_scalar(f"{name}/seed_{seed}", float(value), self.step)

    def say(self, text: str) -> None:
        """Show something behind the bar, from its next update on."""
        self._bar.set_postfix_str(text, refresh=False)
