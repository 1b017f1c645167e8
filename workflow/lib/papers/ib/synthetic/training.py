"""Training of the synthetic experiments: all seeds, and all variants, of one optimizer as one stack of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.model import FixedDecoderLayer, JointLayer, Layer
from workflow.lib.papers.ib.synthetic.settings import (
    Iterations,
    Joint,
    JointIterations,
    Sequences,
    array_name,
    arrays_of,
)
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.runs import Trace
from workflow.lib.streams import Seed

_PER_DECADE = 48


def recorded_steps(iterations: int) -> np.ndarray:
    """The steps at which runs are recorded: 0, a geometric grid that all optimizers share, and the last one."""
    count = int(np.ceil(_PER_DECADE * np.log10(iterations))) + 1
    grid = np.rint(10.0 ** (np.arange(count) / _PER_DECADE)).astype(int)
    return np.unique([0, *grid[grid < iterations], iterations])


def train(
    experiment: Experiment[Sequences, Iterations],
    optimizer: Optimizer[Iterations],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Train the runs of a block of seeds.

    The trace holds, at the index of each variant, `loss`, `gap` (loss minus its infimum) and `distraction` (1 - p_opt)
    at the recorded steps, `diverged_at` for runs that left the finite numbers, and `gradient_error`. The parameters,
    named by `array_name`, are `key_query` and, if trained, `decoder`, shape (seeds, recorded steps, size), in the
    coordinates of `span`; and `outside`, the norm of what W_0 has outside the span. `steps` are common to all.
    A GPU would not help at these sizes, so `job.device` is not used.
    """
    settings = experiment.settings
    variants = settings.variants()
    stack = [(variant, number) for variant in variants for number in data]
    sets = [arrays_of(data[number], variant) for variant, number in stack]
    spans = [KeyQuerySpan.of(arrays) for arrays in sets]
    layer: Layer
    if isinstance(settings, Joint):
        layer = JointLayer(sets, spans, [DecoderSpan.of(arrays) for arrays in sets])
    else:
        layer = FixedDecoderLayer(sets, spans)
    errors = np.zeros(len(stack))
    outside = np.zeros(len(stack))
    for run, (variant, number) in enumerate(stack):
        draw = experiment.seed(number).generator("gradient_error")
        errors[run] = gradient_error(layer, run, sets[run], spans[run], draw)
        initial_norm = variants[variant].initial_norm
        if initial_norm:
            start, outside[run] = initial(spans[run], initial_norm, experiment.seed(number))
            layer.parameters["key_query"][run] = torch.from_numpy(start)

    steps = recorded_steps(optimizer.options.iterations)
    metrics, snapshots = descend(layer, optimizer, steps)

    trace = Trace(data)
    parameters: Arrays = {}
    for variant, block in _by_variant(metrics, variants).items():
        trace.record_run(block, steps, variant)
    for variant, block in _by_variant({"gradient_error": errors}, variants).items():
        trace.record("gradient_error", 0, block["gradient_error"], variant)
    for variant, block in _by_variant({**snapshots, "outside": outside}, variants).items():
        parameters.update({array_name(variant, name): values for name, values in block.items()})
    parameters["steps"] = np.broadcast_to(steps, (len(data), steps.size))
    return Run(trace, parameters)


def initial(span: KeyQuerySpan, norm: float, seed: Seed) -> tuple[np.ndarray, float]:
    """A Gaussian W_0 of a given Frobenius norm: its coordinates, and the norm of its part outside the span."""
    d = span.differences.shape[1]
    matrix = seed.generator("start").standard_normal((d, d))
    matrix *= norm / np.linalg.norm(matrix)
    inside = span.coordinates(matrix)
    return inside, float(np.sqrt(max(norm**2 - inside @ inside, 0.0)))


def descend(layer: Layer, optimizer: Optimizer[Iterations], steps: np.ndarray) -> tuple[Arrays, Arrays]:
    """Run an optimizer to the last of `steps`.

    Returns:
        Metrics of shape (runs, steps), and snapshots of the parameters of shape (runs, steps, size).
    """
    separate = isinstance(optimizer.options, JointIterations) and optimizer.options.groups == "separate"
    # What one rule moves as one is one tensor: the fastest way to take one norm of all.
    groups = [{"params": [tensor]} for tensor in layer.parameters.values()] if separate else [layer.joined]
    rule = optimizer.build(groups, stacked=True)

    def closure() -> torch.Tensor:
        layer.evaluate()
        return layer.gap()

    metrics: dict[str, list[torch.Tensor]] = {"loss": [], "gap": [], "distraction": []}
    snapshots: dict[str, list[torch.Tensor]] = {name: [] for name in layer.parameters}
    done = 0
    with torch.no_grad():
        for step in steps.tolist():
            for _ in range(done, step):
                rule.step(closure)  # type: ignore[arg-type]
            done = step
            metrics["gap"].append(closure())
            metrics["loss"].append(layer.loss())
            metrics["distraction"].append(layer.distraction())
            for name, tensor in layer.parameters.items():
                snapshots[name].append(tensor.clone())
    return (
        {name: torch.stack(values, 1).numpy() for name, values in metrics.items()},
        {name: torch.stack(values, 1).numpy() for name, values in snapshots.items()},
    )


def gradient_error(layer: Layer, run: int, data: Arrays, span: KeyQuerySpan, draw: np.random.Generator) -> float:
    """Relative error of a run's gradient against automatic differentiation of the plain loss, at a drawn point.

    The parameters of the run are 0 before and after.
    """
    n, _, d = data["tokens"].shape
    matrix = draw.standard_normal((d, d)) * (2 / d)
    layer.parameters["key_query"][run] = torch.from_numpy(span.coordinates(matrix))
    vector = data["decoder"]
    if isinstance(layer, JointLayer):
        vector = vector + draw.standard_normal(d) * (1 / np.sqrt(d))
        layer.parameters["decoder"][run] = torch.from_numpy(layer.decoders[run].basis @ vector)
    layer.evaluate()
    found = [span.dense(layer.parameters["key_query"].grad[run].numpy())]  # type: ignore[index]
    if isinstance(layer, JointLayer):
        found.append(layer.decoders[run].dense(layer.parameters["decoder"].grad[run].numpy()))  # type: ignore[index]
    layer.joined[run] = 0

    key_query = torch.from_numpy(matrix).requires_grad_()
    decoder = torch.from_numpy(vector).requires_grad_(len(found) == 2)
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
