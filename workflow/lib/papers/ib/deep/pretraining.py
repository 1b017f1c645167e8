"""Masked-token training of a tiny BERT on generated texts, which fine-tuning then starts from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep import tiny_bert
from workflow.lib.papers.ib.deep.checkpoint import Checkpoint
from workflow.lib.papers.ib.deep.data import unlabelled
from workflow.lib.papers.ib.deep.settings import Language, Masked, Scratch
from workflow.lib.papers.ib.deep.stacked import Parameters
from workflow.lib.papers.ib.deep.stacked_bert import StackedMaskedBert, Texts
from workflow.lib.papers.ib.deep.texts import MASK, SPECIAL
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace
from workflow.lib.watching import Watch

SAVED_EVERY = 100  # steps
FROM_SEED = 0  # one net for all seeds, from streams of their own


def train(
    experiment: Experiment[Language, Masked],
    optimizer: Optimizer[Masked],
    seeds: tuple[int, ...],
    device: torch.device,
    checkpoint: Checkpoint,
    events: Path | None = None,
) -> Run:
    """Train one net and give it to every seed.

    Returns:
        A trace with `masked_loss` by iteration (from 1), of the batch before the step, NaN from where it is no number,
        and the encoder's weights by the names of `transformers.BertModel`.
    """
    run = Pretraining(experiment, optimizer, device)
    if saved := checkpoint.load(FROM_SEED):
        run.restore(saved)
    title = f"{experiment.name} {optimizer.label}, one net for all seeds"
    run.to_the_end(lambda state: checkpoint.save(FROM_SEED, state), title, events)
    trace = Trace(seeds)
    trace.record_run({"masked_loss": np.tile(run.losses, (len(seeds), 1))}, np.arange(1, run.steps + 1))
    return Run(trace, {name: np.stack([array] * len(seeds)) for name, array in run.encoder().items()})


class Pretraining:
    """One tiny BERT learns to fill in masked words; `state` is all that is needed to go on from where it stands.

    Of the words that are to be found 80 % are masked, 10 % are another word, 10 % are shown as they are.
    """

    def __init__(
        self, experiment: Experiment[Language, Masked], optimizer: Optimizer[Masked], device: torch.device
    ) -> None:
        settings, options, self.device = experiment.settings, optimizer.options, device
        sizes = settings.encoder
        assert isinstance(sizes, Scratch)
        assert options.texts is not None and options.steps is not None  # noqa: PT018  (all or none)
        assert options.masked is not None and options.warm_up is not None  # noqa: PT018
        self.seed = experiment.seed(FROM_SEED)
        arrays = unlabelled(settings, self.seed, options.texts)
        self.vocabulary = int(arrays["vocabulary"])
        self.texts = [torch.from_numpy(arrays[name]).long().to(device) for name in ("ids", "segments", "lengths")]
        torch.manual_seed(int(self.seed.sequence("weights before masked words").generate_state(1)[0]))
        first = tiny_bert.filling_in(sizes, self.vocabulary, settings.max_length)
        self.parameters = Parameters([first], device)
        self.net = StackedMaskedBert(self.parameters, sizes.heads, sizes.layers)
        apart = settings.route(optimizer) == "plain"
        self.optimizer = optimizer.build(self.parameters.separate() if apart else [self.parameters.flat], stacked=True)
        self.rate, self.warm_up = optimizer.hyperparameters["lr"], options.warm_up
        self.steps, self.batch_size, self.masked = options.steps, settings.batch_size, options.masked
        self.losses: list[float] = []

    def to_the_end(self, save: Callable[[dict[str, Any]], None], title: str, events: Path | None) -> None:
        """Train; call `save(state)` now and then. A loss that is no number ends the training."""
        with Watch(title, self.steps, len(self.losses), self.device.type, [FROM_SEED], events) as watch:
            while len(self.losses) < self.steps:
                self.losses.append(self._step(len(self.losses)))
                watch.stepped("masked_loss", {"masked_loss": np.array(self.losses[-1:])})
                if not np.isfinite(self.losses[-1]):
                    print(f"the training diverged: no loss at iteration {len(self.losses)}", file=sys.stderr)
                    self.losses += [np.nan] * (self.steps - len(self.losses))
                if len(self.losses) % SAVED_EVERY == 0:
                    save(self.state())

    def encoder(self) -> Arrays:
        """The encoder's weights."""
        named = self.parameters.weights.items()
        return {n.removeprefix("bert."): w[0].cpu().numpy().copy() for n, w in named if n.startswith("bert.")}

    @torch.no_grad()
    def _step(self, number: int) -> float:
        batch = self._batch(self.seed.generator(f"masked words of step {number}"))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min((number + 1) / self.warm_up, 1 - number / self.steps)

        def closure() -> Tensor:
            return self.net.losses(*batch)

        return float(self.optimizer.step(closure))  # type: ignore[arg-type]

    def _batch(self, rng: np.random.Generator) -> tuple[Texts, Tensor, Tensor]:
        """Texts with masked words, which of their tokens are to be found, and the words there."""
        index = torch.from_numpy(rng.integers(0, len(self.texts[0]), self.batch_size))
        ids, segments, lengths = (array[index] for array in self.texts)
        longest = int(lengths.max())
        ids, segments = ids[:, :longest], segments[:, :longest]
        draws = torch.from_numpy(rng.random((2, *ids.shape))).to(ids.device)
        hidden = (draws[0] < self.masked) & (ids >= len(SPECIAL))
        others = torch.from_numpy(rng.integers(len(SPECIAL), self.vocabulary, ids.shape)).to(ids.device)
        shown = torch.where(draws[1] < 0.8, torch.full_like(ids, MASK), torch.where(draws[1] < 0.9, others, ids))
        texts = Texts(*(x.unsqueeze(0) for x in (torch.where(hidden, shown, ids), segments, lengths)))
        places = hidden.flatten().nonzero().squeeze(1)
        return texts, places.unsqueeze(0), ids.flatten()[places].unsqueeze(0)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {"weights": self.parameters.flat, "optimizer": self.optimizer.state_dict(), "losses": self.losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.parameters.flat.copy_(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
