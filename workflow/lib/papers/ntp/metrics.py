"""Targets, alignments, gaps and rates of finished runs (docs/papers/ntp.md, section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.max_margin import max_margin
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.language import DataSet
from workflow.lib.papers.ntp.settings import Strings, TwoStage
from workflow.lib.papers.ntp.snapshots import snapshot_steps
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import DATA, Trace


def measure(experiment: Experiment[TwoStage], data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """Everything that the figures and claims of this paper read.

    Per optimizer: what training recorded, the alignments `cos_ov` and `cos_kq` with the max-margin targets, the
    least attention on an optimal token, the accuracies on training and unseen sentences, the least logit gaps of
    Theorem 3 and the loss floor. Of the data: norms and residuals of the targets, roles and collocation.
    """
    sets = [DataSet.from_arrays(arrays) for arrays in data.values()]
    value_targets = [value_target(d) for d in sets]
    key_query_targets = [key_query_target(d) for d in sets]
    measured = {
        label: _measure_run(experiment, sets, value_targets, key_query_targets, run) for label, run in runs.items()
    }

    facts = Trace(data)
    facts.record("violations", 0, [len(language.violations(d)) for d in sets])
    facts.record("norm_value_target", 0, [np.linalg.norm(w) for w in value_targets])
    closed_forms = [value_target_closed_form(d) for d in sets]
    errors = [np.abs(w - closed).max() for w, closed in zip(value_targets, closed_forms, strict=True)]
    facts.record("value_target_error", 0, errors)
    facts.record("norm_key_query_target", 0, [np.linalg.norm(w) for w in key_query_targets])
    closed_forms = [proposition_2(d) for d in sets]
    facts.record("cos_proposition_2", 0, cosines(np.stack(closed_forms)[:, None], key_query_targets))
    # The language itself, for the schematic: what follows x, and the role of x for the query q, at index (q, x).
    facts.record_array("collocation", 0, [d.collocation for d in sets])
    facts.record_array("role", 0, [language.roles(language.orders(d)) for d in sets])
    measured[DATA] = facts
    return measured


def _measure_run(
    experiment: Experiment[TwoStage],
    sets: Sequence[DataSet],
    value_targets: Sequence[np.ndarray],
    key_query_targets: Sequence[np.ndarray],
    run: Run,
) -> Trace:
    settings = experiment.settings
    trace = Trace(run.seeds)
    trace.update(run.trace)
    steps_ov, steps_kq = snapshot_steps(settings.steps_ov), snapshot_steps(settings.steps_kq)
    size = sets[0].vocabulary_size
    trace.record("cos_ov", steps_ov, cosines(run.parameters["value"], value_targets))
    trace.record("cos_kq", steps_kq, cosines(run.parameters["key_query"], key_query_targets))
    closed_forms = [proposition_2(d) for d in sets]
    trace.record("cos_kq_proposition_2", settings.steps_kq, cosines(run.parameters["key_query"][:, -1:], closed_forms))
    # Tokens span the first V of the d dimensions; nothing else ever moves, and no sentence sees it.
    value, key_query = run.parameters["value"][..., :size], run.parameters["key_query"][..., :size, :size]

    last = [(v, w, d) for v, w, d in zip(value[:, -1], key_query[:, -1], sets, strict=True)]
    attended = [_on_training_sentences(*run_of_seed) for run_of_seed in last]
    trace.record("attention_on_optimal", settings.steps_kq, [on_optimal.min() for on_optimal, _ in attended])
    trace.record("accuracy", settings.steps_kq, [right.mean() for _, right in attended])
    trace.record("loss_floor", settings.steps_kq, [loss_floor(v, d) for v, _, d in last])
    roles = [language.roles(language.orders(d)) for d in sets]
    found = [gaps(snapshots, role) for snapshots, role in zip(key_query, roles, strict=True)]
    trace.record("optimal_gap", steps_kq, [optimal for optimal, _ in found])
    trace.record("non_comparable_gap", steps_kq, [other for _, other in found])
    unseen = [language.unseen_sentences(d) for d in sets]
    for kind in language.UNSEEN:
        results = [predict(v, w, *found[kind]) for (v, w, _), found in zip(last, unseen, strict=True)]
        trace.record(f"unseen_{kind}", settings.steps_kq, [right.size for right, _ in results])
        trace.record(f"accuracy_{kind}", settings.steps_kq, [_mean(right) for right, _ in results])
        trace.record(f"probability_{kind}", settings.steps_kq, [_mean(p) for _, p in results])
    if isinstance(settings, Strings):
        _, alphabet = language.from_strings(settings.strings)
        sentences, following = language.encode(settings.probes, alphabet)
        probabilities = [predict(v, w, sentences, following)[1] for v, w, _ in last]
        trace.record_array("probe_probability", settings.steps_kq, probabilities)
    return trace


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def value_target(data: DataSet) -> np.ndarray:
    """W_ov* of problem (2), shape (V, V): the least W with (e_n(x) - e_v)^T W x >= 1 for all x and v != n(x).

    The columns decouple: each token's constraints touch its own column only.
    """
    size = data.vocabulary_size
    target = np.zeros((size, size))
    for token, following in enumerate(data.collocation):
        target[:, token] = _value_column(size, int(following))
    return target


@cache
def _value_column(size: int, following: int) -> np.ndarray:
    """The column of W_ov* of a token that `following` follows: the same in every language of `size` tokens."""
    return max_margin(np.eye(size)[following] - np.delete(np.eye(size), following, axis=0)).w


def value_target_closed_form(data: DataSet) -> np.ndarray:
    """W_ov* = sum_x (e_n(x) - 1/V) x^T, the closed form for orthonormal tokens (derived), shape (V, V)."""
    size = data.vocabulary_size
    return np.eye(size)[data.collocation].T - 1 / size


def key_query_pairs(data: DataSet) -> list[tuple[int, int, int]]:
    """The distinct triples (query, optimal token, non-optimal token) that share a sentence: (3)'s constraints."""
    pairs = set()
    optimal, role = language.optimal_tokens(data), language.roles(language.orders(data))
    for sentence, query, best in zip(data.sentences, data.last, optimal, strict=True):
        for token in sentence[sentence >= 0]:
            if role[query, token] == language.NON_OPTIMAL:
                pairs.add((int(query), int(best), int(token)))
    return sorted(pairs)


