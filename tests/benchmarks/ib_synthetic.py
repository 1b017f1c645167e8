"""ib, synthetic: all seeds stacked in the coordinates of the gradients' span, against one dense run by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from tests.benchmarks import Benchmark, cpu_seconds
from tests.benchmarks._roofline import Work
from tests.reference import ib_synthetic as plain
from workflow.lib import rooms
from workflow.lib.papers.ib.synthetic.data import generate
from workflow.lib.papers.ib.synthetic.training import descend, parameters_of
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer

SEEDS = 5


def stacked(experiment: Experiment, optimizer: str, steps: int) -> Callable[[], object]:
    """All seeds together for some steps; the spans are found before."""
    sets = [generate(experiment, experiment.seed(seed)) for seed in range(SEEDS)]
    parameters = parameters_of(experiment, experiment.optimizers[optimizer], sets)
    descend(parameters, experiment.optimizers[optimizer], np.array([0, 1]))  # compiles

    def run() -> None:
        for value in parameters.values.values():
            value[:] = 0
        descend(parameters, experiment.optimizers[optimizer], np.array([0, steps]))

    return run


def dense(experiment: Experiment, rule: plain.Rule, steps: int, product: plain.Product) -> Callable[[], object]:
    """One seed for some steps."""
    data = plain.tensors(generate(experiment, experiment.seed(0)))
    start = torch.zeros(experiment.settings.dimension, experiment.settings.dimension, dtype=torch.float64)
    return partial(plain.train, data, rule, steps, start, joint=experiment.kind == "joint", product=product)


RULES = {
    "orthogonal": {"gd": (plain.gd(1.0), 150), "ngd": (plain.ngd(0.5), 150), "polyak": (plain.polyak(2.0), 150)},
    "joint": {"ngd": (plain.ngd(0.5, 2 / 3), 50), "gd": (plain.gd(0.5), 50)},
}  # the twin's rule, and the floor


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    paper = rooms.load_paper("ib")
    for name in RULES:
        experiment = paper.experiment(name)
        steps, plain_steps = 1000, 50 if quick else 200
        for optimizer, (rule, floor) in RULES[name].items():
            yield Benchmark(
                f"ib {name}, {optimizer}, per 1000 steps and seed of {SEEDS}",
                plain=dense(experiment, rule, plain_steps, plain.logits),
                fast=stacked(experiment, optimizer, steps),
                floor=floor,
                plain_units=plain_steps / 1000,
                fast_units=SEEDS * steps / 1000,
                work=work_of_a_step(experiment).times(1000),
            )
    yield on_the_matrix(paper.experiment("orthogonal"), 20 if quick else 100)


def work_of_a_step(experiment: Experiment) -> Work:
    """Of one run: its triangles of coordinates are read twice, each entry for two multiplications and two additions."""
    samples, tokens = experiment.settings.samples, experiment.settings.tokens
    joint = experiment.kind == "joint"
    entries = sum((rows * (i + 1)) * rows for rows in (tokens - 1, tokens * joint) for i in range(samples))
    return Work({torch.float64: 4 * entries}, 2 * 8 * entries, 8 * entries)


def on_the_matrix(experiment: Experiment, steps: int) -> Benchmark:
    """Adam, which has to be trained on W itself: here the gain is in the gradient alone."""
    adam = Optimizer.read("adam", {"lr": 0.01, "iterations": steps}, experiment.settings.options, "adam")
    data = plain.tensors(generate(experiment, experiment.seed(0)))

    def dense_adam() -> None:
        key_query = torch.zeros(len(data["decoder"]), len(data["decoder"]), dtype=torch.float64, requires_grad=True)
        rule = torch.optim.Adam([key_query], lr=0.01)
        for _ in range(steps):
            rule.zero_grad()
            plain.gap(key_query, data).backward()
            rule.step()

    several = experiment.model_copy(update={"optimizers": {"adam": adam}})
    fast = stacked(several, "adam", steps)
    entries, samples = len(data["decoder"]) ** 2, experiment.settings.samples
    torch_s = Work.of(fast).times(1000 / SEEDS / steps)
    # Two products with W's queries; W is read, and its gradient written.
    products = Work({torch.float64: 4 * samples * entries}, 2 * 8 * entries, 0).times(1000)
    return Benchmark(
        f"ib {experiment.name}, adam on W, per 1000 steps and seed of {SEEDS}",
        plain=dense_adam,
        fast=fast,
        floor=1.5,
        plain_units=steps / 1000,
        fast_units=SEEDS * steps / 1000,
        work=torch_s._replace(flop=products.flop, moved=torch_s.moved + products.moved),
    )


def tables(quick: bool) -> Iterator[str]:
    """How the cost of one step of one run grows with d and with n T."""
    steps = 50 if quick else 200
    yield "ib, fixed decoder, NGD: CPU microseconds per step and run"
    yield f"{'n':>6} {'T':>4} {'d':>6} {'fast':>9} {'X W q':>9} {'X (W q)':>9}"
    for samples, dimension in ((20, 300), (20, 600), (20, 1200), (5, 400), (10, 400), (20, 400), (40, 400)):
        changes = {"orthogonal": {"settings": {"samples": samples, "dimension": dimension}}}
        experiment = rooms.load_paper("ib", {"experiments": changes}).experiment("orthogonal")
        few = max(steps // (20 if dimension > 400 else 5), 2)
        fast = stacked(experiment, "ngd", steps)
        ways = [dense(experiment, plain.ngd(0.5), few, way) for way in (plain.logits, plain.bracketed_logits)]
        costs = [min(cpu_seconds(fast) for _ in range(3)) / steps / SEEDS, *(cpu_seconds(way) / few for way in ways)]
        cells = " ".join(f"{cost * 1e6:>9.1f}" for cost in costs)
        yield f"{samples:>6} {experiment.settings.tokens:>4} {dimension:>6} {cells}"
