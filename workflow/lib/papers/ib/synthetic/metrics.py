"""Max-margin targets, alignments and floors of the synthetic experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.max_margin import MaxMargin, max_margin
from workflow.lib.papers.ib.synthetic.settings import Joint, Sequences, array_name, arrays_of
from workflow.lib.papers.ib.synthetic.span import DecoderSpan, KeyQuerySpan
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import DATA, Trace

# Size of the constraints over all entries of W up to which that problem is solved too, to hold the reduced one against.
_DENSE_LIMIT = 1_000_000


def measure(
    experiment: Experiment[Sequences], data: Mapping[int, Arrays], runs: Mapping[str, Run]
) -> Mapping[str, Trace]:
    """Measure finished runs.

    Per optimizer, at the index of each variant: what training recorded; `norm_w`; `misalignment_w` =
    1 - corr(W, W_mm); for a fixed decoder `gap_error`, the relative error of the gap against the plain difference of
    losses while that exceeds 1e-3; and for joint training `norm_u` and `misalignment_u`.
    Of the data alone: `margin_norm` = ||W_mm||, `worst_margin`, `active` constraints, `kkt_residual`,
    `solver_difference` where the problem is small, `floor` = L*, and for joint training `decoder_margin_norm`.
    """
    settings = experiment.settings
    joint = isinstance(settings, Joint)
    seeds = tuple(data)
    facts = Trace(seeds)
    measured = {label: Trace(run.seeds) for label, run in runs.items()}
    for label, run in runs.items():
        measured[label].update(run.trace)
    for variant in settings.variants():
        sets = {seed: arrays_of(arrays, variant) for seed, arrays in data.items()}
        spans = {seed: KeyQuerySpan.of(arrays) for seed, arrays in sets.items()}
        targets = {seed: _solve(span, seed) for seed, span in spans.items()}
        decoders = {seed: DecoderSpan.of(arrays) for seed, arrays in sets.items()} if joint else {}
        decoder_targets = {seed: max_margin(_distinct(decoder_constraints(sets[seed]))) for seed in decoders}
        _record_facts(facts, variant, [sets[s] for s in seeds], [spans[s] for s in seeds], [targets[s] for s in seeds])
        if joint:
            facts.record("decoder_margin_norm", 0, [np.linalg.norm(decoder_targets[s].w) for s in seeds])

        for label, run in runs.items():
            trace, steps = measured[label], run.parameters["steps"][0]
            norms, angles = _compared(run, "key_query", variant, [targets[seed].w for seed in run.seeds])
            trace.record("norm_w", steps, norms, variant)
            trace.record("misalignment_w", steps, angles, variant)
            if not joint:
                floors = facts.curve("floor", variant).values
                trace.record("gap_error", 0, _gap_error(run.trace, variant, floors), variant)
            if joint:
                goals = [decoders[seed].basis @ decoder_targets[seed].w for seed in run.seeds]
                norms, angles = _compared(run, "decoder", variant, goals)
                trace.record("norm_u", steps, norms)
                trace.record("misalignment_u", steps, angles)
    return {DATA: facts, **measured}


def decoder_constraints(data: Arrays) -> np.ndarray:
    """The rows y_i x_opt of the decoder's max-margin problem, shape (n, d)."""
    rows = np.arange(len(data["labels"]))
    return data["labels"][:, None] * data["tokens"][rows, data["optimal"]]  # type: ignore[no-any-return]


def misalignment(vectors: np.ndarray, outside: np.ndarray, target: np.ndarray) -> np.ndarray:
    """1 - cos of the angle between vectors and a target, to full relative accuracy however small the angle.

    It is half the squared distance of the unit vectors; NaN for a zero vector.

    Args:
        vectors: shape (..., k).
        outside: norm of a further part that is orthogonal to everything here, shape (...).
        target: shape (k,).
    """
    with np.errstate(all="ignore"):
        norms = np.hypot(np.linalg.norm(vectors, axis=-1), outside)
        gap = vectors / norms[..., None] - target / np.linalg.norm(target)
        return ((gap**2).sum(-1) + (outside / norms) ** 2) / 2  # type: ignore[no-any-return]


