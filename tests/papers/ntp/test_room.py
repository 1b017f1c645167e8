"""ntp: the language of the data, the gradients, the targets, and Algorithm 1 against its plain twin."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.reference import ntp as plain
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.papers.ntp import language, metrics
from workflow.lib.papers.ntp.data import generate
from workflow.lib.papers.ntp.language import DataSet
from workflow.lib.papers.ntp.model import KeysAndQueries, Values, cross_entropy
from workflow.lib.papers.ntp.snapshots import snapshot_steps
from workflow.lib.papers.ntp.training import gradient_error, initial, train
from workflow.lib.plan.model import Experiment
from workflow.lib.rooms import load_paper
from workflow.lib.tables import read_traces, write_traces

EXAMPLE = ("SVOP", "VOP", "OPP", "PSV")


def experiment(name: str = "two_stage", **settings: Any) -> Experiment:
    return load_paper("ntp", {"experiments": {name: {"settings": settings}}}).experiment(name)


def run(of: Experiment, seeds: list[int]) -> tuple[dict[int, Any], Run]:
    data = {seed: generate(of, of.seed(seed)) for seed in seeds}
    return data, train(of, of.optimizers["ngd"], data, Job())


def random_data(seed: int, size: int = 8, sentences: int = 10) -> DataSet:
    return language.random_sentences(size, sentences, (2, 3), np.random.default_rng(seed))


# ---- the language ----


def test_example_1_of_the_paper() -> None:
    data, alphabet = language.from_strings(EXAMPLE)
    assert {alphabet[x]: alphabet[n] for x, n in enumerate(data.collocation)} == {
        "S": "V",
        "V": "O",
        "O": "P",
        "P": "S",
    }
    found = {tuple(alphabet[i] for i in triple) for triple in np.argwhere(language.orders(data))}
    assert found == {("S", "S", "P"), ("O", "O", "S"), ("O", "O", "V"), ("V", "V", "S"), ("P", "O", "P")}
    assert language.violations(data) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_data_sets_are_realizable(seed: int) -> None:
    data = random_data(seed, size=20, sentences=22)
    assert language.violations(data) == []
    assert len({tuple(s) for s in data.sentences.tolist()}) == 22
    optimal = language.optimal_tokens(data)
    np.testing.assert_array_equal(data.collocation[optimal], data.next_token)


@pytest.mark.parametrize(
    ("strings", "broken"),
    [
        # For the query C: A above B, then B above C: B is confused.
        (("AB", "BC", "CA", "ABCB", "BCC"), "confused"),
        # A and B are both followed by C.
        (("AC", "BC", "CA"), "not injective"),
        # The non-optimal B stands twice, the optimal A once.
        (("AB", "BC", "CA", "BBACB"), "Assumption 3"),
    ],
)
def test_data_that_are_not_realizable_are_told(strings: tuple[str, ...], broken: str) -> None:
    data, alphabet = language.from_strings([s for s in strings if len(s) == 2])
    longer = [s for s in strings if len(s) > 2]
    if longer:
        data = DataSet(data.collocation, *language.encode(longer, alphabet))
    assert any(broken in violation for violation in language.violations(data)), language.violations(data)


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        (("AB", "BA", "ABA", "ABB"), "followed by 'A' and by 'B'"),
        (("AB",), "no string starts with 'B'"),
    ],
)
def test_contradicting_strings_are_refused(strings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        language.from_strings(strings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strings": ["ab", "ac"]}, "'a' is followed by 'b' and by 'c'"),
        ({"strings": ["aa"], "probes": []}, "one letter alone"),
        ({"strings": ["ab", "bb"], "probes": []}, "the collocation is not injective"),
        ({"probes": ["XY"]}, "probes: 'XY' holds 'X'"),
    ],
)
def test_strings_are_looked_through_while_planning(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"example.settings: .*{message}"):
        load_paper("ntp", {"experiments": {"example": {"settings": settings}}})


@pytest.mark.slow
def test_more_sentences_than_can_be_placed_are_refused() -> None:
    with pytest.raises(UserError, match="contradicted an order"):
        language.random_sentences(4, 30, (2, 3), np.random.default_rng(0))


def test_unseen_sentences_against_enumeration() -> None:
    data = random_data(3, size=6, sentences=6)
    role = language.roles(language.orders(data))
    seen = {(frozenset(s[s >= 0].tolist()), q) for s, q in zip(data.sentences, data.last, strict=True)}
    expected = {"new_token": set(), "optimal_token": set()}
    for length in (2, 3):
        for sentence in permutations(range(6), length):
            kinds = sorted(role[sentence[-1], list(sentence)].tolist())
            if (frozenset(sentence), sentence[-1]) in seen:
                continue
            for name, one, others in (("new_token", 0, 2), ("optimal_token", 1, 0)):
                if kinds == sorted([one] + [others] * (length - 1)):
                    token = next(t for t in sentence if role[sentence[-1], t] == one)
                    expected[name].add((frozenset(sentence), sentence[-1], data.collocation[token]))
    for name, (sentences, following) in language.unseen_sentences(data).items():
        found = set()
        for sentence, token in zip(sentences, following, strict=True):
            tokens = sentence[sentence >= 0]
            found.add((frozenset(tokens.tolist()), tokens[-1], token))
        assert found == expected[name]
        assert len(found) == len(sentences)


# ---- losses and gradients ----


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_gradients_equal_autograd(scale: float) -> None:
    sets = [random_data(seed) for seed in (0, 1)]
    generator = torch.Generator().manual_seed(1)
    value, key_query = (scale * torch.randn(2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    loss_ov, gradient_ov = Values(sets).loss_and_gradient(value)
    loss, gradient = KeysAndQueries(sets, value).loss_and_gradient(key_query)
    for i, data in enumerate(sets):
        v, w = value[i].clone().requires_grad_(), key_query[i].clone().requires_grad_()
        expected = plain.value_loss(v, data)
        (slope,) = torch.autograd.grad(expected, v)
        torch.testing.assert_close(loss_ov[i], expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient_ov[i], slope, rtol=1e-11, atol=1e-12)
        expected = plain.loss(w, value[i], data, plain.embed(data))
        (slope,) = torch.autograd.grad(expected, w)
        torch.testing.assert_close(loss[i], expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[i], slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_6_equals_central_differences(seed: int) -> None:
    assert gradient_error([random_data(seed)], [np.random.default_rng(seed)])[0] < 1e-7


def test_tiny_losses_keep_their_digits() -> None:
    """Beyond a margin of 36 the textbook form returns exactly 0; ours stays e^-margin."""
    margins = torch.tensor([1.0, 40.0, 200.0, 600.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(4, dtype=torch.float64)], 1)
    loss, residual = cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-margins)), rtol=1e-14, atol=0)
    assert (residual[:, 0] < 0).all()
    torch.testing.assert_close(residual[:, 0], -residual[:, 1], rtol=1e-14, atol=0)


@pytest.mark.slow
def test_long_runs_do_not_dissolve_into_rounding_noise() -> None:
    """With the textbook forms 1 - cosine rises again once the margins pass 36 (specification, section 8)."""
    of = experiment("long_run", steps_kq=15_000)
    data, finished = run(of, [0])
    target = metrics.key_query_target(DataSet.from_arrays(data[0]))
    distance = 1 - metrics.cosines(finished.parameters["key_query"], [target])[0]
    late = snapshot_steps(15_000) >= 3000
    assert (np.diff(distance[late]) < 1e-6).all()
    assert distance[-1] < 0.5 * distance[late][0]


# ---- targets ----


def test_value_target_is_the_closed_form() -> None:
    data = random_data(0, size=20, sentences=22)
    target = metrics.value_target(data)
    np.testing.assert_allclose(target, metrics.value_target_closed_form(data), atol=1e-12)
    assert np.linalg.norm(target) == pytest.approx(np.sqrt(19), abs=1e-10)


@pytest.mark.slow
def test_descent_follows_the_quadratic_program_and_not_proposition_2() -> None:
    """Optimal A, B and non-optimal C, D, E, F, Q of the query Q, where B shares no sentence with C, D, F."""
    alphabet = "ABCDEFQ"
    collocation = np.array([1, 2, 3, 4, 5, 6, 0])
    data = DataSet(collocation, *language.encode(["ACQB", "ADQB", "AEQB", "AFQB", "BEQC"], alphabet))
    assert language.violations(data) == []
    target = metrics.key_query_target(data)
    role = language.roles(language.orders(data))[6]
    optimal, other = (role == language.OPTIMAL), (role == language.NON_OPTIMAL)
    closed = np.zeros((7, 7))
    closed[optimal, 6] = other.sum() / (optimal.sum() + other.sum())
    closed[other, 6] = -optimal.sum() / (optimal.sum() + other.sum())

    value = torch.from_numpy(40 * metrics.value_target(data)[None] / np.sqrt(6))
    model, w = KeysAndQueries([data], value), torch.zeros(1, 7, 7, dtype=torch.float64)
    for _ in range(4000):
        _, gradient = model.loss_and_gradient(w)
        w -= 0.01 * gradient / gradient.norm()
    to_target, to_closed = (metrics.cosines(w[:, None].numpy(), [aim])[0, 0] for aim in (target, closed))
    assert to_target > 0.99
    assert to_closed < to_target - 0.002


# ---- Algorithm 1 ----


@pytest.mark.slow
def test_the_fast_runs_equal_the_plain_twin() -> None:
    of = experiment(steps_ov=200, steps_kq=200)
    data, finished = run(of, [0, 3])
    optimizer = of.optimizers["ngd"]
    sizes = (optimizer.hyperparameters["lr"], optimizer.options.lr_kq)
    value, key_query = initial(of, [0, 3], 20)
    for i, arrays in enumerate(data.values()):
        expected = plain.train(DataSet.from_arrays(arrays), value[i], key_query[i], (200, 200), sizes)
        for metric in ("loss_ov", "loss", "norm_ov", "norm_kq"):
            np.testing.assert_allclose(finished.trace[metric].values[i, :-1], torch.stack(expected[metric]), rtol=1e-9)
        for name in ("value", "key_query"):
            np.testing.assert_allclose(finished.parameters[name][i, -1], expected[name][0], atol=1e-9)


def test_the_block_size_does_not_matter() -> None:
    of = experiment(steps_ov=150, steps_kq=150)
    _, together = run(of, list(range(10)))
    for seed in (0, 4, 9):
        _, alone = run(of, [seed])
        for (metric, _), curve in together.trace.items():
            if metric == "gradient_error":  # what central differences leave is rounding noise
                continue
            np.testing.assert_allclose(alone.trace[metric].values[0], curve.values[seed], rtol=1e-9, err_msg=metric)


def test_a_larger_embedding_changes_no_loss() -> None:
    """Tokens span the first V dimensions; the others get no gradient."""
    _, narrow = run(experiment("zero_init", steps_ov=20, steps_kq=20), [0])
    _, wide = run(experiment("zero_init", steps_ov=20, steps_kq=20, embedding_dimension=33), [0])
    np.testing.assert_allclose(wide.trace["loss"].values, narrow.trace["loss"].values, rtol=1e-12)
    assert wide.parameters["key_query"].shape[-2:] == (33, 33)


def test_the_cosine_is_that_of_the_whole_matrix() -> None:
    """What lies outside the span of the tokens never moves, but panels 3 and 6 count it, and so does the cosine."""
    of = experiment(steps_ov=20, steps_kq=20, embedding_dimension=40)
    data, finished = run(of, [0])
    traces = metrics.measure(of, data, {"ngd": finished})["ngd"]
    target = metrics.key_query_target(DataSet.from_arrays(data[0]))
    last = finished.parameters["key_query"][0, -1]
    expected = (last[:20, :20] * target).sum() / np.linalg.norm(last) / np.linalg.norm(target)
    assert traces["cos_kq"].final() == pytest.approx([expected], rel=1e-12)
    assert traces["norm_kq"].final() == pytest.approx([np.linalg.norm(last)], rel=1e-12)


def test_paired_experiments_see_the_same_sentences() -> None:
    random, zero = (experiment(name) for name in ("two_stage", "zero_init"))
    for name, array in generate(random, random.seed(3)).items():
        np.testing.assert_array_equal(array, generate(zero, zero.seed(3))[name])


def test_another_optimizer_needs_one_line() -> None:
    """Adam beside NGD, as a user's overlay would say it."""
    adam = {"lr": 0.01, "lr_kq": 0.01}
    changes = {"optimizers": {"adam": adam}, "settings": {"steps_ov": 60, "steps_kq": 20}}
    of = load_paper("ntp", {"experiments": {"two_stage": changes}}).experiment("two_stage")
    trace = train(of, of.optimizers["adam"], {0: generate(of, of.seed(0))}, Job()).trace
    assert trace["loss_ov"].values[0, -1] < 0.9 * trace["loss_ov"].values[0, 0]


def test_a_diverging_run_ends_where_it_diverged(tmp_path: Path) -> None:
    """Logits of 10,000 overflow the loss of the wild seed; it is recorded so, and measured without a crash."""
    of = experiment(steps_ov=10, steps_kq=10, init_scale=1e4)
    data, finished = run(of, [0, 1])
    np.testing.assert_array_equal(finished.trace["diverged_at"].values[:, 0], [0, 0])
    measured = metrics.measure(of, data, {"ngd": finished})
    write_traces(tmp_path / "m.parquet", "ntp", "two_stage", measured)
    again = read_traces(tmp_path / "m.parquet")["ngd"]
    assert np.isnan(again["loss_ov"].values).all()
    assert again["diverged_at"].values.tolist() == [[0.0], [0.0]]
