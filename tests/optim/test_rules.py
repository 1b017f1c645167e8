"""SGD, SNGD and SPS: hand-computed steps, the plain twins, the rules they reduce to, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.reference import ib_deep as plain
from workflow.lib import optim
from workflow.lib.errors import UserError
from workflow.lib.plan.optimizer import Optimizer, Options


def problem(seed: int = 0, runs: int | None = None) -> tuple[list[torch.Tensor], Callable[[list[torch.Tensor]], Any]]:
    """Two weights and a loss of them that is at least 0, per run if there are runs."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if runs is None else (runs,)
    weights = [torch.randn(*lead, 3, 2, generator=generator, dtype=torch.float64),
               torch.randn(*lead, 4, generator=generator, dtype=torch.float64)]  # fmt: skip

    def loss(found: list[torch.Tensor]) -> torch.Tensor:
        axes = ((-1, -2), (-1,))
        return sum(
            torch.log1p(((w - 1) ** 2).sum(a) * (i + 1)) for i, (w, a) in enumerate(zip(found, axes, strict=True))
        )

    return weights, loss


def run(rule: str, options: dict[str, Any], weights: list[torch.Tensor], loss: Any, steps: int, **more: Any) -> Any:
    parameters = [w.clone().requires_grad_() for w in weights]
    optimizer = optim.build(rule, parameters, **options, **more)
    step(optimizer, parameters, loss, steps)
    return parameters, optimizer


def step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], loss: Any, steps: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(parameters)
        value.sum().backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


def one(rule: str, gradient: list[float], loss: float = 2.0, **options: Any) -> tuple[list[float], Any]:
    """The first step from zero for a given gradient and loss, and the optimizer."""
    w = torch.zeros(len(gradient), dtype=torch.float64, requires_grad=True)
    optimizer = optim.build(rule, [w], **options)

    def closure() -> torch.Tensor:
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        return torch.tensor(loss, dtype=torch.float64)

    optimizer.step(closure)
    return w.tolist(), optimizer


def test_sngd_by_hand() -> None:
    # ||g|| = 5, so eta = 0.1 / 5 = 0.02, below the cap.
    assert one("sngd", [3.0, 4.0], lr=0.1, eta_max=1.0)[0] == pytest.approx([-0.06, -0.08])
    # ||g|| = 0.05, so eta would be 2; the cap makes it 0.5.
    assert one("sngd", [0.03, 0.04], lr=0.1, eta_max=0.5)[0] == pytest.approx([-0.015, -0.02])


def test_sps_by_hand() -> None:
    # f / (c ||g||^2) = 2 / (0.5 * 25) = 0.16.
    assert one("sps", [3.0, 4.0], epsilon=0)[0] == pytest.approx([-0.48, -0.64])
    assert one("sps", [3.0, 4.0], epsilon=0, eta_max=0.1)[0] == pytest.approx([-0.3, -0.4])
    # floor: (2 - 1) / 12.5 = 0.08; and a loss below the floor moves nothing.
    assert one("sps", [3.0, 4.0], epsilon=0, floor=1.0)[0] == pytest.approx([-0.24, -0.32])
    assert one("sps", [3.0, 4.0], floor=3.0)[0] == [0, 0]


def test_sps_smooth_iter_by_hand() -> None:
    """eta_0 = min(2^(1/2) 0.01, 0.16), then it may grow by 2^(1/2) again; eta_max plays no part."""
    (x, _), optimizer = one("sps", [3.0, 4.0], mode="smooth_iter", period=2, initial=0.01, eta_max=1e-9)
    assert x == pytest.approx(-3 * 0.01 * math.sqrt(2))
    parameter = optimizer.param_groups[0]["params"][0]
    optimizer.step(lambda: torch.tensor(2.0))
    assert parameter[0].item() == pytest.approx(x - 3 * 0.02)


def test_one_norm_per_tensor() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = optim.build("sngd", [a, b], lr=0.1, norm="per_tensor")
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
    optimizer.step()
    assert a.tolist() == pytest.approx([-0.06, -0.08])
    assert b.tolist() == pytest.approx([-0.1])
    assert float(optimizer.param_groups[0]["step_size_taken"]) == pytest.approx(math.sqrt(0.02) / math.sqrt(25.25))


