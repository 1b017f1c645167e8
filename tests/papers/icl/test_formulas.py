"""Closed errors, attention scores and drifts against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import icl as reference
from workflow.lib.papers.icl import formulas
from workflow.lib.papers.icl.prompts.model import population_loss


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def attention_by_softmax(logits, counts, k, mask_query):
    """Prompt by prompt: attention on each labelled feature, shape (R, K)."""
    rows = []
    for c in counts:
        tokens = np.repeat(np.arange(len(c)), c)
        scores = logits[np.concatenate([tokens, [] if mask_query else [k]]).astype(int), k]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        rows.append(np.bincount(tokens, weights[: len(tokens)], minlength=len(c)))
    return np.array(rows)


@pytest.mark.parametrize("mask_query", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
def test_errors_and_attention_are_the_means_over_prompts(generator, mask_query, scale):
    size, length = 4, 6
    counts = generator.multinomial(length, [0.4, 0.3, 0.2, 0.1], size=50)
    assert (counts == 0).any()
    logits = scale * generator.normal(size=(3, size, size))
    errors, attention = formulas.errors_and_attention(logits, counts, mask_query)
    for n in range(3):
        for k in range(size):
            expected = attention_by_softmax(logits[n], counts, k, mask_query)
            np.testing.assert_allclose(attention[n, :, k], expected.mean(axis=0), atol=1e-12)
            loss = ((np.eye(size)[k] - expected) ** 2).sum(axis=1).mean() / 2
            assert errors[n, k] == pytest.approx(loss, abs=1e-12)


def test_errors_keep_their_digits_near_zero():
    counts = np.array([[50, 50]])
    errors, _ = formulas.errors_and_attention(np.array([[[40.0, 0.0], [0.0, 40.0]]]), counts)
    # 1 - Attn_k = exp(-40) to first order, far below the rounding of 1; L_k is its square.
    np.testing.assert_allclose(errors[0], np.exp(-80.0), rtol=1e-12)


def test_far_apart_logits_stay_finite_and_diverged_ones_are_nan():
    counts = np.array([[3, 3]])
    logits = np.array([[[1e5, -1e5], [-1e5, 1e5]], [[np.nan, np.nan], [np.nan, np.nan]]])
    errors, attention = formulas.errors_and_attention(logits, counts)
    np.testing.assert_allclose(attention[0], np.eye(2), atol=1e-12)
    assert np.isfinite(errors[0]).all()
    assert np.isnan(errors[1]).all()


@pytest.mark.parametrize("mask_query", [True, False])
@pytest.mark.parametrize("gap", [290.0, 310.0, 350.0, 380.0, 400.0, 800.0, 1e5])
def test_a_prompt_without_the_target_is_exact_at_any_distance(gap, mask_query):
    """The second prompt lacks the target: what is left shares the attention as if the target did not exist."""
    counts = np.array([[2, 3, 1], [0, 3, 1]])
    logits = np.array([[[gap, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    errors, attention = formulas.errors_and_attention(logits, counts, mask_query)
    left = np.array([3.0, np.exp(-1.0)]) / (3 + np.exp(-1.0)) if mask_query else np.zeros(2)  # the query takes it all
    expected = (1 + (left**2).sum()) / 2
    first = attention_by_softmax(logits[0], counts[:1], 0, mask_query)[0]
    lost = (np.eye(3)[0] - first) @ (np.eye(3)[0] - first) / 2
    assert errors[0, 0] == pytest.approx((expected + lost) / 2, rel=1e-12)
    np.testing.assert_allclose(attention[0, :, 0], (first + np.array([0.0, *left])) / 2, rtol=1e-12, atol=1e-100)
    found = formulas.drifts(logits[0], counts, np.full(3, 1 / 3))
    assert np.isfinite(found).all()
    if mask_query:
        inner = (left**2).sum() - left  # the second prompt's drifts; the first one's are below exp(-gap)
        np.testing.assert_allclose(found[1:, 0], left * inner / 6, rtol=1e-12)


def test_drifts_are_minus_the_gradient(generator):
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    counts = generator.multinomial(12, probabilities, size=40)
    logits = generator.normal(size=(4, 4))
    s = torch.from_numpy(logits.copy()).requires_grad_()
    loss = population_loss(s, torch.from_numpy(counts.astype(float)), torch.from_numpy(probabilities))
    (gradient,) = torch.autograd.grad(loss, s)
    assert np.abs(gradient.numpy()).max() > 1e-3
    np.testing.assert_allclose(formulas.drifts(logits, counts, probabilities), -gradient.numpy(), atol=1e-14)


def test_population_loss_weighs_the_errors(generator):
    probabilities = np.array([0.6, 0.3, 0.1])
    counts = generator.multinomial(9, probabilities, size=30)
    logits = generator.normal(size=(3, 3))
    errors, _ = formulas.errors_and_attention(logits[None], counts)
    loss = population_loss(
        torch.from_numpy(logits), torch.from_numpy(counts.astype(float)), torch.from_numpy(probabilities)
    )
    assert loss.item() == pytest.approx(errors[0] @ probabilities, abs=1e-14)


def test_initial_errors():
    assert formulas.initial_errors(np.full(5, 0.2), 100)[0] == pytest.approx(0.404)
    imbalanced = formulas.initial_errors(np.array([0.5] + [0.125] * 4), 100)
    assert imbalanced[:2] == pytest.approx([0.159688, 0.534688], abs=1e-6)
    # Against a sample of raw prompts and tasks, at Q = 0, by the twin.
    generator = np.random.default_rng(0)
    tokens = generator.choice(5, size=(20000, 20), p=[0.5] + [0.125] * 4)
    tasks = torch.from_numpy(generator.normal(size=(20000, 5)))
    inputs = torch.eye(5, dtype=torch.float64)[tokens]
    labels = (inputs @ tasks[:, :, None])[:, :, 0]
    query = torch.eye(5, dtype=torch.float64)[np.full(20000, 2)]
    predicted, _ = reference.predict(torch.zeros(5, 5, dtype=torch.float64), inputs, labels, query)
    sampled = (predicted - tasks[:, 2]).square().mean().item() / 2
    expected = formulas.initial_errors(np.array([0.5] + [0.125] * 4), 20)[2]
    assert sampled == pytest.approx(expected, abs=0.02)
