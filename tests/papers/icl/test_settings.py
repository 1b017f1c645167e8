"""Bad settings of the icl room are refused by name, with what was found and what is allowed."""

from __future__ import annotations

import pytest

from workflow.lib import rooms
from workflow.lib.errors import UserError

EYE = [[1.0 if i == j else 0.0 for j in range(50)] for i in range(5)]
SKEWED = [[1.0, 0.5, *[0.0] * 48], *EYE[1:]]

PROMPTS = {
    "K above d": ({"feature_count": 60}, r"feature_count: found 60, expected at most dimension = 50"),
    "K of one": ({"feature_count": 1}, r"feature_count: .*greater than or equal to 2; found 1"),
    "sum not one": ({"probabilities": [0.5, 0.2, 0.2, 0.2, 0.2]}, r"probabilities: .*sum to 1, found the sum 1.3"),
    "negative": ({"probabilities": [1.2, -0.2, 0, 0, 0]}, r"probabilities: .*between 0 and 1, found 1.2"),
    "negative dominant": ({"probabilities": -0.5}, r"probabilities: .*between 0 and 1, found -0.5"),
    "one too few": ({"probabilities": [0.5, 0.5]}, r"probabilities: found 2 numbers, expected feature_count = 5"),
    "no numbers": ({"probabilities": "even"}, r"probabilities: expected balanced, or .*found 'even'"),
    "empty prompts": ({"context_length": 0}, r"context_length: .*greater than 0; found 0"),
    "no prompts": ({"prompts": 0}, r"prompts: .*greater than 0; found 0"),
    "part of a token": ({"context_length": 2.5}, r"context_length: expected a whole number, found 2.5"),
    "not orthonormal": ({"features": SKEWED}, r"features: expected orthonormal vectors, found <v_1, v_1> = 1.25"),
    "not orthogonal": ({"features": [EYE[0], EYE[0]]}, r"features: .*found <v_1, v_2> = 1 instead of 0"),
    "too few features": ({"features": EYE[:4]}, r"features: found 4 vectors of 50 numbers, expected feature_count = 5"),
    "ragged": ({"features": [[1.0, 0.0], [0.0]]}, r"features: expected vectors of one length, found 2 and 1"),
    "unknown features": (
        {"features": "sparse"},
        r"features: expected dense, basis or a list of vectors, found 'sparse'",
    ),
    "not a probability": ({"error_threshold": 2}, r"error_threshold: .*less than or equal to 1; found 2"),
    "unknown key": ({"contxt_length": 5}, r"unknown setting 'contxt_length'.*Did you mean 'context_length'"),
}

POPULATION = {
    "two features": ({"feature_counts": [2, 10]}, r"feature_counts: expected at least 3 features each, found 2"),
    "unordered": ({"feature_counts": [160, 80]}, r"feature_counts: expected numbers in increasing order"),
    "phases of none": ({"phases_of": 50}, r"phases_of: found 50, expected one of feature_counts"),
    "too long": ({"context_lengths": [5000]}, r"context_lengths.*less than or equal to 2000"),
    "a length twice": ({"context_lengths": [40, 40]}, r"context_lengths: expected lengths without repetitions"),
    "no length": ({"context_lengths": ["long"]}, r"context_lengths.*'long'"),
    "certain": ({"dominant_probability": 1}, r"dominant_probability: found 1.0, expected between 0 and 1"),
}


def load(name, settings):
    bare = {key: {"value": value} for key, value in settings.items()}
    return rooms.load_paper("icl", {"experiments": {name: {"settings": bare}}})


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(case):
    settings, message = PROMPTS[case]
    with pytest.raises(UserError, match=r"icl\.experiments\.balanced\.settings.*" + message):
        load("balanced", settings)


@pytest.mark.parametrize("case", POPULATION)
def test_population(case):
    settings, message = POPULATION[case]
    with pytest.raises(UserError, match=r"icl\.experiments\.population\.settings.*" + message):
        load("population", settings)


def test_an_optimizer_needs_its_iterations():
    overlay = {"experiments": {"population": {"optimizers": {"adam": {"lr": 0.1}}}}}
    with pytest.raises(UserError, match=r"population\.optimizers\.adam\.iterations: is missing"):
        rooms.load_paper("icl", overlay)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("balanced", (0.2,) * 5), (0.5, (0.5, *[0.125] * 4)), ([0.4, 0.3, 0.2, "1e-1", 0.0], (0.4, 0.3, 0.2, 0.1, 0.0))],
)
def test_probabilities(given, expected):
    settings = load("balanced", {"probabilities": given}).experiment("balanced").settings
    assert settings.distribution == pytest.approx(expected)
