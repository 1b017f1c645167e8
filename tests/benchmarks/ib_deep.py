"""ib, deep nets: an epoch of the ViT through the room's training, evaluation and all, against a plain loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.benchmarks import Benchmark
from tests.reference import ib_deep as plain
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.papers.ib.deep.data import generate
from workflow.lib.papers.ib.deep.training import train


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    for name in ("vit_mnist", "vit_cifar10"):
        experiment = rooms.load_paper("ib").experiment(name)
        examples = 500 if quick else 2000
        changes = {"epochs": 1, "train_examples": examples, "test_examples": 100}
        settings = experiment.settings.model_copy(update=changes)
        experiment = experiment.model_copy(update={"settings": settings})
        arrays = generate(experiment, experiment.seed(0))
        images = torch.from_numpy(arrays["train_images"]).float() / 127.5 - 1
        labels = torch.from_numpy(arrays["train_labels"]).long()
        shape = {key: getattr(settings, key) for key in ("patch", "dim", "depth", "heads", "dim_head", "mlp")}
        model = plain.PlainViT(settings.channels, settings.size, settings.classes, **shape)

        yield Benchmark(
            f"ib {name}, {examples // settings.batch_size} steps of SGD, per step",
            plain=lambda m=model, x=images, y=labels: plain.train(
                m, x, y, list(torch.randperm(len(y)).split(100)), 0.1
            ),
            fast=lambda e=experiment, a=arrays: train(e, e.optimizers["sgd"], {0: a}, Job()),
            floor=1.0,
            plain_units=examples / settings.batch_size,
            fast_units=examples / settings.batch_size,
            repeats=2 if quick else 3,
        )
