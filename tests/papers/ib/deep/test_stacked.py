"""Stacked nets against the nets they stand for, one run at a time; and training with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from tests.papers.ib.deep.test_training import OPTIMIZERS, StopError, experiment, run, same, stops_after
from workflow.lib.contract import Job
from workflow.lib.papers.ib.deep import engines, recorded, standins, texts, tiny_bert
from workflow.lib.papers.ib.deep.data import averaged
from workflow.lib.papers.ib.deep.settings import Scratch
from workflow.lib.papers.ib.deep.stacked import Attention, Parameters, cross_entropy
from workflow.lib.papers.ib.deep.stacked_bert import StackedBert, StackedMaskedBert, Texts
from workflow.lib.papers.ib.deep.stacked_vit import StackedViT
from workflow.lib.papers.ib.deep.vit import ViT, shifted_patches

STACKED: dict[str, dict[str, Any]] = {
    "vision": {"pixels": 8, "patch": 4, "dropout": 0.0, "embedding_dropout": 0.0},
    "language": {"dropout": 0.0},
}
# The cap keeps the biases of BERT's keys in place, whose gradient is nothing but rounding.
PER_TENSOR = {"rule": "sngd", "lr": 0.01, "eta_max": 0.1, "norm": "per_tensor", "momentum": 0.9}
RULES = {**OPTIMIZERS, "per_tensor": PER_TENSOR}


def shaken(make: Any, runs: int = 3) -> list[torch.nn.Module]:
    nets = []
    for r in range(runs):
        torch.manual_seed(r)
        nets.append(make().double())
        with torch.no_grad():
            for p in nets[-1].parameters():
                p.add_(0.1 * torch.randn_like(p))
    return nets


def stack(nets: list[torch.nn.Module]) -> Parameters:
    return Parameters([net.state_dict() for net in nets], torch.device("cpu"))


def check_gradients(net: torch.nn.Module, parameters: Parameters, run: int) -> None:
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    for name, p in net.named_parameters():
        torch.testing.assert_close(parameters.gradients[name][run], p.grad, rtol=1e-9, atol=1e-13 * largest)


@pytest.mark.parametrize(("channels", "size", "depth"), [(1, 8, 2), (3, 8, 3), (1, 12, 1)])
def test_stacked_vits_are_vits(channels: int, size: int, depth: int) -> None:
    shape = {"patch": 4, "dim": 6, "depth": depth, "heads": 3, "dim_head": 5, "mlp": 7}
    nets = shaken(lambda: ViT(channels=channels, size=size, classes=4, **shape, dropout=0.0, embedding_dropout=0.0))
    parameters = stack(nets)
    stacked = StackedViT(parameters, heads=3, depth=depth)
    images = torch.randn(3, 9, channels, size, size, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 9))
    rows = [shifted_patches(own, 4) for own in images]
    patches = torch.stack([F.layer_norm(own, own.shape[-1:]).transpose(0, 1) for own in rows])
    losses = stacked.losses(patches, labels)
    logits, attention = stacked.logits(patches)
    for r, net in enumerate(nets):
        expected, expected_rows = net(images[r], with_attention=True)
        loss = F.cross_entropy(expected, labels[r])
        loss.backward()
        torch.testing.assert_close(losses[r], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(logits[r], expected.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(attention[r].permute(0, 3, 1, 2), expected_rows.detach(), rtol=1e-9, atol=1e-12)
        check_gradients(net, parameters, r)


def scratch(layers: int) -> Scratch:
    return Scratch(hidden=8, layers=layers, heads=2, mlp=6, initial_deviation=0.2)


def some_texts() -> Texts:
    lengths = torch.randint(3, 12, (3, 7))
    ids = torch.randint(1, 20, (3, 7, 12)) * (torch.arange(12) < lengths[:, :, None])
    return Texts(ids, torch.randint(0, 2, (3, 7, 12)), lengths)


@pytest.mark.parametrize("layers", [1, 3])
def test_stacked_berts_are_those_of_transformers(layers: int) -> None:
    from workflow.lib.papers.ib.deep import bert

    nets = shaken(lambda: bert.from_scratch(scratch(layers), 20, 12, classes=3, dropout=0.0).eval())
    parameters = stack(nets)
    stacked = StackedBert(parameters, heads=2, layers=layers, prefix="bert.")
    (ids, segments, lengths), labels = some_texts(), torch.randint(0, 3, (3, 7))
    for _ in range(2):  # nothing may be left over from a batch before
        losses = stacked.losses(Texts(ids, segments, lengths), labels)
    logits, attention = stacked.logits(Texts(ids, segments, lengths))
    for r, net in enumerate(nets):
        expected, rows = net((ids[r], segments[r], lengths[r]), with_attention=True)
        loss = F.cross_entropy(expected, labels[r])
        loss.backward()
        torch.testing.assert_close(losses[r], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(logits[r], expected.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(attention[r], rows.detach(), rtol=1e-9, atol=1e-12)
        check_gradients(net, parameters, r)


@pytest.mark.parametrize("layers", [1, 3])
def test_stacked_berts_fill_in_words_as_those_of_transformers(layers: int) -> None:
    def net() -> BertForMaskedLM:
        config = BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=6,
            max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        found = BertForMaskedLM(config)
        own = tiny_bert.filling_in(scratch(layers), 20, 12)
        missing, unknown = found.load_state_dict(own, strict=False)
        # The decoder is the table of words, and its bias that of the head.
        assert not unknown
        assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
        return found

    nets = shaken(net)
    first = tiny_bert.filling_in(scratch(layers), 20, 12)
    parameters = Parameters([{name: own.state_dict()[name] for name in first} for own in nets], torch.device("cpu"))
    stacked = StackedMaskedBert(parameters, heads=2, layers=layers)
    ids, segments, lengths = some_texts()
    places = torch.stack([torch.randperm(63)[:10] for _ in range(3)])
    wanted = torch.randint(0, 20, (3, 10))
    stacked.losses(Texts(ids[..., :9], segments[..., :9], lengths.clamp(max=9)), places, wanted)
    losses = stacked.losses(Texts(ids, segments, lengths), places, wanted)  # nothing may be left over from the first
    for r, own in enumerate(nets):
        seen = torch.arange(12) < lengths[r, :, None]
        found = own.bert(ids[r], seen.long(), segments[r]).last_hidden_state.flatten(0, 1)[places[r]]
        loss = F.cross_entropy(own.cls(found), wanted[r])
        loss.backward()
        torch.testing.assert_close(losses[r], loss.detach(), rtol=1e-12, atol=0)
        check_gradients(own, parameters, r)


def test_a_tiny_bert_begins_as_transformers_would() -> None:
    torch.manual_seed(0)
    sizes = Scratch(hidden=48, layers=2, heads=2, mlp=96, initial_deviation=0.05)
    own = tiny_bert.classifier(sizes, 100, 22, classes=3)
    config = BertConfig(
        vocab_size=100, hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=22, num_labels=3, initializer_range=0.05,
    )  # fmt: skip
    theirs = BertForSequenceClassification(config).state_dict()
    assert {name: t.shape for name, t in own.items()} == {name: t.shape for name, t in theirs.items()}
    for name, tensor in own.items():
        expected = theirs[name]
        if expected.std() == 0:
            assert torch.equal(tensor, expected), name
        else:
            assert float(tensor.std() / expected.std()) == pytest.approx(1, abs=8 / tensor.numel() ** 0.5), name
    assert not own["bert.embeddings.word_embeddings.weight"][0].any()


@pytest.mark.parametrize("itself", [True, False])
def test_attention_among_few_tokens(itself: bool) -> None:
    query, key, value = (torch.randn(2, 3, 4, n, 5, dtype=torch.float64, requires_grad=True) for n in (2, 6, 6))
    mask = torch.zeros(2, 6, dtype=torch.float64)
    if not itself:
        mask.fill_diagonal_(-torch.inf)
    q, k, v = (x.permute(0, 4, 1, 3, 2) for x in (query, key, value))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).permute(0, 2, 4, 3, 1)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    with torch.no_grad():
        memory, gradients = (tuple(torch.zeros_like(x) for x in (query, key, value)) for _ in range(2))
        attention = Attention(*memory, gradients, itself)
        for own, x in zip(memory, (query, key, value), strict=True):
            own.copy_(x)
        for _ in range(2):  # nothing may be left over from a step before
            attention.forward()
            attention.of_mixed.copy_(gradient)
            attention.backward()
        torch.testing.assert_close(attention.mixed, expected.detach())
    for x, own in zip((query, key, value), gradients, strict=True):
        torch.testing.assert_close(own, x.grad)


def test_cross_entropy() -> None:
    logits = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5))
    expected = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)])
    expected.sum().backward()
    losses, gradient = cross_entropy(logits.detach(), labels)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, logits.grad)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STACKED))
@pytest.mark.parametrize("rule", list(RULES))
def test_a_stack_trains_like_autograd(kind: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    e = experiment(kind, optimizers=RULES, **STACKED[kind])
    together = run(e, rule, seeds=(0, 1))
    monkeypatch.setattr(type(e.settings), "stackable", False)
    alone = run(e, rule, seeds=(0, 1))
    for metric in (*recorded.ITERATION_METRICS, *recorded.EPOCH_METRICS):
        a, b = (found.trace[metric].values for found in (together, alone))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6, err_msg=metric)
    assert together.parameters.keys() == alone.parameters.keys()


@pytest.mark.parametrize("kind", list(STACKED))
@pytest.mark.parametrize("rule", ["sps", "per_tensor"])
def test_a_run_does_not_depend_on_its_stack(kind: str, rule: str) -> None:
    e = experiment(kind, optimizers=RULES, **STACKED[kind])
    together, alone = run(e, rule, seeds=(0, 1, 2)), run(e, rule, seeds=(1,))
    for metric in (*recorded.ITERATION_METRICS, *recorded.EPOCH_METRICS):
        assert np.array_equal(together.trace[metric].values[1:2], alone.trace[metric].values)
    assert all(np.array_equal(together.parameters[n][1:2], alone.parameters[n]) for n in alone.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STACKED))
@pytest.mark.parametrize(
    ("rule", "stop"), [*(("adam", stop) for stop in (2, 3, 5)), *((rule, 2) for rule in RULES if rule != "adam")]
)
def test_an_interrupted_stack_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rule: str, stop: int
) -> None:
    e = experiment(kind, optimizers=RULES, **STACKED[kind])
    whole = run(e, rule, seeds=(0, 1))
    job, left = Job(checkpoint=tmp_path / "x.checkpoint"), stops_after(stop, monkeypatch)
    with pytest.raises(StopError):
        run(e, rule, seeds=(0, 1), job=job)
    left[0] = 6 - stop  # not one step more than were missing
    same(run(e, rule, seeds=(0, 1), job=job), whole)


def test_one_run_of_a_stack_may_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do not notice."""
    e = experiment(**STACKED["vision"])
    whole = run(e, "adam", seeds=(0, 1))
    losses, calls = engines.StackOfViTs.losses, [0]

    def spoiled(self: Any, index: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        found = losses(self, index)
        if calls[0] == 3:
            found[0] = torch.inf
        return found

    monkeypatch.setattr(engines.StackOfViTs, "losses", spoiled)
    found = run(e, "adam", seeds=(0, 1))
    assert found.trace["diverged_at"].values[:, 0].tolist()[0] == 3
    assert np.isnan(found.trace["diverged_at"].values[1, 0])
    loss = found.trace["train_loss"].values
    assert np.isnan(loss[0, 2:]).all()
    assert np.isfinite(loss[0, :2]).all()
    assert np.array_equal(loss[1], whole.trace["train_loss"].values[1])
    assert np.isnan(found.trace["test_accuracy"].values[0, 1:]).all()
    assert all(np.array_equal(found.parameters[n][1], whole.parameters[n][1]) for n in whole.parameters)
    assert all(np.isnan(found.parameters[n][0]).all() for n in whole.parameters)


def test_averaged_images() -> None:
    images = np.arange(28 * 28, dtype=np.int64).reshape(1, 1, 28, 28) % 250
    found = averaged(images.astype(np.uint8), 8)
    assert found.shape == (1, 1, 8, 8)
    assert found[0, 0, 1, 1] == np.round(images[0, 0, 2:6, 2:6].mean())
    assert found[0, 0, 0, 0] == np.round(images[0, 0, :2, :2].sum() / 16)


def test_every_generated_word_is_known() -> None:
    words = texts.vocabulary(standins.words())
    rng = np.random.default_rng(0)
    for made in (standins.premises(rng, 2000), standins.comments(rng, 2000)):
        assert not (texts.by_words(made, words, 64).ids == 1).any()


def test_when_the_test_set_is_looked_at() -> None:
    few = experiment(epochs=50, evaluations=6).settings
    assert few.evaluated == (0, 1, 2, 5, 10, 23, 50)
    assert experiment(epochs=3, evaluations=6).settings.evaluated == (0, 1, 2, 3)
    assert experiment(epochs=3, evaluations=1).settings.evaluated == (0, 1, 3)
