"""Mini-batch training of a deep net, one seed after another, with checkpoints."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows)
from tqdm import tqdm

from workflow.lib import devices
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays, atomic
from workflow.lib.papers.ib.deep import models
from workflow.lib.papers.ib.deep.settings import Deep, Language, Vision
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.runs import Trace
from workflow.lib.streams import Seed

CHECKPOINT_SECONDS = 300.0
EVALUATION_BATCH = 500

ITERATION_METRICS = ("train_loss", "gradient_norm", "step_size")
EPOCH_METRICS = ("test_accuracy", "test_loss", "attention")


def train(experiment: Experiment[Vision | Language], optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:
    """Train one optimizer on the seeds of a block, one after another.

    Seeds share nothing, so results do not depend on the block. With the same seed, all optimizers start from
    the same weights and see the same batches.

    Returns:
        A trace with, by iteration (from 1): `train_loss` of the batch before the step, `gradient_norm`,
        `step_size` (the factor of the gradient, or of Adam's direction); by epoch (from 0): `test_accuracy`,
        `test_loss`, and `attention`, the class token's largest attention weight (mean over layers, heads, test
        examples); once: `batches_per_epoch`, and if any seed diverged `diverged_at`, the first iteration with a
        loss that is no number.
        And the final weights, if the settings keep them.

    Raises:
        UserError: the device is missing or out of memory, or a batch is larger than the training set.
    """
    settings = experiment.settings
    device = devices.choose(job.device)
    checkpoint = _Checkpoint(job.checkpoint, f"{experiment}{optimizer}{device.type}{torch.__version__}")
    histories: dict[int, _History] = {}
    weights: dict[int, Arrays] = {}
    for number, arrays in data.items():
        title = f"{experiment.name} {optimizer.label} seed {number}"
        with _enough_memory(device, settings.batch_size):
            saved = checkpoint.load(number)
            run = _Training(experiment, optimizer, arrays, experiment.seed(number), device, saved)
            run.to_the_end(lambda state, number=number: checkpoint.save(number, state), title)  # type: ignore[misc]
        histories[number] = run.history
        weights[number] = run.weights()
    trace = _trace(histories, settings)
    names = weights[next(iter(weights))] if settings.keep_weights else {}
    return Run(trace, {name: np.stack([weights[number][name] for number in data]) for name in names})


@dataclass
class _History:
    """What one seed recorded: metric -> values, in order."""

    batches_per_epoch: int
    diverged_at: float = math.nan
    values: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in ITERATION_METRICS + EPOCH_METRICS})


class _Training:
    """The training of one seed; `state` is all that is needed to go on from where it stands."""

    def __init__(
        self,
        experiment: Experiment[Vision | Language],
        optimizer: Optimizer,
        arrays: Arrays,
        seed: Seed,
        device: torch.device,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self.settings = experiment.settings
        self.seed = seed
        self.device = device
        torch.manual_seed(int(seed.sequence("weights and dropout").generate_state(1)[0]))
        self.model: nn.Module = models.build(experiment, arrays).to(device)
        self.optimizer = optimizer.build(self.model.parameters())
        self.examples = {part: models.Examples(arrays, part, device) for part in ("train", "test")}
        count, size = len(self.examples["train"]), self.settings.batch_size
        if size > count:
            raise UserError(f"batch_size: expected at most the {count:,} training examples, found {size:,}")
        self.history = _History(math.ceil(count / size))
        self.iteration = 0
        if saved is not None:
            self._restore(saved)

    @property
    def iterations(self) -> int:
        """How many steps the whole run has."""
        return self.settings.epochs * self.history.batches_per_epoch

    @property
    def finished(self) -> bool:
        """Whether every epoch is done and evaluated, or the loss is no number any more."""
        done = len(self.history.values["test_accuracy"]) == self.settings.epochs + 1
        return done or not math.isnan(self.history.diverged_at)

    def to_the_end(self, save: Any, title: str) -> None:
        """Train and evaluate; call `save(state)` after each epoch and every few minutes."""
        if self.finished:
            return
        per_epoch = self.history.batches_per_epoch
        saved_at = time.monotonic()
        quiet = 0.1 if sys.stderr.isatty() else 10.0  # seconds between updates; a log file needs few
        with tqdm(total=self.iterations, initial=self.iteration, desc=title, unit="step", mininterval=quiet) as bar:
            if not self.history.values["test_accuracy"]:
                self._evaluate()
            while not self.finished:
                order = self._order(self.iteration // per_epoch)
                for index in order[self.iteration % per_epoch :]:
                    loss = self._step(index)
                    bar.update()
                    if not math.isfinite(loss):
                        self.history.diverged_at = self.iteration
                        bar.set_postfix_str("diverged")
                        break
                    if time.monotonic() - saved_at > CHECKPOINT_SECONDS and self.iteration % per_epoch:
                        save(self.state())
                        saved_at = time.monotonic()
                else:
                    self._evaluate()
                    last = {name: self.history.values[name][-1] for name in ("train_loss", "test_accuracy")}
                    bar.set_postfix(last, refresh=False)
                save(self.state())
                saved_at = time.monotonic()

    def _order(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """The batches of an epoch: a new order each time, the same for every optimizer."""
        order = self.seed.generator(f"order of epoch {epoch}").permutation(len(self.examples["train"]))
        return torch.split(torch.from_numpy(order).to(self.device), self.settings.batch_size)

    def _step(self, index: torch.Tensor) -> float:
        """One step of the optimizer on one batch; returns the batch's loss before it."""
        self.model.train()
        inputs, labels = self.examples["train"].batch(index)

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                logits, _ = self.model(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        loss = self.optimizer.step(closure)  # type: ignore[arg-type]
        assert loss is not None
        self.iteration += 1
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        group = self.optimizer.param_groups[0]
        size = next(group[key] for key in ("step_size_taken", "lr") if key in group)
        record = torch.stack(
            [torch.as_tensor(x, device=self.device, dtype=torch.float32).detach() for x in (loss, norm, size)]
        )
        for name, value in zip(ITERATION_METRICS, record.tolist(), strict=True):
            self.history.values[name].append(value)
        return self.history.values["train_loss"][-1]

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Accuracy, loss and class-token attention on the test set, in evaluation mode."""
        self.model.eval()
        test = self.examples["test"]
        correct = loss = attention = torch.zeros((), device=self.device, dtype=torch.float64)
        for index in torch.split(torch.arange(len(test), device=self.device), EVALUATION_BATCH):
            inputs, labels = test.batch(index)
            with self._autocast():
                logits, rows = self.model(inputs, with_attention=True)
            correct = correct + (logits.argmax(1) == labels).sum()
            loss = loss + F.cross_entropy(logits.double(), labels, reduction="sum")
            attention = attention + rows.amax(-1).double().mean((0, 2)).sum()
        for name, total in zip(EPOCH_METRICS, (correct, loss, attention), strict=True):
            self.history.values[name].append(float(total) / len(test))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def weights(self) -> Arrays:
        """The weights by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "values": self.history.values,
            "diverged_at": self.history.diverged_at,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"])
        self.history.values = state["values"]
        self.history.diverged_at = state["diverged_at"]


class _Checkpoint:
    """A file that keeps the state of every seed of the block that was begun."""

    def __init__(self, path: Path | None, signature: str) -> None:
        self._path = path
        self._signature = hashlib.sha256(signature.encode()).hexdigest()
        self._states: dict[int, Any] = {}
        if path is None or not path.is_file():
            return
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            same = found["signature"] == self._signature
        except Exception as error:  # torch raises many kinds, all about the same file
            raise UserError(
                f"{path}: this checkpoint cannot be read ({str(error).splitlines()[0]}). "
                "Delete it to begin the training anew."
            ) from error
        if same:
            self._states = found["states"]
            print(f"going on from the checkpoint {path}", file=sys.stderr)
        else:
            print(f"the checkpoint {path} is of other settings; beginning anew", file=sys.stderr)

    def load(self, seed: int) -> Mapping[str, Any] | None:
        """The state of a seed, or None if it was not begun."""
        return self._states.get(seed)

    def save(self, seed: int, state: dict[str, Any]) -> None:
        """Keep the state of a seed beside those of the others."""
        if self._path is None:
            return
        self._states[seed] = state
        with atomic(self._path) as temporary:
            torch.save({"signature": self._signature, "states": self._states}, temporary)


def _trace(histories: Mapping[int, _History], settings: Deep) -> Trace:
    trace = Trace(histories)
    per_epoch = next(iter(histories.values())).batches_per_epoch
    lengths = {name: (1, settings.epochs * per_epoch) for name in ITERATION_METRICS}
    lengths |= {name: (0, settings.epochs) for name in EPOCH_METRICS}
    for name, (first, last) in lengths.items():
        rows = np.full((len(histories), last - first + 1), np.nan)
        for row, history in zip(rows, histories.values(), strict=True):
            values = np.array(history.values[name])
            row[: len(values)] = np.where(np.isfinite(values), values, np.nan)
        trace.record(name, np.arange(first, last + 1), rows)
    diverged = [history.diverged_at for history in histories.values()]
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
