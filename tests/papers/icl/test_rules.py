"""Every rule on both kinds of experiment against one optimizer on the plain problem, with autograd, seed by seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import icl as reference
from workflow.lib import optim, rooms
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.plan.matrix import example

RULES = {
    **{name: {} for name in optim.names()},
    "sgd": {"momentum": 0.9},
    "sngd": {"momentum": 0.5, "lr": 0.01},
    "preconditioned_prox": {"penalty": 1e-7},
    "torch.optim.RMSprop": {},
    "torch.optim.AdamW": {},
    "torch.optim.SGD": {"momentum": 0.9, "nesterov": True},
    "torch.optim.Adafactor": {},
    "torch.optim.LBFGS": {"max_iter": 3},
    "tests.heavy_ball.HeavyBall": {},
}
HOW = {
    **dict.fromkeys(("adam", "gd", "torch.optim.RMSprop", "torch.optim.AdamW"), "entries"),
    **dict.fromkeys(("ngd", "sngd", "polyak", "sps", "led_ngd"), "coordinates"),
    **dict.fromkeys(("preconditioned_prox", "torch.optim.Adafactor", "torch.optim.LBFGS"), "matrices"),
}
STEPS = 12


def build(optimizer, parameter):
    """One optimizer for one run, which knows nothing of stacks."""
    return optim.build(optimizer.rule, [parameter], stacked=False, **optimizer.hyperparameters)


def follow(optimizer, shape, loss_of):
    """The parameters at every step of a plain descent from zero."""
    parameter = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    steps = build(optimizer, parameter)
    path = []

    def closure():
        steps.zero_grad()
        loss = loss_of(parameter)
        loss.backward()
        return loss

    for _ in range(STEPS + 1):
        path.append(parameter.detach().clone())
        steps.step(closure)
    return torch.stack(path).numpy()


def agrees(found, expected):
    assert np.abs(expected[-1]).max() > 1e-4, "nothing moved"
    assert np.abs(found - expected).max() < 1e-8 * np.abs(expected).max()


@pytest.mark.parametrize("rule", RULES)
def test_prompts(rule):
    settings = {"epochs": STEPS, "record_every": 1, "prompts": 30, "fresh_prompts": 5, "dimension": 8}
    experiment = rooms.load_paper("icl", {"experiments": {"imbalanced": {"settings": settings}}}).experiment(
        "imbalanced"
    )
    optimizer = example(experiment, rule, **RULES[rule])
    data = {seed: rooms.generate(experiment)(experiment, experiment.seed(seed)) for seed in (0, 1)}
    run = rooms.train(experiment)(experiment, optimizer, data, Job())
    for place, arrays in enumerate(data.values()):
        features, tasks = torch.as_tensor(arrays["features"]), torch.as_tensor(arrays["tasks"])
        inputs, queries = features[arrays["tokens"]], features[arrays["query"]]
        labels, targets = (inputs @ tasks[:, :, None])[:, :, 0], (queries * tasks).sum(1)

        def loss_of(key_query, inputs=inputs, labels=labels, queries=queries, targets=targets):
            return (reference.predict(key_query, inputs, labels, queries)[0] - targets).square().mean() / 2

        path = follow(optimizer, (8, 8), loss_of)
        agrees(run.parameters["logits"][place], arrays["features"] @ path @ arrays["features"].T)


def population(size, lengths=("infinite",)):
    settings = {"feature_counts": {"value": [size]}, "phases_of": size, "plateau_of": size, "snapshots": 100}
    changes = {
        "settings": {**settings, "context_lengths": {"value": list(lengths)}},
        "optimizers": {"gd": {"lr": 1.0, "iterations": STEPS}},
    }
    return rooms.load_paper("icl", {"experiments": {"population": changes}}).experiment("population")


def both(experiment, rule):
    lr = {"lr": 0.3} if "lr" in optim.hyperparameters(rule).model_fields else {}
    optimizer = example(experiment, rule, **{**lr, **RULES[rule]})
    data = {seed: rooms.generate(experiment)(experiment, experiment.seed(seed)) for seed in (0, 1)}
    run = rooms.train(experiment)(experiment, optimizer, data, Job())
    np.testing.assert_array_equal(run.parameters["logits"][0], run.parameters["logits"][1])
    return optimizer, run.parameters["logits"][0]


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("rule", RULES)
def test_population(rule, size):
    experiment = population(size)
    optimizer, found = both(experiment, rule)
    if rule in HOW:
        assert experiment.settings.carried(optimizer) == HOW[rule]
    rare = 0.5 / (size - 1)
    for queries, p in ((("dominant", "rare"), [0.5, *[rare] * (size - 1)]), (("balanced",), [1 / size] * size)):
        probabilities = torch.tensor(p, dtype=torch.float64)
        path = follow(optimizer, (size, size), lambda s, p=probabilities: reference.population_loss(s, p))
        for query in queries:
            mine = found[:, QUERIES.index(query)]
            if query == "dominant":
                agrees(mine[:, [0, 2]], path[:, [0, 1], 0])
            else:  # key 0 is a dominant one, and key 2 another
                agrees(mine, path[:, [1, 0, 2], 1])


@pytest.mark.parametrize("rule", ["ngd", "sgd", "preconditioned_prox"])
def test_population_at_finite_length(rule):
    """Coordinates and matrices agree with autograd over every prompt of N tokens."""
    size, length = 3, 4
    optimizer, found = both(population(size, [length]), rule)
    p = [0.5, 0.25, 0.25]

    def loss_of(s):
        return sum(p[k] * reference.finite_loss(s[:, k], p, k, length)[0] for k in range(size))

    path = follow(optimizer, (size, size), loss_of)
    agrees(found[:, QUERIES.index("rare")], path[:, [1, 0, 2], 1])
    agrees(found[:, QUERIES.index("dominant")][:, [0, 2]], path[:, [0, 1], 0])


class Uneven(torch.optim.SGD):
    """Tells equal entries apart."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p += torch.arange(p.numel(), dtype=p.dtype).view_as(p)
        return loss


def test_a_rule_that_tells_equal_entries_apart_needs_long_prompts():
    name = f"{__name__}.Uneven"
    experiment = population(3)
    optimizer = example(experiment, name, lr=0.1)
    data = {0: rooms.generate(experiment)(experiment, experiment.seed(0))}
    assert experiment.settings.carried(optimizer) == "matrices"
    rooms.train(experiment)(experiment, optimizer, data, Job())
    finite = population(3, [4])
    data = {0: rooms.generate(finite)(finite, finite.seed(0))}
    with pytest.raises(UserError, match=r"finite context_lengths: the rule gives different steps to entries"):
        rooms.train(finite)(finite, optimizer, data, Job())
