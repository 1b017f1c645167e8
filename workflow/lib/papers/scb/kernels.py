"""Compiled loops: batches drawn and turned into gradients in one pass, a sequence at a time.

Drawing T x B tokens and passing over them twice is all that costs anything in this paper, so one loop does it while
a sequence is in the cache; nothing of the size T x B is ever stored. Randomness comes from xoshiro256++ (Blackman
and Vigna, ACM TOMS 2021), run in `LANES` independent streams side by side so that the compiler can use vector
units: five times as fast as a NumPy generator, from whose seed sequence the streams start.

Rows here are the paper's columns: `value[m]` is V's column m (after state m), `attention[k]` is a^(k).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

LANES = 16
_PER_WORD = 4  # tokens from one 64-bit word
_PER_ROUND = LANES * _PER_WORD

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile with vectorised sums (the order of summation is fixed, but not left to right).

    Compiled code is cached beside this file or in the user's cache folder; without a writable one it is
    compiled anew by every process.
    """
    loose = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning: runs may diverge
    try:
        return cast(Function, numba.njit(function, cache=True, fastmath=loose))
    except RuntimeError:
        return cast(Function, numba.njit(function, fastmath=loose))


def cuts(distribution: np.ndarray) -> np.ndarray:
    """Where 16-bit words are cut into states, shape (N-1,); probabilities are off by at most 2^-16."""
    return np.minimum(np.round(np.cumsum(distribution)[:-1] * 2**16), 2**16 - 1).astype(np.uint16)


def words_for(positions: int) -> np.ndarray:
    """Room for the random words of one sequence: its tokens, and one round for three uniform numbers."""
    return np.empty((-(-positions // _PER_ROUND) + 1) * LANES, dtype=np.uint64)


@compiled
def _fill(state: np.ndarray, words: np.ndarray) -> None:
    """Draw random words: xoshiro256++ in every lane; `state` has shape (4, LANES)."""
    for start in range(0, words.size, LANES):
        for lane in range(LANES):
            a, b, c, d = state[0, lane], state[1, lane], state[2, lane], state[3, lane]
            total = a + d
            words[start + lane] = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
            shifted = b << np.uint64(17)
            c ^= a
            d ^= b
            b ^= c
            a ^= d
            c ^= shifted
            d = (d << np.uint64(45)) | (d >> np.uint64(19))
            state[0, lane], state[1, lane], state[2, lane], state[3, lane] = a, b, c, d


@compiled
def _choose(uniform: float, cumulative: np.ndarray) -> int:
    """The index that a uniform number falls on."""
    for index in range(cumulative.size - 1):
        if uniform < cumulative[index]:
            return index
    return cumulative.size - 1


@compiled
def _draw(
    state: np.ndarray,
    words: np.ndarray,
    cut: np.ndarray,
    query_chances: np.ndarray,
    support: np.ndarray,
    position_chances: np.ndarray,
    next_chances: np.ndarray,
    tokens: np.ndarray,
) -> tuple[int, int]:
    """Draw one sequence into `tokens`; returns its last token (the query) and the next one (the target)."""
    _fill(state, words)
    halves = words.view(np.uint16)
    count = tokens.size
    for t in range(count):
        tokens[t] = np.uint8(halves[t] >= cut[0])
    for n in range(1, cut.size):
        above = cut[n]
        for t in range(count):
            tokens[t] += np.uint8(halves[t] >= above)
    last = words.size - LANES
    unit = 2.0**-53
    query = _choose((words[last] >> np.uint64(11)) * unit, query_chances)
    copied = support[query, _choose((words[last + 1] >> np.uint64(11)) * unit, position_chances[query])]
    target = _choose((words[last + 2] >> np.uint64(11)) * unit, next_chances[tokens[copied]])
    return query, target


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
    """Draw the batch that `batch_gradients` would have used, into tokens (B, T), queries (B,), targets (B,)."""
    for b in range(queries.size):
        queries[b], targets[b] = _draw(
            state, words, cut, query_chances, support, position_chances, next_chances, tokens[b]
        )


@compiled
def batch_gradients(
    state: np.ndarray,
    words: np.ndarray,
    cut: np.ndarray,
    query_chances: np.ndarray,
    support: np.ndarray,
    position_chances: np.ndarray,
    next_chances: np.ndarray,
    batch_size: int,
    attention: np.ndarray,
    value: np.ndarray,
    attention_gradient: np.ndarray,
    value_gradient: np.ndarray,
) -> float:
    """Draw a batch, write the gradients of its mean loss 1/2 ||x_o - V X a^(k)||^2 and return the loss.

    With h = X a^(k) and r = V h - x_o: grad_V = mean r h^T and grad_{a^(k)} = mean over b with k_b = k of
    X^T V^T r (papers/scb, section 4). The one-hot rows of X sum to 1, so N-1 of them suffice in both
    passes; a sparse a^(k) is summed over its non-zero entries only.

    Args:
        state: of the generator, shape (4, LANES); advanced.
        words: see `words_for`.
        cut: see `cuts`.
        query_chances: cumulative stationary distribution, shape (N,).
        support: positions, shape (N, Q).
        position_chances: cumulative weights of the positions, shape (N, Q).
        next_chances: cumulative rows of the transition matrix, shape (N, N).
        batch_size: number of sequences.
        attention: shape (N, T).
        value: shape (N, N).
        attention_gradient: overwritten, shape (N, T).
        value_gradient: overwritten, shape (N, N).
    """
    states, positions = attention.shape
    tokens = np.empty(positions, np.uint8)
    hidden, residual, back = np.empty(states), np.empty(states), np.empty(states)
    last = states - 1

    sums, filled = np.zeros(states), np.zeros(states, np.int64)
    few = positions // 16
    where = np.empty((states, few + 1), np.int64)
    for k in range(states):
        for t in range(positions):
            sums[k] += attention[k, t]
        for t in range(positions):
            if attention[k, t] != 0.0:
                where[k, min(filled[k], few)] = t
                filled[k] += 1
                if filled[k] > few:
                    break

    attention_gradient[:] = 0.0
    value_gradient[:] = 0.0
    common = np.zeros(states)
    loss = 0.0
    for _ in range(batch_size):
        k, target = _draw(state, words, cut, query_chances, support, position_chances, next_chances, tokens)
        row = attention[k]
        if filled[k] <= few:
            hidden[:] = 0.0
            for i in range(filled[k]):
                hidden[tokens[where[k, i]]] += row[where[k, i]]
        else:
            hidden[last] = sums[k]
            for n in range(last):
                total = 0.0
                for t in range(positions):
                    total += row[t] if tokens[t] == n else 0.0
                hidden[n] = total
                hidden[last] -= total
        for n in range(states):
            total = -1.0 if n == target else 0.0
            for m in range(states):
                total += value[m, n] * hidden[m]
            residual[n] = total
            loss += total * total
        for m in range(states):
            total = 0.0
            for n in range(states):
                total += value[m, n] * residual[n]
                value_gradient[m, n] += hidden[m] * residual[n]
            back[m] = total
        common[k] += back[last]
        gradient = attention_gradient[k]
        for n in range(last):
            extra = back[n] - back[last]
            for t in range(positions):
                gradient[t] += extra if tokens[t] == n else 0.0

    for k in range(states):
        for t in range(positions):
            attention_gradient[k, t] = (attention_gradient[k, t] + common[k]) / batch_size
    value_gradient /= batch_size
    return loss / (2.0 * batch_size)
