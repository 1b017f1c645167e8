"""Compiled loops: drawing a batch, and its gradients.

Drawing T x B tokens and passing over them twice is all that costs anything in this paper. Tokens are stored in a
byte each, never as one-hot vectors, and both passes go block by block, so that rows of the attention and of its
gradient stay in the fastest cache while the whole batch goes by; states are taken in pairs, and so are sequences that
look with the same column, which share what is read and written of it. Randomness comes from
xoshiro256++ (Blackman and Vigna, ACM TOMS 2021), run in `LANES` independent streams side by side so that the compiler
can use vector units: several times as fast as a NumPy generator, from whose seed sequence the streams start.

Rows here are the paper's columns: `value[m]` is V's column m (after state m), `attention[k]` is a^(k).
"""

from __future__ import annotations

import math

import numpy as np

from workflow.lib.compiling import compiled, part

LANES = 16
_PER_WORD = 4  # tokens from one 64-bit word
_PER_ROUND = LANES * _PER_WORD
_BLOCK = 1024  # positions; three such rows of numbers fit the fastest cache
_LINE = 64  # bytes of a line of the cache
_CHUNK = 512  # entries that are looked at together for one that is not zero


def room(shape: tuple[int, ...], kind: type = np.float64) -> np.ndarray:
    """Memory that begins where a line of the cache does: what is read or written in vectors then crosses none."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    memory = np.empty(size + _LINE, np.uint8)
    begin = -memory.ctypes.data % _LINE
    return memory[begin : begin + size].view(kind).reshape(shape)


def cuts(distribution: np.ndarray) -> np.ndarray:
    """Where 16-bit words are cut into states, shape (N-1,); probabilities are off by at most 2^-16."""
    return np.minimum(np.round(np.cumsum(distribution)[:-1] * 2**16), 2**16 - 1).astype(np.uint16)


def words_for(positions: int) -> np.ndarray:
    """Room for the random words of one sequence: its tokens, and one round for three uniform numbers."""
    return room(((-(-positions // _PER_ROUND) + 1) * LANES,), np.uint64)


@part
def _next(a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64) -> tuple[np.uint64, ...]:
    """The next word of xoshiro256++, and the state after it."""
    total = a + d
    word = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
    shifted = b << np.uint64(17)
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    return word, a, b, c, (d << np.uint64(45)) | (d >> np.uint64(19))


@compiled
def fill(state: np.ndarray, words: np.ndarray) -> None:
    """Fill `words` with random ones: xoshiro256++ in every lane; `state` (4, LANES) is advanced.

    Several steps of a lane go by between reading its state and writing it, which wait for one another. All places are
    told by their distance in one array, so that the compiler sees without looking that none overlaps another.
    """
    flat = state.reshape(4 * LANES)
    whole = words.size - words.size % (8 * LANES)
    for start in range(0, whole, 8 * LANES):
        rows = words[start : start + 8 * LANES]
        for lane in range(LANES):
            a, b, c, d = flat[lane], flat[lane + LANES], flat[lane + 2 * LANES], flat[lane + 3 * LANES]
            first, a, b, c, d = _next(a, b, c, d)
            second, a, b, c, d = _next(a, b, c, d)
            third, a, b, c, d = _next(a, b, c, d)
            fourth, a, b, c, d = _next(a, b, c, d)
            fifth, a, b, c, d = _next(a, b, c, d)
            sixth, a, b, c, d = _next(a, b, c, d)
            seventh, a, b, c, d = _next(a, b, c, d)
            eighth, a, b, c, d = _next(a, b, c, d)
            rows[lane], rows[lane + LANES] = first, second
            rows[lane + 2 * LANES], rows[lane + 3 * LANES] = third, fourth
            rows[lane + 4 * LANES], rows[lane + 5 * LANES] = fifth, sixth
            rows[lane + 6 * LANES], rows[lane + 7 * LANES] = seventh, eighth
            flat[lane], flat[lane + LANES], flat[lane + 2 * LANES], flat[lane + 3 * LANES] = a, b, c, d
    for start in range(whole, words.size, LANES):
        row = words[start : start + LANES]
        for lane in range(LANES):
            a, b, c, d = flat[lane], flat[lane + LANES], flat[lane + 2 * LANES], flat[lane + 3 * LANES]
            row[lane], a, b, c, d = _next(a, b, c, d)
            flat[lane], flat[lane + LANES], flat[lane + 2 * LANES], flat[lane + 3 * LANES] = a, b, c, d


@part
def _choose(uniform: float, cumulative: np.ndarray) -> int:
    """The index that a uniform number falls on."""
    for index in range(cumulative.size - 1):
        if uniform < cumulative[index]:
            return index
    return cumulative.size - 1


@compiled
def draw_batch(
    state: np.ndarray,
    words: np.ndarray,
    cut: np.ndarray,
    query_chances: np.ndarray,
    support: np.ndarray,
    position_chances: np.ndarray,
    next_chances: np.ndarray,
    tokens: np.ndarray,
    queries: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Draw a batch.

    Args:
        state: of the generator, shape (4, LANES); advanced.
        words: see `words_for`; overwritten.
        cut: see `cuts`.
        query_chances: cumulative stationary distribution, shape (N,).
        support: positions, shape (N, Q).
        position_chances: cumulative weights of the positions, shape (N, Q).
        next_chances: cumulative rows of the transition matrix, shape (N, N).
        tokens: overwritten, shape (B, T).
        queries: the last tokens, overwritten, shape (B,).
        targets: the next tokens, overwritten, shape (B,).
    """
    halves = words.view(np.uint16)
    count = tokens.shape[1]
    last = words.size - LANES
    unit = 2.0**-53
    for b in range(queries.size):
        fill(state, words)
        row = tokens[b]
        for n in range(0, cut.size, 2):  # two cuts at a time; the last one alone comes twice
            one, other, both = cut[n], cut[min(n + 1, cut.size - 1)], np.uint8(n + 1 < cut.size)
            if n == 0:
                for t in range(count):
                    row[t] = np.uint8(halves[t] >= one) + both * np.uint8(halves[t] >= other)
            else:
                for t in range(count):
                    row[t] += np.uint8(halves[t] >= one) + both * np.uint8(halves[t] >= other)
        query = _choose((words[last] >> np.uint64(11)) * unit, query_chances)
        copied = support[query, _choose((words[last + 1] >> np.uint64(11)) * unit, position_chances[query])]
        queries[b] = query
        targets[b] = _choose((words[last + 2] >> np.uint64(11)) * unit, next_chances[row[copied]])


