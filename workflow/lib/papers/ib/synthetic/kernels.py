"""Compiled loops: loss, slopes and steps of one self-attention layer, run by run (docs/papers/ib.md, sections 4 and 6).

A run's loops touch its own maps alone, of some hundred KB, which stay in the cache from step to step; and a sequence's
rows are read for its logits and again, while they are near, for the gradient. A run is the same to the last bit
whatever else is in its stack.

Nothing is formed by subtracting nearly equal numbers: late in training attention on the optimal token differs
from 1, and the loss from its floor, by as little as 1e-200 (section 4.2).
"""

from __future__ import annotations

import math

import numpy as np

from workflow.lib.compiling import compiled, part

_SMALL, _LARGE = 1e-270, 1e270  # sums of squares between which none that matters underflows or overflows
_NONE = -10_000  # below every exponent


@compiled
def descend(
    point: np.ndarray,
    gradient: np.ndarray,
    logit_maps: np.ndarray,
    score_maps: np.ndarray,
    reach: np.ndarray,
    scores: np.ndarray,
    best: np.ndarray,
    attention: np.ndarray,
    output: np.ndarray,
    lr: np.ndarray,
    decay: np.ndarray,
    measured_by: np.ndarray,
    power: int,
    first: int,
    last: int,
) -> None:
    """Take the steps first, ..., last - 1 and evaluate the layer after each; step -1 evaluates where the runs are.

    n samples of T tokens, the optimal one first; W has m coordinates, u has r, or 0 if it is not trained.

    Args:
        point: the coordinates of W, then those of u, shape (runs, m + r); moved.
        gradient: of the loss in them, of the same shape; read by the first step, overwritten.
        logit_maps: from W to the logits of all tokens but the optimal one, relative to its own: (runs, n, T - 1, m).
        score_maps: from u to the scores, shape (runs, n, T, r).
        reach: of each map's rows for each sample, from which coordinate on they are 0, shape (2, runs, n).
        scores: how far each token scores behind `best`, shape (runs, n, T); overwritten if u is trained.
        best: shape (runs, n); 0 if u is trained.
        attention: overwritten, shape (runs, n, T).
        output: sum of attention times scores, overwritten, shape (runs, n).
        lr: of W and of u; see `along.Along`, as are the next three.
        decay: of each `lr`.
        measured_by: whose norms count for each.
        power: of the norm.
        first: number of steps taken before.
        last: number of steps taken after.
    """
    runs, samples, length = scores.shape
    ends = np.array([0, logit_maps.shape[3], logit_maps.shape[3] + score_maps.shape[3]])
    parts = 2 if score_maps.shape[3] > 0 else 1
    logits, slopes, score_slopes = np.zeros(length), np.zeros(length), np.zeros(length)
    squares, exponents = np.zeros(2), np.zeros(2, np.int64)
    for run in range(runs):
        here, slope = point[run], gradient[run]
        for step in range(first, last):
            if step >= 0:
                gap = _gap(output[run], best[run], parts == 2) if power == 2 else 0.0
                for own in range(2):
                    part = slope[ends[own] : ends[own + 1]]
                    squares[own], exponents[own] = _square(part), 0
                    if power > 0 and not (_SMALL < squares[own] < _LARGE):
                        exponents[own] = _rescale(part)
                        squares[own] = _square(part)
                for own in range(2):
                    size, exponent = lr[own] * (step + 1.0) ** -decay[own], exponents[own]
                    if power > 0:
                        total, exponent = 0.0, _NONE
                        for other in range(2):
                            if measured_by[own, other] and squares[other] != 0.0:
                                exponent = max(exponent, exponents[other])
                        if exponent == _NONE:
                            continue  # a zero gradient moves nothing
                        for other in range(2):
                            if measured_by[own, other] and squares[other] != 0.0:
                                total += math.ldexp(squares[other], 2 * (exponents[other] - exponent))
                        size *= math.ldexp(gap, -exponent) / total if power == 2 else 1.0 / math.sqrt(total)
                        size = math.ldexp(size, exponents[own] - exponent)
                    part, moved = slope[ends[own] : ends[own + 1]], here[ends[own] : ends[own + 1]]
                    for j in range(moved.size):
                        moved[j] -= size * part[j]
            slope[:] = 0.0
            for i in range(samples):
                for own in range(parts):
                    maps, found = (logit_maps, logits[1:]) if own == 0 else (score_maps, scores[run, i])
                    _products(maps[run, i], reach[own, run, i], here[ends[own] : ends[own + 1]], found)
                output[run, i] = _attend(
                    logits, scores[run, i], best[run, i], samples, attention[run, i], slopes, score_slopes
                )
                for own in range(parts):
                    maps, weights = (logit_maps, slopes[1:]) if own == 0 else (score_maps, score_slopes)
                    _gather(maps[run, i], reach[own, run, i], weights, slope[ends[own] : ends[own + 1]])