def _solve(span: KeyQuerySpan, seed: int) -> MaxMargin:
    """W_mm = argmin ||W|| with all margins at least 1, in coordinates."""
    try:
        return max_margin(span.margins)
    except ValueError as error:
        raise UserError(
            f"seed {seed}: the max-margin problem of W has no solution ({error}). "
            "Take a larger dimension or fewer samples."
        ) from None


def _gap_error(trace: Trace, variant: str, floors: np.ndarray) -> np.ndarray:
    gap, difference = trace.curve("gap", variant).values, trace.curve("loss", variant).values - floors
    errors = np.abs(gap - difference) / np.maximum(difference, 1e-3)
    return np.where(difference > 1e-3, errors, 0.0).max(axis=1)  # type: ignore[no-any-return]


def _distinct(constraints: np.ndarray) -> np.ndarray:
    """The constraints without repetitions, which would make the problem degenerate."""
    return np.unique(constraints, axis=0)


def _compared(run: Run, name: str, variant: str, targets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Norms, and misalignments with each seed's target, of a parameter: twice (seeds, steps)."""
    snapshots, rest = (run.parameters[array_name(variant, key)] for key in (name, f"outside_{name}"))
    with np.errstate(over="ignore"):  # a diverging run's last finite numbers
        norms = np.hypot(np.linalg.norm(snapshots, axis=-1), rest)
    pairs = zip(snapshots, rest, targets, strict=True)
    return norms, np.stack([misalignment(w, beyond, target) for w, beyond, target in pairs])


def _record_facts(
    facts: Trace, variant: str, sets: Sequence[Arrays], spans: Sequence[KeyQuerySpan], targets: Sequence[MaxMargin]
) -> None:
    margins = [span.margins @ target.w for span, target in zip(spans, targets, strict=True)]
    found = {
        "margin_norm": [np.linalg.norm(target.w) for target in targets],
        "worst_margin": [values.min() for values in margins],
        "active": [(values < 1 + 1e-6).sum() for values in margins],
        "constraints": [values.size for values in margins],
        "kkt_residual": [target.residual for target in targets],
        "floor": [_floor(arrays) for arrays in sets],
    }
    if spans[0].differences.size * spans[0].differences.shape[2] <= _DENSE_LIMIT:
        pairs = zip(sets, spans, targets, strict=True)
        found["solver_difference"] = [_solver_difference(*pair) for pair in pairs]
    for name, values in found.items():
        facts.record(name, 0, values, variant)


def _floor(data: Arrays) -> float:
    """L* = mean log(1 + exp(-gamma_opt)), the infimum of the loss over W."""
    scores = data["labels"][:, None] * (data["tokens"] @ data["decoder"])
    return float(np.logaddexp(0.0, -scores[np.arange(len(scores)), data["optimal"]]).mean())


def _solver_difference(data: Arrays, span: KeyQuerySpan, target: MaxMargin) -> float:
    """How far W_mm and u_mm are from a second method's solutions over all entries, relative, the larger of both."""
    decoder_rows = _distinct(decoder_constraints(data))
    pairs = [
        (span.dense(target.w).ravel(), least_distance(span.constraints())),
        (max_margin(decoder_rows).w, least_distance(decoder_rows)),
    ]
    return float(max(np.linalg.norm(found - other) / np.linalg.norm(other) for found, other in pairs))


def least_distance(constraints: np.ndarray) -> np.ndarray:
    """Minimise ||w|| subject to constraints @ w >= 1, as a non-negative least-squares problem.

    Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23, problem LDP.
    """
    from scipy.optimize import nnls

    count, unknowns = constraints.shape
    matrix = np.vstack([constraints.T, np.ones(count)])
    goal = np.append(np.zeros(unknowns), 1.0)
    rest = goal - matrix @ nnls(matrix, goal)[0]
    return -rest[:-1] / rest[-1]  # type: ignore[no-any-return]