@compiled
def gradients(
    tokens: np.ndarray,
    queries: np.ndarray,
    targets: np.ndarray,
    attention: np.ndarray,
    value: np.ndarray,
    attention_gradient: np.ndarray,
    value_gradient: np.ndarray,
) -> float:
    """Write the gradients of a batch's mean loss 1/2 ||x_o - V X a^(k)||^2 and return the loss.

    With h = X a^(k) and r = V h - x_o: grad_V = mean r h^T and grad_{a^(k)} = mean over b with k_b = k of
    X^T V^T r (docs/papers/scb.md, sections 4 and 6). The one-hot rows of X sum to 1, so N-1 of them suffice in both
    passes; a sparse a^(k) is summed over its non-zero entries only.

    Args:
        tokens: shape (B, T).
        queries: shape (B,).
        targets: shape (B,).
        attention: shape (N, T).
        value: shape (N, N).
        attention_gradient: overwritten, shape (N, T).
        value_gradient: overwritten, shape (N, N).
    """
    batch, positions = tokens.shape
    states = len(value)
    last = states - 1
    pairs = _pairs(queries, states)
    hidden = _attend(tokens, queries, pairs, attention)
    residual, back = np.empty(states), np.zeros((batch + 1, states))
    common = np.zeros(states)
    loss = 0.0
    value_gradient[:] = 0.0
    for b in range(batch):
        for n in range(states):
            total = -1.0 if n == targets[b] else 0.0
            for m in range(states):
                total += value[m, n] * hidden[b, m]
            residual[n] = total
            loss += total * total
        for m in range(states):
            total = 0.0
            for n in range(states):
                total += value[m, n] * residual[n]
                value_gradient[m, n] += hidden[b, m] * residual[n] / batch
            back[b, m] = total / batch
        common[queries[b]] += back[b, last]
        for m in range(last):
            back[b, m] -= back[b, last]
        back[b, last] = 0.0
    for k in range(states):
        attention_gradient[k] = common[k]
    for start in range(0, positions, _BLOCK):
        stop = min(start + _BLOCK, positions)
        for b, c in pairs:
            row, other_row = tokens[b, start:stop], tokens[c % batch, start:stop]
            gradient = attention_gradient[queries[b], start:stop]
            for n in range(0, last, 2):
                one, other = np.uint8(n), np.uint8(n + 1)  # compared as bytes, not as the indices they are
                b_one, b_other, c_one, c_other = back[b, n], back[b, n + 1], back[c, n], back[c, n + 1]
                for t in range(stop - start):
                    gradient[t] += (b_one if row[t] == one else (b_other if row[t] == other else 0.0)) + (
                        c_one if other_row[t] == one else (c_other if other_row[t] == other else 0.0)
                    )
    return loss / (2.0 * batch)


