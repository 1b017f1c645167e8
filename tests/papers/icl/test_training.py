"""The fast training on counts against the plain twin on raw prompts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import icl as reference
from workflow.lib import rooms
from workflow.lib.contract import Job

RAW = ("features", "tasks", "tokens", "query")


def run(name, seeds, optimizer="adam", **settings):
    changes = {"experiments": {name: {"settings": settings}}}
    experiment = rooms.load_paper("icl", changes).experiment(name)
    data = {seed: rooms.generate(experiment)(experiment, experiment.seed(seed)) for seed in seeds}
    return experiment, data, rooms.train(experiment)(experiment, experiment.optimizers[optimizer], data, Job())


def twin(experiment, arrays, optimizer="adam"):
    chosen = experiment.optimizers[optimizer]
    return reference.train(
        **{name: arrays[name] for name in RAW},
        epochs=experiment.settings.epochs,
        step_size=chosen.hyperparameters["lr"],
        rule=chosen.rule,
        mask_query=experiment.settings.mask_query,
    )


@pytest.mark.slow
def test_trajectory_agrees_over_400_epochs():
    experiment, data, fast = run("imbalanced", [0, 1], prompts=100)
    assert experiment.settings.epochs == 400
    logits, losses = twin(experiment, data[1])
    recorded = experiment.settings.recorded
    assert np.abs(fast.parameters["logits"][1] - logits[recorded]).max() < 1e-6
    assert np.abs(fast.trace["loss"].values[1] - losses[recorded]).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "optimizer", "settings"),
    [
        ("balanced", "gd", {}),
        ("balanced", "adam", {}),
        ("imbalanced_ten", "adam", {}),
        ("basis", "adam_large", {}),
        ("imbalanced", "adam", {"mask_query": False}),
        # Prompts shorter than K: features with count zero.
        ("balanced", "adam", {"context_length": 3}),
        ("imbalanced", "adam", {"mask_query": False, "context_length": 1}),
    ],
)
def test_trajectory_agrees_in_other_settings(name, optimizer, settings):
    experiment, data, fast = run(name, [2], optimizer, epochs=40, record_every=1, prompts=100, **settings)
    logits, losses = twin(experiment, data[2], optimizer)
    assert np.abs(logits[-1]).max() > 1e-3
    assert np.abs(fast.parameters["logits"][0] - logits).max() < 1e-9
    assert np.abs(fast.trace["loss"].values[0] - losses).max() < 1e-9


def test_seeds_do_not_depend_on_their_block():
    _, _, together = run("imbalanced", [0, 1, 2], epochs=100)
    _, _, alone = run("imbalanced", [1], epochs=100)
    np.testing.assert_allclose(together.parameters["logits"][1], alone.parameters["logits"][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        together.parameters["key_query"][1], alone.parameters["key_query"][0], rtol=1e-9, atol=1e-12
    )


def test_a_run_is_bitwise_reproducible():
    _, _, once = run("balanced", [0, 1], epochs=30)
    _, _, again = run("balanced", [0, 1], epochs=30)
    assert np.array_equal(once.parameters["key_query"], again.parameters["key_query"])


def test_training_metrics_are_those_of_the_raw_prompts():
    import torch

    experiment, data, fast = run("imbalanced", [0], epochs=20)
    arrays = data[0]
    features = torch.from_numpy(arrays["features"])
    inputs, query_inputs = features[arrays["tokens"]], features[arrays["query"]]
    labels = (inputs @ torch.from_numpy(arrays["tasks"])[:, :, None])[:, :, 0]
    key_query = torch.from_numpy(fast.parameters["key_query"][0])
    predicted, attention = reference.predict(key_query, inputs, labels, query_inputs)
    errors = (predicted - (query_inputs * torch.from_numpy(arrays["tasks"])).sum(1)).square().numpy() / 2
    on_target = (attention.numpy() * (arrays["tokens"] == arrays["query"][:, None])).sum(1)
    for k in range(experiment.settings.feature_count):
        mine = arrays["query"] == k
        assert fast.trace.curve("training_error", k + 1).final()[0] == pytest.approx(errors[mine].mean(), abs=1e-12)
        assert fast.trace.curve("training_attention", k + 1).final()[0] == pytest.approx(
            on_target[mine].mean(), abs=1e-12
        )


def test_a_diverging_seed_is_recorded_and_the_rest_is_left_out():
    changes = {"experiments": {"balanced": {"optimizers": {"adam": {"lr": 1e308}}, "settings": {"epochs": 10}}}}
    experiment = rooms.load_paper("icl", changes).experiment("balanced")
    data = {0: rooms.generate(experiment)(experiment, experiment.seed(0))}
    fast = rooms.train(experiment)(experiment, experiment.optimizers["adam"], data, Job())
    assert fast.trace["diverged_at"].final()[0] == 2
    loss = fast.trace["loss"].values[0]
    assert np.isfinite(loss[0])
    assert np.isnan(loss[1:]).all()


class TestData:
    def test_features_are_orthonormal_and_dense(self):
        _, data, _ = run("imbalanced_ten", [0], epochs=1)
        features = data[0]["features"]
        assert features.shape == (10, 100)
        np.testing.assert_allclose(features @ features.T, np.eye(10), atol=1e-12)
        # The gain of an A_k per Adam step, in step sizes: 34 at d = 100 against 1 along the axes.
        assert np.abs(features.T @ features).sum() / 10 > 10

    def test_users_features_are_taken_as_they_are(self):
        own = [[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]]
        settings = {"feature_count": 2, "dimension": 3, "features": {"value": own}, "epochs": 1}
        _, data, _ = run("balanced", [0], **settings)
        assert np.array_equal(data[0]["features"], own)

    def test_frequencies(self):
        experiment, data, _ = run("imbalanced", range(5), epochs=1)
        p = experiment.settings.distribution
        tokens = np.concatenate([block["tokens"].ravel() for block in data.values()])
        found = np.bincount(tokens, minlength=5) / tokens.size
        assert np.abs(found - p).max() < 5 * np.sqrt(0.25 / tokens.size)
        assert all((block["fresh_counts"].sum(axis=1) == 100).all() for block in data.values())

    def test_seeds_differ(self):
        _, data, _ = run("balanced", [0, 1], epochs=1)
        for name in RAW:
            assert not np.array_equal(data[0][name], data[1][name])
