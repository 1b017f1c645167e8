"""Plain twins of the icl room: raw prompts and dense K x K logits, autograd, one run at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch


def predict(key_query, inputs, labels, query_inputs, mask_query=True):
    """yhat of one softmax-attention layer, shape (M,), and the attention on the labelled tokens, shape (M, N).

    key_query (d, d); inputs (M, N, d); labels (M, N); query_inputs (M, d).
    """
    scores = (inputs @ (query_inputs @ key_query.T)[:, :, None])[:, :, 0]
    if not mask_query:
        own = ((query_inputs @ key_query) * query_inputs).sum(1, keepdim=True)
        scores = torch.cat([scores, own], dim=1)
        labels = torch.cat([labels, torch.zeros(len(labels), 1, dtype=labels.dtype)], dim=1)
    attention = torch.softmax(scores, dim=1)
    return (attention * labels).sum(1), attention[:, : inputs.shape[1]]


def train(features, tasks, tokens, query, *, epochs, step_size, rule="adam", mask_query=True):
    """The logits S = V Q V^T at every epoch, shape (epochs + 1, K, K), and the losses, shape (epochs + 1,).

    features (K, d); tasks (M, d); tokens (M, N); query (M,).
    """
    features = torch.as_tensor(features)
    inputs, query_inputs = features[tokens], features[query]
    tasks = torch.as_tensor(tasks)
    labels = (inputs @ tasks[:, :, None])[:, :, 0]
    targets = (query_inputs * tasks).sum(1)
    key_query = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = {"adam": torch.optim.Adam, "gd": torch.optim.SGD}[rule]([key_query], lr=step_size)
    logits, losses = [], []
    for epoch in range(epochs + 1):
        optimizer.zero_grad()
        predicted, _ = predict(key_query, inputs, labels, query_inputs, mask_query)
        loss = (predicted - targets).square().mean() / 2
        logits.append((features @ key_query.detach() @ features.T).numpy())
        losses.append(loss.item())
        if epoch < epochs:
            loss.backward()
            optimizer.step()
    return np.stack(logits), np.array(losses)


def population_loss(logits, probabilities):
    """L for prompts so long that the counts are N p, tasks integrated out; logits (K, K), rows for keys."""
    attention = torch.softmax(probabilities.log()[:, None] + logits, dim=0)
    missing = torch.eye(len(probabilities), dtype=logits.dtype) - attention
    return (missing.square().sum(0) * probabilities).sum() / 2


def population_descent(probabilities, *, step_size, iterations):
    """S after gradient descent on the population loss from zero, shape (K, K), rows for keys."""
    probabilities = torch.as_tensor(probabilities)
    logits = torch.zeros(len(probabilities), len(probabilities), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=step_size)
    for _ in range(iterations):
        optimizer.zero_grad()
        population_loss(logits, probabilities).backward()
        optimizer.step()
    return logits.detach().numpy()


def finite_loss(column, probabilities, query, length):
    """L_k of one column (K,), and the mean attention (K,), over all prompts of N tokens."""
    size = len(column)
    loss, attention = 0.0, 0.0
    for counts in itertools.product(range(length + 1), repeat=size):
        if sum(counts) != length:
            continue
        shares = (p**c / math.factorial(c) for p, c in zip(probabilities, counts, strict=True))
        chance = math.factorial(length) * math.prod(shares)
        scores = torch.softmax(torch.tensor(counts, dtype=torch.float64).log() + column, dim=0)
        loss = loss + chance * (torch.eye(size, dtype=torch.float64)[query] - scores).square().sum() / 2
        attention = attention + chance * scores
    return loss, attention


def finite_column(column, probabilities, query, length):
    """L_k, mean attention (K,) and minus the gradient of p_k L_k (K,) at one column (K,), over all prompts of N."""
    s = torch.tensor(column, dtype=torch.float64, requires_grad=True)
    loss, attention = finite_loss(s, probabilities, query, length)
    (gradient,) = torch.autograd.grad(loss * probabilities[query], s)
    return loss.item(), attention.detach().numpy(), -gradient.numpy()