@part
def _pairs(queries: np.ndarray, states: int) -> np.ndarray:
    """Sequences two by two with the same last token, shape (pairs, 2); a last one goes with B, which is none."""
    batch = queries.size
    pairs = np.full(((batch + states) // 2, 2), batch)
    found = 0
    for k in range(states):
        side = 0
        for b in range(batch):
            if queries[b] == k:
                pairs[found, side] = b
                found += side
                side = 1 - side
        found += side
    return pairs[:found]


@part
def _find(row: np.ndarray, where: np.ndarray) -> None:
    """Write the places of all entries that are not zero into `where`, which is long enough."""
    found = 0
    for start in range(0, row.size, _CHUNK):
        chunk = row[start : start + _CHUNK]
        used = 0
        for t in range(chunk.size):
            used += chunk[t] != 0.0
        if used:  # in few of the chunks
            for t in range(chunk.size):
                if chunk[t] != 0.0:
                    where[found] = start + t
                    found += 1


@part
def _attend(tokens: np.ndarray, queries: np.ndarray, pairs: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The hidden vectors h = X a^(k) of every sequence, shape (B + 1, N); the last row is that of no sequence."""
    batch, positions = tokens.shape
    states = len(attention)
    last = states - 1
    few = positions // 16
    where, counts = np.empty((states, few), np.int64), np.zeros(states, np.int64)
    sums = np.zeros(states)
    for k in range(states):
        row_sum, used = 0.0, 0.0
        for t in range(positions):
            row_sum += attention[k, t]
            used += 1.0 if attention[k, t] != 0.0 else 0.0
        sums[k], counts[k] = row_sum, int(used)
        if counts[k] <= few:
            _find(attention[k], where[k])

    hidden = np.zeros((batch + 1, states))
    for b in range(batch):
        k = queries[b]
        if counts[k] <= few:
            for i in range(counts[k]):
                hidden[b, tokens[b, where[k, i]]] += attention[k, where[k, i]]
    for start in range(0, positions, _BLOCK):
        stop = min(start + _BLOCK, positions)
        for b, c in pairs:
            k = queries[b]
            if counts[k] <= few:
                continue
            row, other_row, weights = tokens[b, start:stop], tokens[c % batch, start:stop], attention[k, start:stop]
            for n in range(0, last, 2):
                one, other = np.uint8(n), np.uint8(n + 1)
                b_one, b_other, c_one, c_other = 0.0, 0.0, 0.0, 0.0
                for t in range(stop - start):
                    weight = weights[t]  # read once, and not only where it is added
                    b_one += weight if row[t] == one else 0.0
                    b_other += weight if row[t] == other else 0.0
                    c_one += weight if other_row[t] == one else 0.0
                    c_other += weight if other_row[t] == other else 0.0
                hidden[b, n] += b_one
                hidden[b, n + 1] += b_other
                hidden[c, n] += c_one
                hidden[c, n + 1] += c_other
    for b in range(batch):
        if counts[queries[b]] > few:
            rest = sums[queries[b]]
            for n in range(last):
                rest -= hidden[b, n]
            hidden[b, last] = rest
    return hidden


@compiled
def proximal_steps(
    rows: np.ndarray,
    gradient: np.ndarray,
    lr: float,
    threshold: float,
    weights: np.ndarray,
    keep_mean: bool,
) -> None:
    """`proximal_step` of the optimizer `preconditioned_prox`, for every run and in place.

    Args:
        rows: shape (runs, N, entries); overwritten.
        gradient: of the same shape; overwritten where `keep_mean`.
        lr: factor of the preconditioned gradient.
        threshold: of the soft thresholding.
        weights: shape (runs, N).
        keep_mean: also keep the mean of a run's rows, weighted by `weights`.
    """
    runs, states, entries = rows.shape
    for run in range(runs):
        if keep_mean:  # the preconditioned gradients come first, for the mean over all rows
            for k in range(states):
                slope = gradient[run, k]
                mean = _mean(slope)
                for t in range(entries):
                    slope[t] = (slope[t] - mean) / weights[run, k]
            for t in range(entries):
                mean = 0.0
                for k in range(states):
                    mean += weights[run, k] * gradient[run, k, t]
                for k in range(states):
                    gradient[run, k, t] -= mean
        for k in range(states):
            slope = gradient[run, k]
            size, mean = (lr, 0.0) if keep_mean else (lr / weights[run, k], _mean(slope))
            _proximal_row(rows[run, k], slope, mean, size, threshold)


@part
def _mean(row: np.ndarray) -> float:
    total = 0.0
    for t in range(row.size):
        total += row[t]
    return total / row.size


@part
def _proximal_row(row: np.ndarray, slope: np.ndarray, mean: float, size: float, threshold: float) -> None:
    """One row's step along `slope - mean`, soft-thresholded; what it lost is shared among its non-zero entries."""
    if threshold == 0.0:
        for t in range(row.size):
            row[t] -= size * (slope[t] - mean)
        return
    before, after, kept = 0.0, 0.0, 0.0
    for t in range(row.size):
        before += row[t]
        moved = row[t] - size * (slope[t] - mean)
        moved -= min(max(moved, -threshold), threshold)
        row[t] = moved
        after += moved
        kept += 1.0 if moved != 0.0 else 0.0
    share = (before - after) / (kept if kept != 0.0 else row.size)
    for t in range(row.size):
        row[t] += share if row[t] != 0.0 or kept == 0.0 else 0.0
