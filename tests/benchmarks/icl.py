"""Training on feature counts, stacked over seeds, against autograd on the raw prompts; population descent likewise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.benchmarks import Benchmark
from tests.reference import icl as reference
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.papers.icl.settings import Population, PopulationOptions, Prompts
from workflow.lib.plan.model import Experiment


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    paper = rooms.load_paper("icl")
    for name in ("balanced", "imbalanced_ten"):
        yield _prompts(paper.experiment(name), quick)
    yield _population(paper.experiment("population"), quick)


def _prompts(experiment: Experiment[Prompts], quick: bool) -> Benchmark:
    data = {seed: rooms.generate(experiment)(experiment, experiment.seed(seed)) for seed in range(experiment.seeds)}
    adam = experiment.optimizers["adam"]
    epochs = 20 if quick else 100
    first = {key: data[0][key] for key in ("features", "tasks", "tokens", "query")}
    rooms.train(experiment)(experiment, adam, {0: data[0]}, Job())  # what torch imports on first use is no training
    return Benchmark(
        f"icl {experiment.name}, Adam, per seed and epoch",
        plain=lambda: reference.train(**first, epochs=epochs, step_size=adam.hyperparameters["lr"]),
        fast=lambda: rooms.train(experiment)(experiment, adam, data, Job()),
        floor=60,
        plain_units=epochs,
        fast_units=experiment.seeds * experiment.settings.epochs,
    )


def _population(experiment: Experiment[Population, PopulationOptions], quick: bool) -> Benchmark:
    data = {0: rooms.generate(experiment)(experiment, experiment.seed(0))}
    gd = experiment.optimizers["gd_fine"]
    iterations = 20 if quick else 100
    size = 160
    rare = (1 - experiment.settings.dominant_probability) / (size - 1)
    probabilities = np.array([experiment.settings.dominant_probability] + [rare] * (size - 1))
    step_size = gd.hyperparameters["lr"]
    return Benchmark(
        "icl population descent, all K against K = 160, per step",
        plain=lambda: reference.population_descent(probabilities, step_size=step_size, iterations=iterations),
        fast=lambda: rooms.train(experiment)(experiment, gd, data, Job()),
        floor=3,
        plain_units=iterations,
        fast_units=gd.options.iterations,
        repeats=2 if quick else 3,
    )
