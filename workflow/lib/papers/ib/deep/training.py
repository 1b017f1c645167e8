"""Mini-batch training of deep nets, with checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow.lib import devices, startup
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.optim._norms import joint_norm
from workflow.lib.papers.ib.deep import engines, pretraining
from workflow.lib.papers.ib.deep.checkpoint import Checkpoint, signature
from workflow.lib.papers.ib.deep.recorded import EPOCH_METRICS, ITERATION_METRICS
from workflow.lib.papers.ib.deep.settings import Deep, Language, Vision, pretrains
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace
from workflow.lib.watching import Watch

CHECKPOINT_SECONDS = 300.0


def train(experiment: Experiment[Vision | Language], optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:
    """Train one optimizer on the seeds of a block: together where their nets are small, else one after another.

    Seeds share nothing but what they start from, so results do not depend on the block. With the same seed, all
    optimizers start from the same weights and see the same batches. Entries with `masked` are trained by `pretraining`,
    and `job.start` holds the encoder that they end with.

    Returns:
        A trace with, by iteration (from 1): `train_loss` of the batch before the step, `gradient_norm`,
        `step_size` (the factor of the gradient, or of Adam's direction), `step_length` (of the step in all weights);
        by epoch (from 0): `test_accuracy`, `test_loss`, and `attention`, the class token's largest attention weight
        (mean over layers, heads, test examples); once: `batches_per_epoch`, and if any seed diverged `diverged_at`,
        the first iteration with a loss that is no number.
        And the final weights, if the settings keep them; NaN for a seed that diverged.

    Raises:
        UserError: the device is missing or out of memory, or a batch is larger than the training set.
    """
    settings = experiment.settings
    device = devices.choose(job.device)
    startup.keep_memory()
    told = signature(experiment, optimizer, data, job, device.type) if job.checkpoint else ""
    checkpoint = Checkpoint(job.checkpoint, told)
    if pretrains(optimizer):
        return pretraining.train(experiment, optimizer, tuple(data), device, checkpoint, job.events)  # type: ignore[arg-type]
    starts = _starts(job.start, data)
    numbers = list(data)
    parts = [numbers] if settings.stackable else [[number] for number in numbers]
    finished = []
    for part in parts:
        many = f"seeds {part[0]}-{part[-1]}" if len(part) > 1 else f"seed {part[0]}"
        with _enough_memory(device, settings.batch_size):
            begin = {number: engines.First(experiment.seed(number), data[number], starts[number]) for number in part}
            run = _Training(experiment, optimizer, begin, device)
            if saved := checkpoint.load(part[0]):
                run.restore(saved)
            run.to_the_end(
                lambda state, part=part: checkpoint.save(part[0], state),  # type: ignore[misc]
                f"{experiment.name} {optimizer.label} {many}",
                job.events if len(parts) == 1 or job.events is None else job.events / many,
            )
        finished.append((run.history, run.engine.weights() if settings.keep_weights else {}))
    trace = _trace(numbers, [history for history, _ in finished], settings)
    names = finished[0][1]
    return Run(trace, {name: np.concatenate([weights[name] for _, weights in finished]) for name in names})


def _starts(start: Arrays | None, data: Mapping[int, Arrays]) -> dict[int, Arrays | None]:
    """What each seed starts from."""
    if start is None:
        return dict.fromkeys(data)
    return {number: {name: array[row] for name, array in start.items()} for row, number in enumerate(data)}


class _History:
    """What R runs recorded: by iteration in memory that is there from the beginning, and by evaluation.

    Memory for every step's few numbers would be cut out of the large pieces that a step gives back, which the next step
    then would not find again: a training of SNGD held twice as much memory, all of it new to the caches.

    Attributes:
        batches_per_epoch: iterations of an epoch.
        diverged_at: the first iteration with a loss that is no number, NaN if there is none; shape (R,).
        done: iterations so far.
        evaluated: metric -> one row (R,) per evaluation.
    """

    def __init__(self, runs: int, batches_per_epoch: int, iterations: int) -> None:
        self.batches_per_epoch = batches_per_epoch
        self.diverged_at = np.full(runs, np.nan)
        self.done = 0
        self.evaluated: dict[str, list[np.ndarray]] = {metric: [] for metric in EPOCH_METRICS}
        self._stepped = np.empty((len(ITERATION_METRICS), iterations, runs))

    def step(self, values: np.ndarray) -> None:
        """Add an iteration: the metrics of every run, shape (metrics, R)."""
        self._stepped[:, self.done] = values
        self.done += 1

    def last(self) -> dict[str, np.ndarray]:
        """Metric -> that of the last iteration (R,)."""
        return dict(zip(ITERATION_METRICS, self._stepped[:, self.done - 1], strict=True))

    def arrays(self) -> Arrays:
        """Metric -> shape (R, n), of n iterations or evaluations."""
        runs = len(self.diverged_at)
        stepped = dict(zip(ITERATION_METRICS, self._stepped[:, : self.done].swapaxes(1, 2).copy(), strict=True))
        return stepped | {name: np.array(rows).reshape(-1, runs).T for name, rows in self.evaluated.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], done: int) -> None:
        """Go back to what `arrays` gave after so many iterations."""
        self.done = done
        for rows, name in zip(self._stepped, ITERATION_METRICS, strict=True):
            rows[:done] = arrays[name].T
        self.evaluated = {name: list(arrays[name].T) for name in EPOCH_METRICS}


class _Training:
    """The training of one or more runs; `state` is all that is needed to go on from where it stands."""

    def __init__(
        self,
        experiment: Experiment[Vision | Language],
        optimizer: Optimizer,
        runs: Mapping[int, engines.First],
        device: torch.device,
    ) -> None:
        self.settings, self.label = experiment.settings, optimizer.label
        self.evaluated = self.settings.evaluated
        self.seeds = {number: run.seed for number, run in runs.items()}
        self.device = device
        self.engine = engines.build(experiment, list(runs.values()), device)
        if isinstance(self.engine, engines.Stack) and self.settings.route(optimizer) == "plain":
            self.engine.separate()
        self.optimizer = optimizer.build(self.engine.leaves, stacked=self.engine.stacked)
        count, size = self.engine.examples["train"], self.settings.batch_size
        if size > count:
            raise UserError(f"batch_size: expected at most the {count:,} training examples, found {size:,}")
        per_epoch = math.ceil(count / size)
        self.iterations = self.settings.epochs * per_epoch
        self.history = _History(len(runs), per_epoch, self.iterations)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done and evaluated, or no loss is a number any more."""
        done = len(self.history.evaluated["test_accuracy"]) == len(self.evaluated)
        return done or not np.isnan(self.history.diverged_at).any()

    def to_the_end(self, save: Callable[[dict[str, Any]], None], title: str, events: Path | None) -> None:
        """Train and evaluate; call `save(state)` after each evaluation and every few minutes."""
        if self.finished:
            return
        per_epoch = self.history.batches_per_epoch
        saved_at = time.monotonic()
        with Watch(title, self.iterations, self.history.done, self.device.type, list(self.seeds), events) as watch:
            if not self.history.evaluated["test_accuracy"]:
                watch.record(self._evaluate())
            while not self.finished:
                epoch, place = divmod(self.history.done, per_epoch)
                for index in self._order(epoch)[place:]:
                    self._step(index)
                    watch.stepped("train_loss", self.history.last())
                    if self.finished:
                        watch.say("diverged")
                        break
                    if time.monotonic() - saved_at > CHECKPOINT_SECONDS and self.history.done % per_epoch:
                        save(self.state())
                        saved_at = time.monotonic()
                else:
                    if epoch + 1 not in self.evaluated:
                        continue
                    watch.record(self._evaluate())
                save(self.state())
                saved_at = time.monotonic()

    def _order(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """The batches of an epoch, each (R, B): a new order each time, the same for every optimizer."""
        count = self.engine.examples["train"]
        orders = [seed.generator(f"order of epoch {epoch}").permutation(count) for seed in self.seeds.values()]
        return torch.split(torch.from_numpy(np.stack(orders)).to(self.device), self.settings.batch_size, dim=1)

    @torch.no_grad()
    def _step(self, index: torch.Tensor) -> None:
        """One step of the optimizer on one batch of each run."""
        before = [tensor.clone() for tensor in self.engine.whole]

        def closure() -> torch.Tensor:
            losses = self.engine.losses(index)
            return losses if self.engine.stacked else losses[0]

        losses = torch.as_tensor(self.optimizer.step(closure)).reshape(-1)  # type: ignore[arg-type]
        group = self.optimizer.param_groups[0]
        size = next(group[key] for key in ("step_size_taken", "lr") if key in group)
        gradients = [tensor.grad for tensor in self.engine.whole if tensor.grad is not None]
        torch._foreach_sub_(before, self.engine.whole)
        lengths = [joint_norm(tensors, self.engine.stacked) for tensors in (gradients, before)]
        record = (
            torch.stack(
                [
                    torch.as_tensor(x, device=self.device, dtype=torch.float32).expand_as(losses)
                    for x in (losses, lengths[0], size, lengths[1])
                ]
            )
            .cpu()
            .numpy()
        )
        self.history.step(record)
        lost = ~np.isfinite(record[0]) & np.isnan(self.history.diverged_at)
        for run in np.flatnonzero(lost):
            self.history.diverged_at[run] = self.history.done
            self.engine.stop(int(run))
            print(f"seed {list(self.seeds)[run]} diverged: no loss at iteration {self.history.done}", file=sys.stderr)

    def _evaluate(self) -> dict[str, np.ndarray]:
        """Accuracy, loss and class-token attention on the test set, in evaluation mode; each (R,)."""
        found = {name: value.cpu().numpy() for name, value in self.engine.evaluate()._asdict().items()}
        for name, row in found.items():
            self.history.evaluated[name].append(row)
        return found

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, and what it is about, for `unfinished`."""
        return {
            "iteration": self.history.done,
            "engine": self.engine.state(),
            "optimizer": self.optimizer.state_dict(),
            "values": {name: torch.from_numpy(array) for name, array in self.history.arrays().items()},
            "diverged_at": torch.from_numpy(self.history.diverged_at),
            "about": {
                "label": self.label,
                "seeds": list(self.seeds),
                "steps": self.iterations,
                "evaluated": list(self.evaluated),
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.engine.restore(state["engine"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history.restore({name: array.numpy() for name, array in state["values"].items()}, state["iteration"])
        self.history.diverged_at = state["diverged_at"].numpy()


def _trace(seeds: Sequence[int], histories: Sequence[_History], settings: Deep) -> Trace:
    trace = Trace(seeds)
    per_epoch = histories[0].batches_per_epoch
    recorded = [history.arrays() for history in histories]
    diverged = np.concatenate([history.diverged_at for history in histories])
    iterations, epochs = np.arange(1, settings.epochs * per_epoch + 1), np.array(settings.evaluated)
    for names, steps, per_step in ((ITERATION_METRICS, iterations, 1), (EPOCH_METRICS, epochs, per_epoch)):
        for name in names:
            rows = np.full((len(seeds), len(steps)), np.nan)
            first = 0
            for found in (arrays[name] for arrays in recorded):
                rows[first : first + len(found), : found.shape[1]] = found
                first += len(found)
            past = steps * per_step >= diverged[:, None]  # false where nothing diverged
            trace.record(name, steps, np.where(np.isfinite(rows) & ~past, rows, np.nan))
    if not np.isnan(diverged).all():
        trace.record("diverged_at", 0, diverged)
    trace.record("batches_per_epoch", 0, float(per_epoch))
    return trace


@contextmanager
def _enough_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Say in one line that memory ran out; checkpoints stay."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        if isinstance(error, RuntimeError) and "memory" not in text:
            raise
        raise UserError(
            f"out of memory on the device {device.type} with batch_size {batch_size} ({text}). Take a device with more "
            "memory or a smaller batch_size; a run that was begun goes on from its last checkpoint."
        ) from error
