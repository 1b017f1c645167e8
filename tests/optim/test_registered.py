"""Registered rules as planning reads them, and the norms; the contract of steps is in `test_contract.py`."""

from __future__ import annotations

import inspect

import pytest
import torch

from workflow.lib import optim
from workflow.lib.errors import UserError
from workflow.lib.optim._norms import each_norm, joint_norm, unit

NAMES = optim.names()


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_read_from_the_source_are_the_constructor_s(name: str) -> None:
    parameters = inspect.signature(optim.optimizer_class(name).__init__).parameters.values()
    keyword = {p.name: p.default for p in parameters if p.name not in ("self", "params", "stacked", "maximize")}
    fields = optim.hyperparameters(name).model_fields
    assert list(fields) == list(keyword)
    for key, default in keyword.items():
        assert fields[key].is_required() == (default is inspect.Parameter.empty)
        assert fields[key].is_required() or fields[key].default == default


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
    optimizer = optim.build("ngd", [w, v], lr=0.5, decay=2 / 3, stacked=True)
    for step in range(3):
        before = torch.cat([w, v], 1)
        w.grad, v.grad = torch.randn_like(w), torch.randn_like(v)
        optimizer.step()
        length = (torch.cat([w, v], 1) - before).norm(dim=1)
        torch.testing.assert_close(length, torch.full_like(length, 0.5 * (step + 1) ** (-2 / 3)))


EXTREMES = [
    *((torch.float64, scale) for scale in (5e-324, 1e-310, 1e-300, 1e-167, 1e-139, 1.0, 1e153, 1e160, 3e307)),
    *((torch.float32, scale) for scale in (2e-45, 1e-40, 3e-23, 1e-13, 1.0, 1e19, 6e37)),
]


@pytest.mark.parametrize(("dtype", "scale"), EXTREMES)
def test_norms_neither_underflow_nor_overflow(dtype: torch.dtype, scale: float) -> None:
    entries = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype) * torch.tensor(scale, dtype=dtype)
    length = joint_norm([entries], stacked=True).double() / torch.tensor(scale, dtype=dtype).double()
    torch.testing.assert_close(length, torch.tensor([5.0, 0.0], dtype=torch.float64), rtol=1e-6, atol=0)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(unit([entries], stacked=True)[0], expected)
    torch.testing.assert_close(torch.cat(unit([entries[:, :1], entries[:, 1:]], stacked=True), 1), expected)
    torch.testing.assert_close(unit([entries[0]], stacked=False)[0], expected[0])


@pytest.mark.parametrize(("dtype", "scale"), EXTREMES)
@pytest.mark.parametrize("stacked", [True, False])
def test_the_norms_of_many_tensors_are_those_of_each(dtype: torch.dtype, scale: float, stacked: bool) -> None:
    shapes = [(2,), (2, 3), (2, 4, 5)]
    tensors = [(1 + torch.rand(shape, dtype=dtype)) * torch.tensor(scale, dtype=dtype) for shape in shapes]
    found = each_norm(tensors, stacked)
    assert torch.equal(found, torch.stack([joint_norm([t], stacked) for t in tensors]))
    assert found.shape == ((3, 2) if stacked else (3,))
    assert (found > 0).all()


@pytest.mark.parametrize("scale", [3e-23, 1e19])
@pytest.mark.parametrize("rule", ["ngd", "sngd", "polyak"])
def test_steps_in_single_precision_keep_their_length(rule: str, scale: float) -> None:
    w = torch.zeros(1000, requires_grad=True)
    w.grad = scale * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    optim.build(rule, [w], lr=0.5).step(lambda: w.grad.double().norm().float())
    assert w.norm().item() == pytest.approx(0.5, rel=1e-5)


def test_a_norm_of_what_is_not_finite_is_not_hidden() -> None:
    assert not torch.isfinite(unit([torch.tensor([1.0, torch.nan])], stacked=False)[0]).all()
