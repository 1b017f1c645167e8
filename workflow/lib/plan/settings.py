"""Typed settings: the base class of every paper's settings.

Imported while the workflow plans its jobs, so nothing heavy (torch, pandas) is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from workflow.lib.errors import UserError
from workflow.lib.plan.optimizer import Optimizer, Options

Side = Literal["below", "above"]


class Needs(NamedTuple):
    """What one training job asks of the machine: memory in MB, run time in minutes, cores, GPUs.

    The memory is between once and twice what was measured on the CPU (`python -m tests.budget` tells both): `mem_mb`
    for the libraries and one run, `seed_mb` for each seed of its block; on a GPU the libraries hold `cuda_mb` more, and
    `torch_mb` more where torch takes the steps of a kind that has rules without it.
    """

    mem_mb: int = 500
    seed_mb: float = 10
    cuda_mb: int = 2000
    torch_mb: int = 0
    runtime: int = 10
    threads: int = 1
    gpu: int = 0

    def memory(self, seeds: int, device: str = "cpu") -> int:
        """Memory of a job that trains a block of seeds, in MB."""
        return self.mem_mb + math.ceil(seeds * self.seed_mb) + (0 if device == "cpu" else self.cuda_mb)


class Disk(NamedTuple):
    """What the jobs of a block of seeds write that is large, at most, in bytes.

    data: of the block; results: of each training job; checkpoint: what each of them needs besides while it runs.
    """

    data: int = 0
    results: int = 0
    checkpoint: int = 0


class Settings(BaseModel):
    """The settings of one kind of experiment. Unknown keys are errors; cross-field checks go in validators.

    `family` names the folder inside the paper's room that holds this kind's data, training and metrics modules, for
    papers with several families of experiments; empty for the room itself. `objectives` are the metrics that points of
    a sweep may be compared by, each with the side of a target on which it is good: metrics of runs, at several steps,
    and with several indices only where the worst of them counts. One job trains up to `points_per_job` points, where
    starting it costs more than a run does. Steps of the rules `without_torch` are the kind's own, and import none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    family: ClassVar[str] = ""
    options: ClassVar[type[Options]] = Options
    objectives: ClassVar[Mapping[str, Side]] = {}
    points_per_job: ClassVar[int] = 1
    without_torch: ClassVar[frozenset[str]] = frozenset()

    def downloads(self) -> tuple[str, ...]:
        """The real data sets (of workflow.lib.datasets) that these settings read."""
        return ()

    def check_start(self, optimizer: Optimizer, start: Optimizer) -> None:
        """Refuse, while planning, that an optimizer's runs go on from the end of another's (`start_from`).

        A kind of experiment whose training uses `Job.start` says here what it can go on from.

        Raises:
            UserError: with the reason; the plan adds the entry's name.
        """
        raise UserError("in experiments of this kind all runs start on their own")

    def compared(self, optimizer: Optimizer) -> bool:
        """Whether an entry's runs record the objective; not so for those that are only the start of others."""
        return True

    def needs(self) -> Needs:
        """What a training job with these settings asks of the machine."""
        return Needs()

    def memory(self, rules: Iterable[str], seeds: int, device: str = "cpu") -> int:
        """Memory of a job that trains a block of seeds with some rules, one after another, in MB."""
        needs = self.needs()
        return needs.memory(seeds, device) + (0 if self.without_torch.issuperset(rules) else needs.torch_mb)

    def disk(self, seeds: int) -> Disk:
        """What a block of seeds writes that is worth asking for before a run; nothing, where it is a few megabytes."""
        return Disk()

    def route(self, optimizer: Optimizer) -> Literal["fast", "plain"]:
        """How the training carries a rule, told from its `traits` and `options` while planning, without torch.

        Returns:
            `fast`, or `plain` where the kind's shortcuts would not be right for the rule.

        Raises:
            UserError: with the reason, where the rule cannot run at all; the plan adds the entry's name.
        """
        return "fast"
