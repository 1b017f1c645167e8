"""Algorithm 1: the value matrix on the collocation, then the key-query matrix on all sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ntp.language import DataSet
from workflow.lib.papers.ntp.model import KeysAndQueries, Values
from workflow.lib.papers.ntp.settings import TwoStage, TwoStageOptions, learning_rates
from workflow.lib.papers.ntp.snapshots import snapshot_steps
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace

LossAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def train(
    experiment: Experiment[TwoStage, TwoStageOptions],
    optimizer: Optimizer[TwoStageOptions],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Run both stages for all seeds at once, stacked along the leading dimension.

    Returns:
        The trace holds `loss_ov` (mean over the vocabulary), `norm_ov`, `loss` (sum over the sentences) and `norm_kq`
        at every step, and the `gradient_error` of formula (6) at a random point. The parameters are the snapshots
        `value` (seeds, snapshots, V, d) and `key_query` (seeds, snapshots, d, d) at `snapshot_steps` of each stage; the
        last ones are final.
    """
    settings = experiment.settings
    sets = [DataSet.from_arrays(arrays) for arrays in data.values()]
    value, key_query = initial(experiment, list(data), sets[0].vocabulary_size)

    values = Values(sets)
    first_stage = optimizer.build([value], stacked=True)
    loss_ov, norm_ov, value_snapshots = descend(values.loss_and_gradient, value, first_stage, settings.steps_ov)
    keys = KeysAndQueries(sets, value)
    own = {"lr": learning_rates(optimizer)[1]} if "lr" in optimizer.hyperparameters else {}
    second_stage = optimizer.build([key_query], stacked=True, **own)
    loss, norm_kq, key_query_snapshots = descend(keys.loss_and_gradient, key_query, second_stage, settings.steps_kq)

    trace = Trace(data)
    size = sets[0].vocabulary_size
    trace.record_run({"loss_ov": loss_ov / size, "norm_ov": norm_ov})
    trace.record_run({"loss": loss, "norm_kq": norm_kq})
    points = [experiment.seed(number).generator("gradient check") for number in data]
    trace.record("gradient_error", 0, gradient_error(sets, points))
    return Run(trace, {"value": value_snapshots, "key_query": key_query_snapshots})


def initial(experiment: Experiment[TwoStage], seeds: list[int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The starting W_ov (seeds, V, d) and W_kq (seeds, d, d): zero as printed, or uniform as the curves suggest."""
    dimension, scale = experiment.settings.dimension(size), experiment.settings.init_scale

    def draw(purpose: str, rows: int) -> torch.Tensor:
        draws = [experiment.seed(s).generator(purpose).uniform(-scale, scale, (rows, dimension)) for s in seeds]
        return torch.from_numpy(np.stack(draws))

    return draw("init value", size), draw("init key_query", dimension)


@torch.inference_mode()
def descend(
    loss_and_gradient: LossAndGradient, parameter: torch.Tensor, optimizer: torch.optim.Optimizer, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let an optimizer move `parameter` (runs, ...) in place for some steps.

    Returns:
        The losses and norms before each step and after the last, both (runs, steps + 1), and the snapshots
        (runs, snapshots, ...) at `snapshot_steps(steps)`.
    """
    losses = torch.empty(steps + 1, len(parameter), dtype=parameter.dtype)
    norms = torch.empty_like(losses)
    wanted = {step: place for place, step in enumerate(snapshot_steps(steps).tolist())}
    snapshots = parameter.new_empty(len(parameter), len(wanted), *parameter.shape[1:])

    @torch.inference_mode()  # an optimizer turns gradients on for its closure; these are worked out by hand
    def closure() -> torch.Tensor:
        loss, parameter.grad = loss_and_gradient(parameter)
        return loss

    for step in range(steps + 1):
        norms[step] = torch.linalg.vector_norm(parameter.flatten(1), dim=1)
        if step in wanted:
            snapshots[:, wanted[step]] = parameter
        if step < steps:
            losses[step] = optimizer.step(closure)  # type: ignore[arg-type]
        else:
            losses[step] = closure()
    return losses.T.numpy(), norms.T.numpy(), snapshots.numpy()


@torch.inference_mode()
def gradient_error(
    sets: Sequence[DataSet], generators: Sequence[np.random.Generator], directions: int = 8
) -> np.ndarray:
    """The relative difference of gradient (6) and central differences, shape (runs,).

    Both are taken along random directions at a random point, for all runs at once.
    """
    size = sets[0].vocabulary_size
    draws = np.stack([g.normal(size=(2 + directions, size, size)) for g in generators], axis=1)
    value, point, *along = torch.from_numpy(draws).unbind()
    model = KeysAndQueries(sets, value)
    _, gradient = model.loss_and_gradient(point)
    width = 1e-5
    exact, numeric = [], []
    for direction in along:
        high, _ = model.loss_and_gradient(point + width * direction)
        low, _ = model.loss_and_gradient(point - width * direction)
        exact.append((gradient * direction).sum((1, 2)))
        numeric.append((high - low) / (2 * width))
    difference = torch.stack(exact) - torch.stack(numeric)
    return np.asarray(difference.norm(dim=0) / torch.stack(numeric).norm(dim=0))
