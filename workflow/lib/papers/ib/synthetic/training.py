"""Training of the synthetic experiments: all seeds, and all variants, of one optimizer as one stack of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from workflow.lib import grids
from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.model import FixedDecoderLayer, JointLayer, Layer
from workflow.lib.papers.ib.synthetic.parameters import Parameters, PlainParameters, SpanParameters
from workflow.lib.papers.ib.synthetic.settings import (
    Iterations,
    Joint,
    JointIterations,
    Sequences,
    array_name,
    arrays_of,
)
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace
from workflow.lib.streams import Seed


def recorded_steps(iterations: int) -> np.ndarray:
    """The steps at which runs are recorded; optimizers of different lengths share their grid."""
    return np.array(grids.decades(iterations, per_decade=48))


def train(
    experiment: Experiment[Sequences, Iterations],
    optimizer: Optimizer[Iterations],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Train the runs of a block of seeds.

    A rule that commutes with rotations is trained in the coordinates of `span`, any other on W and u themselves
    (`Settings.route`). The trace holds, at the index of each variant, `loss`, `gap` (loss minus its infimum) and
    `distraction` (1 - p_opt) at the recorded steps, `diverged_at` for runs that left the finite numbers, and
    `gradient_error`. The parameters, named by `array_name`, are `key_query` and, if trained, `decoder`, shape (seeds,
    recorded steps, size), in the coordinates of `span`; `outside_key_query` and `outside_decoder`, the norms of what
    lies outside the span, shape (seeds, recorded steps); and for a rule that leaves the span `final_key_query`, shape
    (seeds, d, d), and `final_decoder`. `steps` are common to all.
    A GPU would not help at these sizes, so `job.device` is not used.
    """
    settings = experiment.settings
    variants = settings.variants()
    stack = [(variant, number) for variant in variants for number in data]
    sets = [arrays_of(data[number], variant) for variant, number in stack]
    layer = layer_of(experiment, optimizer, sets)
    errors = np.zeros(len(stack))
    for run, (variant, number) in enumerate(stack):
        draw = experiment.seed(number).generator("gradient_error")
        errors[run] = gradient_error(layer, run, sets[run], draw)
        initial_norm = variants[variant].initial_norm
        if initial_norm:
            layer.parameters.put(run, initial(sets[run], initial_norm, experiment.seed(number)))

    steps = recorded_steps(optimizer.options.iterations)
    metrics, snapshots = descend(layer, optimizer, steps)

    trace = Trace(data)
    parameters: Arrays = {}
    for variant, block in _by_variant(metrics, variants).items():
        trace.record_run(block, steps, variant)
    for variant, block in _by_variant({"gradient_error": errors}, variants).items():
        trace.record("gradient_error", 0, block["gradient_error"], variant)
    for variant, block in _by_variant({**snapshots, **layer.parameters.final()}, variants).items():
        parameters.update({array_name(variant, name): values for name, values in block.items()})
    parameters["steps"] = np.broadcast_to(steps, (len(data), steps.size))
    return Run(trace, parameters)


def layer_of(
    experiment: Experiment[Sequences, Iterations], optimizer: Optimizer[Iterations], sets: list[Arrays]
) -> Layer:
    """The layer of several runs on their data sets, at zero, with the parameters that the optimizer can move."""
    joint = isinstance(experiment.settings, Joint)
    fast = experiment.settings.route(optimizer) == "fast"
    parameters: Parameters = SpanParameters(sets, joint) if fast else PlainParameters(sets, joint)
    return JointLayer(parameters) if joint else FixedDecoderLayer(sets, parameters)


def initial(data: Arrays, norm: float, seed: Seed) -> np.ndarray:
    """A Gaussian W_0 (d, d) of a given Frobenius norm."""
    d = data["tokens"].shape[2]
    matrix = seed.generator("start").standard_normal((d, d))
    return matrix * (norm / np.linalg.norm(matrix))  # type: ignore[no-any-return]