def test_momentum_keeps_a_share_of_the_direction() -> None:
    w = torch.zeros(1, requires_grad=True)
    optimizer = optim.build("sngd", [w], lr=0.1, momentum=0.5)
    w.grad = torch.tensor([2.0])
    optimizer.step()  # v = 2, eta = 0.05
    optimizer.step()  # v = 3, eta = 0.05
    assert w.item() == pytest.approx(-0.25)


def test_against_the_plain_twins() -> None:
    weights, loss = problem()
    for _ in range(20):
        leaves = [w.clone().requires_grad_() for w in weights]
        value = loss(leaves)
        gradients = list(torch.autograd.grad(value, leaves))
        for rule, options, expected in (
            ("sngd", {"lr": 0.1, "eta_max": 0.04}, plain.sngd_step(weights, gradients, 0.1, 0.04)),
            ("sps", {"eta_max": 0.4}, plain.sps_step(weights, gradients, value.item(), 0.5, 0.4, 1e-8)),
        ):
            found, _ = run(rule, options, weights, loss, 1)
            for f, e in zip(found, expected, strict=True):
                torch.testing.assert_close(f.detach(), e, rtol=1e-13, atol=0)
        weights = expected


def test_sngd_without_cap_is_ngd() -> None:
    weights, loss = problem()
    sngd, _ = run("sngd", {"lr": 0.1}, weights, loss, 30)
    ngd, _ = run("ngd", {"lr": 0.1}, weights, loss, 30)
    for s, n in zip(sngd, ngd, strict=True):
        torch.testing.assert_close(s, n, rtol=1e-12, atol=0)


def test_sps_without_cap_is_polyaks_step() -> None:
    weights, loss = problem()
    sps, _ = run("sps", {"c": 2.0, "epsilon": 0.0}, weights, loss, 30)
    polyak, _ = run("polyak", {"factor": 2.0}, weights, loss, 30)
    for s, p in zip(sps, polyak, strict=True):
        torch.testing.assert_close(s, p, rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(momentum: float) -> None:
    weights, loss = problem()
    ours, _ = run("sgd", {"lr": 0.1, "momentum": momentum}, weights, loss, 10)
    parameters = [w.clone().requires_grad_() for w in weights]
    step(torch.optim.SGD(parameters, lr=0.1, momentum=momentum), parameters, loss, 10)
    for o, t in zip(ours, parameters, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-14, atol=0)


def test_groups_have_their_own_step_sizes() -> None:
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = optim.build("sngd", [{"params": [a]}, {"params": [b], "lr": 1.0}], lr=0.1)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((-0.1 * 3 / 5, -1.0 * 4 / 5))  # one norm over both


def test_sps_needs_the_loss() -> None:
    with pytest.raises(TypeError, match="closure"):
        optim.build("sps", [torch.zeros(1, requires_grad=True)]).step()


@pytest.mark.parametrize(
    ("rule", "options", "said"),
    [
        ("sngd", {"lr": -1}, "lr"),
        ("sngd", {"lr": 0.1, "eta_max": 0}, "eta_max"),
        ("sngd", {"lr": 0.1, "norm": "both"}, "norm"),
        ("sps", {"c": 0}, "c: .*greater than 0"),
        ("sps", {"mode": "slow"}, "mode"),
        ("sps", {"mode": "smooth_iter", "norm": "per_tensor"}, "norm 'global'"),
        ("sps", {"momentum": 2}, "momentum"),
        ("sgd", {"lr": 0}, "lr"),
    ],
)
def test_bad_hyperparameters(rule: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        optim.build(rule, [torch.zeros(1, requires_grad=True)], **options)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"rule": "sps", "step_size": 1.0}, "unknown hyper-parameter 'step_size'"),
        ({"rule": "sngd"}, "lr: is missing"),
        ({"rule": "sngd", "lr": 0.1, "eta_max": "large"}, "eta_max"),
        ({"rule": "sps", "norm": "local"}, "'global', 'per_group' or 'per_tensor'"),
        ({"rule": "sps", "mode": "smooth_iter", "norm": "per_tensor"}, "ib.one: sps: norm: mode 'smooth_iter'"),
    ],
)
def test_bad_configuration_is_refused_by_name(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Optimizer.read("one", entry, Options, "ib.one")
