"""scb: runs at the full size against the direct transcription, a sequence at a time, on the same batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tests.benchmarks import Benchmark, cpu_seconds
from tests.benchmarks._roofline import Work
from tests.reference import scb as plain
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.papers.scb import kernels
from workflow.lib.papers.scb.data import draw_problem, generate
from workflow.lib.papers.scb.descent import Batches, Descent, preconditioned_prox
from workflow.lib.papers.scb.problem import Problem
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.papers.scb.training import train
from workflow.lib.plan.model import Experiment

CURVES = ("prox", "prox_literal", "sgd_large", "sgd_small")
Runs = Experiment[Bigram, RunOptions]


def shortened(**settings: int) -> Runs:
    return rooms.load_paper("scb", {"experiments": {"main": {"settings": settings}}}).experiment("main")


def sampled(experiment: Runs, problem: Problem, purpose: str, count: int) -> Iterator[plain.Batch]:
    """The batches of a stream, looked up one sequence at a time; the random words cost the twin next to nothing."""
    state = experiment.seed(0).sequence(purpose).generate_state(4 * kernels.LANES, np.uint64).reshape(4, -1)
    room = kernels.words_for(problem.positions)

    def words() -> Iterator[np.ndarray]:
        for _ in range(experiment.settings.batch_size):
            kernels.fill(state, room)
            yield room

    for _ in range(count):
        yield plain.sample(words(), problem)


def direct(experiment: Runs, label: str, boosting: int, after: int) -> None:
    """One run from its first step on the same batches: lookups, dense one-hot matrices, loops over sequences."""
    settings, hyperparameters = experiment.settings, experiment.optimizers[label].hyperparameters
    problem = draw_problem(settings, experiment.seed(0))
    mu = problem.stationary
    A, V = problem.uniform.T.copy(), problem.memoryless.T.copy()
    batches = sampled(experiment, problem, "boosting batches", boosting)
    A, V = plain.descend(batches, A, V, mu, experiment.optimizers["boosting"].hyperparameters["lr"], 0)[-1]
    A = plain.switch(A, settings.support)
    batches = sampled(experiment, problem, "batches", after)
    plain.descend(batches, A, V, mu, hyperparameters["lr"], hyperparameters["penalty"])


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    scale = 5 if quick else 1
    # The twin records nothing on the way, so neither does the fast run.
    experiment = shortened(iterations=1000 // scale, boosting_steps=400 // scale, record_every=1000)
    steps = experiment.settings.iterations
    plain_steps = 10 if quick else 25

    def fast(*labels: str) -> None:
        data = {0: generate(experiment, experiment.seed(0))}
        start = train(experiment, experiment.optimizers["boosting"], data, Job()).parameters
        for label in labels:
            train(experiment, experiment.optimizers[label], data, Job(start=start))

    fast(*CURVES)  # compiles
    work = work_of_a_step(experiment.settings)
    yield Benchmark(
        f"scb one run of {steps} steps (T = 5000, B = 64), per step",
        plain=lambda: direct(experiment, "prox", 2 * plain_steps // 5, 3 * plain_steps // 5),
        fast=lambda: fast("prox"),
        floor=65,
        plain_units=plain_steps,
        fast_units=steps,
        work=work,
    )

    def one_by_one() -> None:
        for label in CURVES:
            direct(experiment, label, 2 * plain_steps // 5, 3 * plain_steps // 5)

    yield Benchmark(
        f"scb all {len(CURVES)} curves of fig1, one seed, {steps} steps, per step",
        plain=one_by_one,
        fast=lambda: fast(*CURVES),
        floor=100,
        plain_units=plain_steps,
        fast_units=steps,
        work=work.times(0.4 + 0.6 * len(CURVES)),  # the boosting, two fifths of the steps, is done once
    )


def work_of_a_step(settings: Bigram) -> Work:
    """Of one run: 16 random bits and N - 1 cuts for every token, twice N - 1 selected additions to its two sums.

    Counted are the additions, and the bytes of random words, tokens, attention and its gradient, each time they pass;
    a sequence's words and tokens, or a block of positions, are what a loop touches.
    """
    tokens, cuts = settings.positions * settings.batch_size, settings.states - 1
    drawing = 2 + -(-cuts // 2) * (2 + 2)  # words written; for every two cuts words read, tokens updated
    # For two states: tokens twice; for two sequences of one column, attention read and its gradient updated.
    passing = -(-cuts // 2) * (2 * 1 + (8 + 16) / 2)
    return Work({torch.float64: 2 * cuts * tokens}, (drawing + passing) * tokens, 3 * settings.positions)


def milliseconds_per_step(positions: int, batch_size: int, steps: int) -> float:
    """CPU milliseconds of one training step of one run, the best of five."""
    settings = shortened(positions=positions, batch_size=batch_size, iterations=10**6).settings
    seed = shortened().seed(0)
    problem = draw_problem(settings, seed)
    stacked = Problem.stacked([problem.arrays()], positions)
    descent = Descent(stacked, stacked.uniform, stacked.memoryless, every=10**6)
    update = preconditioned_prox(descent, lr=0.005)
    batches = [Batches(problem, batch_size, seed, "benchmark")]
    return 1e3 * min(cpu_seconds(lambda: descent.run(update, batches, 0, steps)) for _ in range(5)) / steps
