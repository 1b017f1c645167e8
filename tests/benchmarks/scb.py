"""scb: runs at the full size against the direct transcription, a sequence at a time, on the same batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from tests.benchmarks import Benchmark
from tests.reference import scb as plain
from workflow.lib.configuration import load_paper
from workflow.lib.experiments import Experiment, parse
from workflow.lib.papers import Job
from workflow.lib.papers.scb.data import draw_problem, generate
from workflow.lib.papers.scb.descent import Batches
from workflow.lib.papers.scb.training import train

CURVES = ("prox", "prox_literal", "sgd_large", "sgd_small")


def shortened(**settings: int) -> Experiment:
    entry = load_paper("scb").experiment("main").plain(*CURVES)
    entry["settings"] |= settings
    return parse("scb", "main", entry)


def direct(experiment: Experiment, label: str, boosting: int, after: int) -> None:
    """One run from its first step: batches as in the fast run, then dense one-hot matrices in a loop."""
    settings, optimizer = experiment.settings, experiment.optimizers[label]
    seed = experiment.seed(0)
    problem = draw_problem(settings, seed)
    mu = problem.stationary
    A, V = problem.uniform.T.copy(), problem.memoryless.T.copy()
    stream = Batches(problem, settings.batch_size, seed, "boosting batches")
    states = plain.descend((stream.draw() for _ in range(boosting)), A, V, mu, settings.boosting_step_size, 0)
    A, V = plain.switch(states[-1][0], settings.switch_deviations), states[-1][1]
    stream = Batches(problem, settings.batch_size, seed, "batches")
    hyperparameters = optimizer.hyperparameters
    plain.descend(
        (stream.draw() for _ in range(after)), A, V, mu, hyperparameters["step_size"], hyperparameters["penalty"]
    )


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    scale = 5 if quick else 1
    experiment = shortened(iterations=1000 // scale, boosting_steps=400 // scale)
    steps = experiment.settings.iterations
    plain_steps = 10 if quick else 25

    def fast(*labels: str) -> None:
        data = {0: generate(experiment, experiment.seed(0))}
        for label in labels:
            train(experiment, experiment.optimizers[label], data, Job())

    fast(*CURVES)  # compiles
    yield Benchmark(
        f"scb one run of {steps} steps (T = 5000, B = 64), per step",
        plain=lambda: direct(experiment, "prox", 2 * plain_steps // 5, 3 * plain_steps // 5),
        fast=lambda: fast("prox"),
        floor=16,
        plain_units=plain_steps,
        fast_units=steps,
    )

    def one_by_one() -> None:
        for label in CURVES:
            direct(experiment, label, 2 * plain_steps // 5, 3 * plain_steps // 5)

    yield Benchmark(
        f"scb all {len(CURVES)} curves of fig1, one seed, {steps} steps, per step",
        plain=one_by_one,
        fast=lambda: fast(*CURVES),
        floor=60,
        plain_units=plain_steps,
        fast_units=steps,
    )


def milliseconds_per_step(positions: int, batch_size: int, steps: int) -> float:
    """CPU milliseconds of one training step, from two runs of different length, the best of three."""
    label = "sgd_large"
    best = np.inf
    for _ in range(3):
        took = []
        for iterations in (steps, 3 * steps):
            experiment = shortened(
                positions=positions, batch_size=batch_size, iterations=iterations, boosting_steps=0, record_every=1000
            )
            data = {0: generate(experiment, experiment.seed(0))}
            start = time.process_time()
            train(experiment, experiment.optimizers[label], data, Job())
            took.append(time.process_time() - start)
        best = min(best, (took[1] - took[0]) / (2 * steps))
    return 1e3 * best


def tables(quick: bool) -> Iterator[str]:
    """Growth of a step with T and with B; a log-log slope of 1 is linear."""
    amount = 5e6 if quick else 3e7  # tokens a measurement draws
    for name, sizes in (
        ("T", [(t, 64) for t in (500, 1500, 5000, 15000, 50000)]),
        ("B", [(5000, b) for b in (16, 64, 256, 1024)]),
    ):
        took = [milliseconds_per_step(t, b, max(4, int(amount / (t * b)))) for t, b in sizes]
        index = 0 if name == "T" else 1
        grown = [size[index] for size in sizes]
        slope = np.polyfit(np.log(grown), np.log(took), 1)[0]
        yield f"scb: CPU ms per step against {name} (" + ("B = 64" if name == "T" else "T = 5000") + ")"
        yield "  " + "".join(f"{size:>10}" for size in grown)
        yield "  " + "".join(f"{ms:>10.3f}" for ms in took) + f"   log-log slope {slope:.2f}"
