"""What trains: the small nets of a whole block of seeds at once, or one large net through autograd.

Both kinds hold the runs' weights and examples, write gradients, and evaluate. Letters in shapes: R runs (1 for a large
net), B examples of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows)

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep import models, tiny_bert
from workflow.lib.papers.ib.deep.settings import Vision
from workflow.lib.papers.ib.deep.stacked import Parameters
from workflow.lib.papers.ib.deep.stacked_bert import StackedBert, Texts
from workflow.lib.papers.ib.deep.stacked_vit import StackedViT
from workflow.lib.papers.ib.deep.vit import shifted_patches
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed

EVALUATION_BATCH = 100  # few enough for the caches


class First(NamedTuple):
    """What one run begins with: its seed, its data, and the encoder of a pre-trained net or None."""

    seed: Seed
    data: Arrays
    start: Arrays | None


class Evaluation(NamedTuple):
    """Of a test set, for each run (R,): accuracy, mean loss, the class token's largest attention weight."""

    test_accuracy: Tensor
    test_loss: Tensor
    attention: Tensor


class Engine(ABC):
    """The runs of one optimizer that train together.

    `leaves` are what the optimizer moves, `whole` the same numbers in as few tensors as there are, `stacked` says
    whether they carry a run dimension, and `examples` counts the training and the test examples of a run.
    """

    leaves: list[Tensor]
    whole: list[Tensor]
    stacked: bool
    examples: dict[str, int]

    @abstractmethod
    def losses(self, index: Tensor) -> Tensor:
        """Losses of some training examples, index (R, B), before the step (R,); leaves their gradients."""

    @abstractmethod
    def outputs(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the test examples `index` (B,): logits (R, B, classes), labels and largest class-token weights (R, B)."""

    @abstractmethod
    def weights(self) -> Arrays:
        """The weights by name, each (R, ...)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that a run depends on besides its optimizer."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""

    @abstractmethod
    def stop(self, run: int) -> None:
        """Give up a run that diverged: its weights become NaN."""

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Look at the whole test set."""
        device, count = self.leaves[0].device, self.examples["test"]
        totals: list[Tensor] = [torch.zeros((), dtype=torch.float64, device=device)] * 3
        for index in torch.split(torch.arange(count, device=device), EVALUATION_BATCH):
            logits, labels, attention = self.outputs(index)
            correct = (logits.argmax(2) == labels).double()
            loss = F.cross_entropy(logits.double().flatten(0, 1), labels.flatten(), reduction="none").view_as(correct)
            totals = [total + of.sum(1) for total, of in zip(totals, (correct, loss, attention.double()), strict=True)]
        return Evaluation(*(total / count for total in totals))


def build(experiment: Experiment, runs: Sequence[First], device: torch.device) -> Engine:
    """The engine for some runs: several where the settings let them be stacked, else one."""
    settings = experiment.settings
    if not settings.stackable:
        return Single(experiment, runs[0], device)
    return (StackOfViTs if isinstance(settings, Vision) else StackOfBerts)(experiment, runs, device)


def first_model(experiment: Experiment, run: First) -> nn.Module:
    """The model of a run with its first weights; torch's global generator goes on to draw its dropout."""
    _seed(run)
    return models.build(experiment, run.data, run.start)


def _seed(run: First) -> None:
    torch.manual_seed(int(run.seed.sequence("weights and dropout").generate_state(1)[0]))


class Stack(Engine):
    """Small nets without dropout, through the layers of `stacked`."""

    stacked = True

    def __init__(self, experiment: Experiment, runs: Sequence[First], device: torch.device) -> None:
        self.parameters = Parameters([self._first(experiment, run) for run in runs], device)
        self.leaves = self.whole = [self.parameters.flat]
        self.labels = {
            part: torch.stack([torch.from_numpy(run.data[f"{part}_labels"]) for run in runs]).long().to(device)
            for part in ("train", "test")
        }
        self.examples = {part: labels.shape[1] for part, labels in self.labels.items()}

    @staticmethod
    def _first(experiment: Experiment, run: First) -> dict[str, Tensor]:
        """The first weights of a run, those of `first_model`."""
        return first_model(experiment, run).state_dict()

    def separate(self) -> None:
        """Let the optimizer see one leaf for each tensor."""
        self.leaves = self.parameters.separate()

    def weights(self) -> Arrays:
        """The weights by name, each (R, ...)."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.parameters.weights.items()}

    def state(self) -> dict[str, Any]:
        """The weights."""
        return {"weights": self.parameters.flat}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the weights."""
        self.parameters.flat.copy_(state["weights"])

    def stop(self, run: int) -> None:
        """Give up a run that diverged: its weights become NaN."""
        self.parameters.flat[run] = torch.nan


class StackOfViTs(Stack):
    """Small ViTs; every image is cut into patches once, at the beginning."""

    def __init__(self, experiment: Experiment, runs: Sequence[First], device: torch.device) -> None:
        super().__init__(experiment, runs, device)
        settings = experiment.settings
        self.net = StackedViT(self.parameters, settings.heads, settings.depth)
        self.patches = {
            part: [_patches(run.data[f"{part}_images"], settings.patch).to(device) for run in runs]
            for part in ("train", "test")
        }

    def losses(self, index: Tensor) -> Tensor:  # noqa: D102
        found = [patches.index_select(1, own) for patches, own in zip(self.patches["train"], index, strict=True)]
        return self.net.losses(torch.stack(found), self.labels["train"].gather(1, index))

    def outputs(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        logits, rows = self.net.logits(torch.stack([patches[:, index] for patches in self.patches["test"]]))
        return logits, self.labels["test"][:, index], rows.amax(3).mean((1, 2))


def _patches(images: Any, patch: int) -> Tensor:
    """Normalised patches, token by token: (n, channels, height, width) bytes -> (P, n, W)."""
    found = shifted_patches(models.scaled(torch.from_numpy(images)), patch)
    return F.layer_norm(found, found.shape[-1:]).transpose(0, 1).contiguous()


class StackOfBerts(Stack):
    """Tiny BERTs; every text is padded to the same length, so that no run depends on the texts of another."""

    def __init__(self, experiment: Experiment, runs: Sequence[First], device: torch.device) -> None:
        super().__init__(experiment, runs, device)
        settings = experiment.settings
        assert not isinstance(settings.encoder, str)
        self.net = StackedBert(self.parameters, settings.encoder.heads, settings.encoder.layers, prefix="bert.")
        self.texts = {
            part: Texts(
                *(
                    torch.stack([_padded(run.data[f"{part}_{kind}"], settings.max_length) for run in runs]).to(device)
                    for kind in ("ids", "segments", "lengths")
                )
            )
            for part in ("train", "test")
        }
        self.run = torch.arange(len(runs), device=device).unsqueeze(1)

    @staticmethod
    def _first(experiment: Experiment, run: First) -> dict[str, Tensor]:
        """As `first_model` would have them, without the model."""
        _seed(run)
        settings = experiment.settings
        sizes = (settings.encoder, int(run.data["vocabulary"]), settings.max_length, settings.classes)
        weights = tiny_bert.classifier(*sizes, run.start)
        return {f"bert.{name}": tensor for name, tensor in weights.items()}

    def losses(self, index: Tensor) -> Tensor:  # noqa: D102
        texts = Texts(*(array[self.run, index] for array in self.texts["train"]))
        return self.net.losses(texts, self.labels["train"].gather(1, index))

    def outputs(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        logits, rows = self.net.logits(Texts(*(array[:, index] for array in self.texts["test"])))
        return logits, self.labels["test"][:, index], rows.amax(4).mean((1, 3))


def _padded(array: Any, length: int) -> Tensor:
    """Token or segment ids (n, T) filled up with 0 to (n, length), lengths (n,) as they are; whole numbers."""
    found = torch.from_numpy(array).long()
    return found if found.ndim == 1 else F.pad(found, (0, length - found.shape[1]))


class Single(Engine):
    """One net of any size, with autograd, dropout and bfloat16."""

    stacked = False

    def __init__(self, experiment: Experiment, run: First, device: torch.device) -> None:
        settings = experiment.settings
        self.device, self.half = device, settings.precision == "bfloat16"
        self.model = first_model(experiment, run).to(device)
        self.leaves = self.whole = list(self.model.parameters())
        self.parts = {part: models.Examples(run.data, part, device) for part in ("train", "test")}
        self.examples = {part: len(examples) for part, examples in self.parts.items()}

    def losses(self, index: Tensor) -> Tensor:  # noqa: D102
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        inputs, labels = self.parts["train"].batch(index[0])
        with torch.enable_grad():
            with self._autocast():
                logits, _ = self.model(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().unsqueeze(0)

    def outputs(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        self.model.eval()
        inputs, labels = self.parts["test"].batch(index)
        with self._autocast():
            logits, rows = self.model(inputs, with_attention=True)
        return logits.unsqueeze(0), labels.unsqueeze(0), rows.amax(-1).double().mean((0, 2)).unsqueeze(0)

    def weights(self) -> Arrays:  # noqa: D102
        return {name: tensor.detach().cpu().numpy()[None] for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The weights, and the generators that draw dropout."""
        on_gpu = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state() if on_gpu else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self.model.load_state_dict(state["model"])
        torch.set_rng_state(state["generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"])

    def stop(self, run: int) -> None:  # noqa: D102
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.fill_(torch.nan)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            yield
