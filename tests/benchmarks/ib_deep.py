"""ib, deep nets: an epoch of three ViTs in one stack, with the records of every step, against three plain loops."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.benchmarks import Benchmark
from tests.benchmarks._roofline import Work, fastest
from tests.reference import ib_deep as plain
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.papers.ib.deep import engines
from workflow.lib.papers.ib.deep.data import generate
from workflow.lib.papers.ib.deep.training import train

SEEDS = 3


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    for name, floor in (("vit_mnist", 3.4), ("vit_cifar10", 2.8)):  # cutting images into patches counts for more there
        experiment = rooms.load_paper("ib").experiment(name)
        examples, epochs = 4000, 1 if quick else 2
        changes = {"epochs": epochs, "train_examples": examples, "test_examples": 100}
        settings = experiment.settings.model_copy(update=changes)
        experiment = experiment.model_copy(update={"settings": settings})
        data = {seed: generate(experiment, experiment.seed(seed)) for seed in range(SEEDS)}
        shape = {key: getattr(settings, key) for key in ("patch", "dim", "depth", "heads", "dim_head", "mlp")}
        twins = [
            (
                plain.PlainViT(settings.channels, settings.size, settings.classes, **shape),
                torch.from_numpy(arrays["train_images"]).float() / 127.5 - 1,
                torch.from_numpy(arrays["train_labels"]).long(),
            )
            for arrays in data.values()
        ]

        def plainly(twins=twins, epochs=epochs) -> None:  # type: ignore[no-untyped-def]
            for model, images, labels in twins:
                for _ in range(epochs):
                    plain.train(model, images, labels, list(torch.randperm(len(labels)).split(100)), 0.1)

        steps = SEEDS * epochs * examples / settings.batch_size
        yield Benchmark(
            f"ib {name}, {SEEDS} seeds, {epochs * examples // settings.batch_size} steps of SGD, per step and seed",
            plain=plainly,
            fast=lambda e=experiment, d=data: train(e, e.optimizers["sgd"], d, Job()),
            floor=floor,
            plain_units=steps,
            fast_units=steps,
            repeats=2 if quick else 3,
        )


def tables(quick: bool) -> Iterator[str]:
    """What limits the losses and gradients of a step, without what is recorded of it."""
    for name in ("vit_mnist", "bert_mnli"):
        experiment = rooms.load_paper("ib").experiment(name)
        runs = [engines.First(experiment.seed(s), generate(experiment, experiment.seed(s)), None) for s in range(SEEDS)]
        engine = engines.build(experiment, runs, torch.device("cpu"))
        size = experiment.settings.batch_size
        index = torch.stack([torch.randperm(engine.examples["train"])[:size] for _ in runs])

        def step(engine: engines.Engine = engine, index: torch.Tensor = index) -> None:
            with torch.no_grad():
                engine.losses(index)

        seconds = fastest(step, 20 if quick else 100)
        yield f"ib {name}, losses and gradients of {SEEDS} seeds: {1e3 * seconds:.2f} ms"
        yield f"  {Work.of(step).line(seconds)}"
