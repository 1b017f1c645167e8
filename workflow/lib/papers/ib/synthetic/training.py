"""Training of the synthetic experiments: all seeds, and all variants, of one optimizer as one stack of runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from workflow.lib import grids
from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.synthetic.along import along
from workflow.lib.papers.ib.synthetic.model import FixedDecoderLayer, JointLayer
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

_DIRECTIONS = 16  # along which gradients are checked


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
    (`Settings.route`); those of `along` without torch. The trace holds, at the index of each variant, `loss`, `gap`
    (loss minus its infimum) and `distraction` (1 - p_opt) at the recorded steps, `diverged_at` for runs that left the
    finite numbers, and `gradient_error`. The parameters, named by `array_name`, are `key_query` and, if trained,
    `decoder`, shape (seeds, recorded steps, size), in the coordinates of `span`; `outside_key_query` and
    `outside_decoder`, the norms of what lies outside the span, shape (seeds, recorded steps); and for a rule that
    leaves the span `final_key_query`, shape (seeds, d, d), and `final_decoder`. `steps` are common to all.
    A GPU would not help at these sizes, so `job.device` is not used.
    """
    settings = experiment.settings
    variants = settings.variants()
    stack = [(variant, number) for variant in variants for number in data]
    sets = [arrays_of(data[number], variant) for variant, number in stack]
    parameters = parameters_of(experiment, optimizer, sets)
    errors = np.zeros(len(stack))
    for run, (variant, number) in enumerate(stack):
        draw = experiment.seed(number).generator("gradient_error")
        errors[run] = gradient_error(parameters, run, sets[run], draw)
        initial_norm = variants[variant].initial_norm
        if initial_norm:
            parameters.put(run, initial(sets[run], initial_norm, experiment.seed(number)))

    steps = recorded_steps(optimizer.options.iterations)
    metrics, snapshots = descend(parameters, optimizer, steps)

    trace = Trace(data)
    kept: Arrays = {}
    for variant, block in _by_variant(metrics, variants).items():
        trace.record_run(block, steps, variant)
    for variant, block in _by_variant({"gradient_error": errors}, variants).items():
        trace.record("gradient_error", 0, block["gradient_error"], variant)
    for variant, block in _by_variant({**snapshots, **parameters.final()}, variants).items():
        kept.update({array_name(variant, name): values for name, values in block.items()})
    kept["steps"] = np.broadcast_to(steps, (len(data), steps.size))
    return Run(trace, kept)


def parameters_of(
    experiment: Experiment[Sequences, Iterations], optimizer: Optimizer[Iterations], sets: list[Arrays]
) -> Parameters:
    """The parameters of several runs on their data sets, at zero, as the optimizer can move them."""
    layer = (JointLayer if isinstance(experiment.settings, Joint) else FixedDecoderLayer)(sets)
    fast = experiment.settings.route(optimizer) == "fast"
    return (SpanParameters if fast else PlainParameters)(sets, layer)


def initial(data: Arrays, norm: float, seed: Seed) -> np.ndarray:
    """A Gaussian W_0 (d, d) of a given Frobenius norm."""
    d = data["tokens"].shape[2]
    matrix = seed.generator("start").standard_normal((d, d))
    return matrix * (norm / np.linalg.norm(matrix))  # type: ignore[no-any-return]


def descend(parameters: Parameters, optimizer: Optimizer[Iterations], steps: np.ndarray) -> tuple[Arrays, Arrays]:
    """Run an optimizer to the last of `steps`.

    Returns:
        Metrics of shape (runs, steps), and snapshots of the parameters of shape (runs, steps, size).
    """
    layer = parameters.layer
    metrics: dict[str, list[np.ndarray]] = {"loss": [], "gap": [], "distraction": []}
    snapshots: dict[str, list[np.ndarray]] = {name: [] for name in parameters.snapshot()}
    go_on = _descent(parameters, optimizer)
    parameters.evaluate()
    done = 0
    with np.errstate(all="ignore"):  # a diverging run overflows
        for step in steps.tolist():
            go_on(done, step)
            done = step
            metrics["gap"].append(layer.gap())
            metrics["loss"].append(layer.loss())
            metrics["distraction"].append(layer.distraction())
            for name, values in parameters.snapshot().items():
                snapshots[name].append(values)
    return (
        {name: np.stack(values, 1) for name, values in metrics.items()},
        {name: np.stack(values, 1) for name, values in snapshots.items()},
    )


