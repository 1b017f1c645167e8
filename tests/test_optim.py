"""The contract that every registered optimizer keeps, and each rule against its formula."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest
import torch

from workflow.lib import optim
from workflow.lib.errors import UserError
from workflow.lib.optim._norms import joint_norm, unit

NAMES = optim.names()


def required(name: str) -> dict[str, Any]:
    """Values for the hyper-parameters that have no default: 0.1, or the first of a choice."""
    fields = optim.hyperparameters(name).model_fields
    return {k: (get_args(f.annotation) or [0.1])[0] for k, f in fields.items() if f.is_required()}


def run(name: str, starts: torch.Tensor, steps: int, **more: Any) -> torch.Tensor:
    """Let a rule minimise the quartic sum(w^4) / 4 + sum(w^2) / 2 per run; the last iterate."""
    w = starts.clone()
    optimizer = optim.build(name, [w], **{**required(name), **more})

    def closure() -> torch.Tensor:
        w.grad = w**3 + w
        losses = (w**4 / 4 + w**2 / 2).flatten(1).sum(1)
        return losses if more.get("stacked") else losses.sum()

    for _ in range(steps):
        optimizer.step(closure)
    return w


def takes_stacks(name: str) -> bool:
    return "stacked" in inspect.signature(optim.optimizer_class(name).__init__).parameters


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_downhill_and_stays_finite(name: str) -> None:
    start = torch.linspace(-2, 3, 12, dtype=torch.float64).view(1, 3, 4)
    end = run(name, start, 20)
    assert torch.isfinite(end).all()
    assert (end**2).sum() < (start**2).sum()


@pytest.mark.parametrize("name", [n for n in NAMES if takes_stacks(n)])
def test_stacked_runs_are_as_if_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    starts = (
        torch.randn(4, 3, 4, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 0.3, 1, 1.5])[:, None, None]
    )
    together = run(name, starts, 15, stacked=True)
    for i in range(4):
        alone = run(name, starts[i : i + 1], 15, stacked=True)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)
        flat = run(name, starts[i : i + 1], 15)
        torch.testing.assert_close(together[i : i + 1], flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_gradient_moves_nothing_to_nan(name: str) -> None:
    w = torch.zeros(2, 3, dtype=torch.float64)
    optimizer = optim.build(name, [w], **required(name))

    def closure() -> torch.Tensor:
        w.grad = torch.zeros_like(w)
        return torch.zeros((), dtype=torch.float64)

    optimizer.step(closure)
    assert torch.equal(w, torch.zeros_like(w))


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_round_trip(name: str) -> None:
    start = torch.linspace(-2, 3, 12, dtype=torch.float64).view(1, 3, 4)

    def continued(interrupted: bool) -> torch.Tensor:
        w = start.clone()
        optimizer = optim.build(name, [w], **required(name))

        def closure() -> torch.Tensor:
            w.grad = w**3 + w
            return (w**4 / 4 + w**2 / 2).sum()

        for step in range(8):
            if interrupted and step == 4:
                state = optimizer.state_dict()
                optimizer = optim.build(name, [w], **required(name))
                optimizer.load_state_dict(state)
            optimizer.step(closure)
        return w

    torch.testing.assert_close(continued(True), continued(False), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_read_from_the_source_are_the_constructor_s(name: str) -> None:
    parameters = inspect.signature(optim.optimizer_class(name).__init__).parameters.values()
    keyword = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "stacked"}
    fields = optim.hyperparameters(name).model_fields
    assert list(fields) == list(keyword)
    for key, default in keyword.items():
        assert fields[key].is_required() == (default is inspect.Parameter.empty)
        assert fields[key].is_required() or fields[key].default == default


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_step_size_is_refused(name: str) -> None:
    if "step_size" in optim.hyperparameters(name).model_fields:
        with pytest.raises(ValueError, match="step_size"):
            optim.build(name, [torch.zeros(2)], **{**required(name), "step_size": -1.0})


@pytest.mark.parametrize("name", NAMES)
def test_documentation_says_formula_arguments_and_source(name: str) -> None:
    text = inspect.getdoc(optim.optimizer_class(name)) or ""
    assert "Args:" in text
    for key in optim.hyperparameters(name).model_fields:
        assert f"{key}:" in text, f"{name}: {key} is not documented"


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'ngd'"):
        optim.build("ngdd", [torch.zeros(2)])


def test_ngd_steps_have_the_length_of_the_step_size() -> None:
    w, v = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    optimizer = optim.build("ngd", [w, v], step_size=0.5, decay=2 / 3, stacked=True)
    for step in range(3):
        before = torch.cat([w, v], 1)
        w.grad, v.grad = torch.randn_like(w), torch.randn_like(v)
        optimizer.step()
        length = (torch.cat([w, v], 1) - before).norm(dim=1)
        torch.testing.assert_close(length, torch.full_like(length, 0.5 * (step + 1) ** (-2 / 3)))


@pytest.mark.parametrize("scale", [1e-300, 1e-167, 1.0, 1e160])
def test_norms_neither_underflow_nor_overflow(scale: float) -> None:
    entries = scale * torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        joint_norm([entries], stacked=True) / scale, torch.tensor([5.0, 0.0], dtype=torch.float64)
    )
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit([entries], stacked=True)[0], expected)
    torch.testing.assert_close(torch.cat(unit([entries[:, :1], entries[:, 1:]], stacked=True), 1), expected)