@compiled
def slopes(
    logits: np.ndarray,
    scores: np.ndarray,
    best: np.ndarray,
    attention: np.ndarray,
    output: np.ndarray,
    logit_slopes: np.ndarray,
    score_slopes: np.ndarray,
) -> None:
    """Write attention, output and the derivatives of the loss in logits and scores; all as in `descend`."""
    runs, samples, _ = scores.shape
    for run in range(runs):
        for i in range(samples):
            output[run, i] = _attend(
                logits[run, i],
                scores[run, i],
                best[run, i],
                samples,
                attention[run, i],
                logit_slopes[run, i],
                score_slopes[run, i],
            )


@part
def _attend(
    logits: np.ndarray,
    scores: np.ndarray,
    best: float,
    samples: int,
    attention: np.ndarray,
    logit_slopes: np.ndarray,
    score_slopes: np.ndarray,
) -> float:
    """One sample, with attention p, output o = sum_t p_t c_t of scores c and s = sigmoid(o - best) / n.

    The slopes are dL/dc_t = s p_t and dL/dlogit_t = s p_t (c_t - o).
    """
    top = logits[0]
    for t in range(logits.size):
        top = max(top, logits[t])
    total, output = 0.0, 0.0
    for t in range(logits.size):
        attention[t] = math.exp(logits[t] - top)
        total += attention[t]
    share = 1.0 / total
    for t in range(logits.size):
        attention[t] *= share
        output += attention[t] * scores[t]
    slope = 1.0 / (1.0 + math.exp(best - output)) / samples
    for t in range(logits.size):
        score_slopes[t] = slope * attention[t]
        logit_slopes[t] = score_slopes[t] * (scores[t] - output)
    return output


@part
def _gap(output: np.ndarray, best: np.ndarray, joint: bool) -> float:
    """The mean loss of one run minus its infimum; as `Layer.gap`."""
    total = 0.0
    for i in range(output.size):
        if joint:
            total += max(output[i], 0.0) + math.log1p(math.exp(-abs(output[i])))
        else:
            total += math.log1p(math.expm1(output[i]) / (1.0 + math.exp(best[i])))
    return total / output.size


@part
def _products(rows: np.ndarray, reach: int, vector: np.ndarray, out: np.ndarray) -> None:
    """Write rows @ vector."""
    whole = len(rows) - len(rows) % 4
    for k in range(0, whole, 4):  # four rows at a time: the vector is read once for them
        a, b, c, d = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        a_sum, b_sum, c_sum, d_sum = 0.0, 0.0, 0.0, 0.0
        for j in range(reach):
            a_sum += a[j] * vector[j]
            b_sum += b[j] * vector[j]
            c_sum += c[j] * vector[j]
            d_sum += d[j] * vector[j]
        out[k], out[k + 1], out[k + 2], out[k + 3] = a_sum, b_sum, c_sum, d_sum
    for k in range(whole, len(rows)):
        a = rows[k]
        a_sum = 0.0
        for j in range(reach):
            a_sum += a[j] * vector[j]
        out[k] = a_sum


@part
def _gather(rows: np.ndarray, reach: int, weights: np.ndarray, out: np.ndarray) -> None:
    """Add weights @ rows."""
    whole = len(rows) - len(rows) % 4
    for k in range(0, whole, 4):
        a, b, c, d = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        for j in range(reach):
            out[j] += weights[k] * a[j] + weights[k + 1] * b[j] + weights[k + 2] * c[j] + weights[k + 3] * d[j]
    for k in range(whole, len(rows)):
        a = rows[k]
        for j in range(reach):
            out[j] += weights[k] * a[j]


@part
def _square(vector: np.ndarray) -> float:
    total = 0.0
    for j in range(vector.size):
        total += vector[j] * vector[j]
    return total


@part
def _rescale(vector: np.ndarray) -> int:
    """Divide by a power of two, which brings the largest entry near 1 and changes no digit; return its exponent.

    Calls that no compiler looks into: a product with that power, which may itself be no number, could be taken with
    another factor first.
    """
    largest = 0.0
    for j in range(vector.size):
        largest = max(largest, abs(vector[j]))
    exponent = math.frexp(largest)[1]
    for j in range(vector.size):
        vector[j] = math.ldexp(vector[j], -exponent)
    return exponent