def _descent(parameters: Parameters, optimizer: Optimizer[Iterations]) -> Callable[[int, int], None]:
    """What takes the steps from one to another, not included, and evaluates the parameters there."""
    rule = along(optimizer, parameters.joint)
    if rule is not None and isinstance(parameters, SpanParameters):
        return partial(parameters.descend, rule)
    return by_torch(parameters, optimizer)


def by_torch(parameters: Parameters, optimizer: Optimizer[Iterations]) -> Callable[[int, int], None]:
    """The same for any optimizer."""
    import torch  # takes longer than the runs of rules that need none

    tensors = [torch.from_numpy(value) for value in parameters.values.values()]
    gradients = [torch.from_numpy(gradient) for gradient in parameters.gradients.values()]
    groups: list[Any] = tensors
    if isinstance(optimizer.options, JointIterations) and optimizer.options.groups == "separate":
        groups = [{"params": [tensor]} for tensor in tensors]
    rule = optimizer.build(groups, stacked=True)

    # The rules of this library say whether they read the loss; one from elsewhere may without a word.
    unread = not optimizer.traits.needs_loss and "." not in optimizer.rule

    def closure() -> torch.Tensor | None:
        parameters.evaluate()
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        return None if unread else torch.from_numpy(parameters.layer.gap())

    def go_on(first: int, last: int) -> None:
        with torch.inference_mode():
            for _ in range(first, last):
                rule.step(closure)  # type: ignore[arg-type]
        parameters.evaluate()

    return go_on


def gradient_error(parameters: Parameters, run: int, data: Arrays, draw: np.random.Generator) -> float:
    """Relative error of a run's gradients against complex steps of the plain loss, at a drawn point.

    The derivative of L along V is Im L(W + i h V) / h up to h^2, with no difference taken (Squire and Trapp, SIAM
    Review 40, 1998). Along matrices a b^T of standard normal a and b the squared error of <gradient, V> has the mean
    of the gradient's own squared error, which is estimated by `_DIRECTIONS` of them; and likewise along vectors for u.
    The parameters of the run are 0 before and after.
    """
    tokens, labels = data["tokens"], data["labels"]
    n, _, d = tokens.shape
    matrix = draw.standard_normal((d, d)) * (2 / d)
    vector = data["decoder"] + (draw.standard_normal(d) * (1 / np.sqrt(d)) if parameters.joint else 0.0)
    parameters.put(run, matrix, vector if parameters.joint else None)
    parameters.evaluate()
    found = parameters.gradient(run)
    parameters.put(run, np.zeros((d, d)), np.zeros(d) if parameters.joint else None)

    def loss(logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        weights = np.exp(logits - logits.real.max(-1, keepdims=True))
        outputs = (weights * scores).sum(-1) / weights.sum(-1)
        return np.log1p(np.exp(-labels * outputs)).mean(-1)  # type: ignore[no-any-return]

    tiny = 1e-20
    queries = tokens[np.arange(n), data["query"]]
    logits, scores = (tokens @ (queries @ matrix.T)[:, :, None])[..., 0], tokens @ vector
    left, right, along_u = draw.standard_normal((3, _DIRECTIONS, d))
    turned = (tokens @ left.T).transpose(2, 0, 1) * (queries @ right.T).T[:, :, None]
    pairs = [((left @ found[0] * right).sum(1), loss(logits + 1j * tiny * turned, scores))]
    if parameters.joint:
        pairs.append((along_u @ found[1], loss(logits, scores + 1j * tiny * (tokens @ along_u.T).transpose(2, 0, 1))))
    errors = [np.sqrt(((ours - true.imag / tiny) ** 2).mean()) for ours, true in pairs]
    return max(float(error / np.linalg.norm(ours)) for error, ours in zip(errors, found, strict=True))


def _by_variant(arrays: Arrays, variants: Collection[str]) -> dict[str, Arrays]:
    """Cut stacks of runs (variant by variant) into the stacks of each variant, the seeds leading."""
    parts = {name: np.split(array, len(variants)) for name, array in arrays.items()}
    return {variant: {name: part[i] for name, part in parts.items()} for i, variant in enumerate(variants)}
