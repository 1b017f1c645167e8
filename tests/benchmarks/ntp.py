"""ntp: both stages for a block of 100 seeds against one seed at a time by autograd."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.benchmarks import Benchmark
from tests.reference import ntp as plain
from workflow.lib.contract import Job
from workflow.lib.papers.ntp.data import generate
from workflow.lib.papers.ntp.language import DataSet
from workflow.lib.papers.ntp.training import initial, train
from workflow.lib.rooms import load_paper

SEEDS = 100


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    experiment = load_paper("ntp").experiment("two_stage")
    steps = (experiment.settings.steps_ov, experiment.settings.steps_kq)
    optimizer = experiment.optimizers["ngd"]
    sizes = (optimizer.hyperparameters["lr"], optimizer.options.lr_kq)
    data = {seed: generate(experiment, experiment.seed(seed)) for seed in range(SEEDS)}
    value, key_query = initial(experiment, list(data), 20)

    def one_seed() -> None:
        plain.train(DataSet.from_arrays(data[0]), torch.clone(value[0]), torch.clone(key_query[0]), steps, sizes)

    yield Benchmark(
        f"ntp two_stage, {steps[0]} + {steps[1]} steps, per seed of {SEEDS}",
        plain=one_seed,
        fast=lambda: train(experiment, optimizer, data, Job()),
        floor=50,
        fast_units=SEEDS,
    )