def descend(layer: Layer, optimizer: Optimizer[Iterations], steps: np.ndarray) -> tuple[Arrays, Arrays]:
    """Run an optimizer to the last of `steps`.

    Returns:
        Metrics of shape (runs, steps), and snapshots of the parameters of shape (runs, steps, size).
    """
    parameters = layer.parameters
    rule = optimizer.build(_groups(parameters, optimizer), stacked=True)

    # The rules of this library say whether they read the loss; one from elsewhere may without a word.
    unread = not optimizer.traits.needs_loss and "." not in optimizer.rule

    def closure() -> torch.Tensor | None:
        layer.evaluate()
        return None if unread else layer.gap()

    metrics: dict[str, list[torch.Tensor]] = {"loss": [], "gap": [], "distraction": []}
    snapshots: dict[str, list[torch.Tensor]] = {name: [] for name in parameters.snapshot()}
    done = 0
    with torch.inference_mode():
        for step in steps.tolist():
            for _ in range(done, step):
                rule.step(closure)  # type: ignore[arg-type]
            done = step
            layer.evaluate()
            metrics["gap"].append(layer.gap())
            metrics["loss"].append(layer.loss())
            metrics["distraction"].append(layer.distraction())
            for name, values in parameters.snapshot().items():
                snapshots[name].append(values)
    return (
        {name: torch.stack(values, 1).numpy() for name, values in metrics.items()},
        {name: torch.stack(values, 1).numpy() for name, values in snapshots.items()},
    )


def _groups(parameters: Parameters, optimizer: Optimizer[Iterations]) -> list[Any]:
    """W and u as the optimizer gets them."""
    tensors = [*parameters.tensors.values()]
    if isinstance(optimizer.options, JointIterations) and optimizer.options.groups == "separate":
        return [{"params": [tensor]} for tensor in tensors]
    # What a rule moves as one is one tensor: the fastest way to take one norm of all.
    as_one = optimizer.traits.entrywise or optimizer.hyperparameters.get("norm") in ("global", "per_group")
    return [parameters.joined] if isinstance(parameters, SpanParameters) and as_one else tensors


def gradient_error(layer: Layer, run: int, data: Arrays, draw: np.random.Generator) -> float:
    """Relative error of a run's gradient against automatic differentiation of the plain loss, at a drawn point.

    The parameters of the run are 0 before and after.
    """
    n, _, d = data["tokens"].shape
    joint = isinstance(layer, JointLayer)
    matrix = draw.standard_normal((d, d)) * (2 / d)
    vector = data["decoder"] + draw.standard_normal(d) * (1 / np.sqrt(d)) if joint else data["decoder"]
    layer.parameters.put(run, matrix, vector if joint else None)
    layer.evaluate()
    found = layer.parameters.gradients(run)
    layer.parameters.put(run, np.zeros((d, d)), np.zeros(d) if joint else None)

    key_query = torch.from_numpy(matrix).requires_grad_()
    decoder = torch.from_numpy(vector).requires_grad_(joint)
    tokens, labels = torch.from_numpy(data["tokens"]), torch.from_numpy(data["labels"])
    attention = torch.softmax((tokens @ (key_query @ tokens[range(n), data["query"], :, None]))[..., 0], 1)
    outputs = torch.einsum("nt,ntd,d->n", attention, tokens, decoder)
    loss = torch.nn.functional.softplus(-labels * outputs).mean()
    true = torch.autograd.grad(loss, [key_query, decoder][: len(found)])
    pairs = zip(found, true, strict=True)
    return max(float(np.linalg.norm(ours - theirs.numpy()) / theirs.norm()) for ours, theirs in pairs)


def _by_variant(arrays: Arrays, variants: Collection[str]) -> dict[str, Arrays]:
    """Cut stacks of runs (variant by variant) into the stacks of each variant, the seeds leading."""
    parts = {name: np.split(array, len(variants)) for name, array in arrays.items()}
    return {variant: {name: part[i] for name, part in parts.items()} for i, variant in enumerate(variants)}