def key_query_target(data: DataSet) -> np.ndarray:
    """W_kq* of problem (3), shape (V, V): the least W with (x_opt - x_non)^T W x_L >= 1 in every sentence.

    Solved as a quadratic program over the pairs that occur. Proposition 2's closed form is not used: it holds only
    if every optimal and non-optimal token of a query share a sentence (docs/papers/ntp.md, section 7).
    """
    size = data.vocabulary_size
    target = np.zeros((size, size))
    pairs = key_query_pairs(data)
    for query in {q for q, _, _ in pairs}:
        constraints = [np.eye(size)[best] - np.eye(size)[other] for q, best, other in pairs if q == query]
        target[:, query] = max_margin(np.array(constraints)).w
    return target


def proposition_2(data: DataSet) -> np.ndarray:
    """Proposition 2's closed form of W_kq*, shape (V, V): right where all pairs of a query share a sentence."""
    role = language.roles(language.orders(data)).T  # [x, q]
    optimal, other = role == language.OPTIMAL, role == language.NON_OPTIMAL
    counts = np.maximum(optimal.sum(axis=0) + other.sum(axis=0), 1)
    return (optimal * other.sum(axis=0) - other * optimal.sum(axis=0)) / counts


def cosines(snapshots: np.ndarray, targets: Sequence[np.ndarray]) -> np.ndarray:
    """<W, W*> / (||W|| ||W*||), shape (seeds, n); NaN for W = 0.

    Args:
        snapshots: whole matrices W, shape (seeds, n, rows, columns); their norm counts what lies outside the span of
            the tokens too, as panels 3 and 6 do.
        targets: one per seed, at most as large as W; 0 beyond.
    """
    aims = np.zeros((len(targets), *snapshots.shape[2:]))
    for aim, target in zip(aims, targets, strict=True):
        aim[: target.shape[0], : target.shape[1]] = target / np.linalg.norm(target)
    norms = np.linalg.norm(snapshots.reshape(*snapshots.shape[:2], -1), axis=-1)
    with np.errstate(invalid="ignore"):
        return np.einsum("snij,sij->sn", snapshots, aims) / np.where(norms > 0, norms, np.nan)


def loss_floor(value: np.ndarray, data: DataSet) -> float:
    """L with all attention on the optimal tokens: what it tends to for a frozen W_ov (V, d)."""
    optimal = np.concatenate([np.arange(data.vocabulary_size), language.optimal_tokens(data)])
    right = np.concatenate([data.collocation, data.next_token])
    logits = value[:, optimal].T
    margins = logits - logits[np.arange(right.size), right][:, None]
    margins[np.arange(right.size), right] = -np.inf
    return float(np.log1p(np.exp(margins).sum(axis=1)).sum())


def gaps(key_query: np.ndarray, roles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two least logit gaps of Theorem 3 over all queries, for W_kq (..., V, V) and `language.roles` (V, V).

    Returns:
        Optimal minus non-comparable, and non-comparable minus non-optimal, each (...).
    """
    role = roles.T  # [x, q], as W_kq

    def extreme(which: int, pick: np.ufunc, empty: float) -> np.ndarray:
        return pick.reduce(np.where(role == which, key_query, empty), axis=-2)

    best = extreme(language.OPTIMAL, np.minimum, np.inf)
    worst = extreme(language.NON_OPTIMAL, np.maximum, -np.inf)
    middle_high = extreme(language.NON_COMPARABLE, np.maximum, -np.inf)
    middle_low = extreme(language.NON_COMPARABLE, np.minimum, np.inf)
    return (best - middle_high).min(axis=-1), (middle_low - worst).min(axis=-1)


def predict(
    value: np.ndarray, key_query: np.ndarray, sentences: np.ndarray, following: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the model's most likely next token is `following`, and that token's probability, each (n,).

    Args:
        value: W_ov, shape (V, d).
        key_query: W_kq, shape (d, d).
        sentences: shape (n, L), padded by -1.
        following: shape (n,).
    """
    logits = np.einsum("nl,nlv->nv", attention(key_query, sentences), value.T[sentences])
    probability = _softmax(logits)
    return logits.argmax(axis=1) == following, probability[np.arange(len(sentences)), following]


def attention(key_query: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """softmax(X^T W_kq x_L) of sentences (n, L) padded by -1, shape (n, L); 0 on padding."""
    lengths = (sentences >= 0).sum(axis=1)
    query = sentences[np.arange(len(sentences)), lengths - 1]
    return _softmax(np.where(sentences >= 0, key_query[sentences, query[:, None]], -np.inf))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension; importing scipy for it would take longer than all else here."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _on_training_sentences(value: np.ndarray, key_query: np.ndarray, data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Attention on the optimal token of each sentence, and whether each sentence is continued rightly."""
    weights = attention(key_query, data.sentences)
    on_optimal = (weights * (data.sentences == language.optimal_tokens(data)[:, None])).sum(axis=1)
    singles = value[:, : data.vocabulary_size].argmax(axis=0) == data.collocation
    right, _ = predict(value, key_query, data.sentences, data.next_token)
    return on_optimal, np.concatenate([singles, right])
