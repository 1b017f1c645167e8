"""What every optimizer promises, ours and others': registered rules, torch's own, and a user's textbook heavy ball.

The documented step size is the default where there is one, else 0.1. `test_rules.py` holds rules to their formulas.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch

from tests.conftest import ROOT, environment
from workflow.lib import optim, startup
from workflow.lib.optim._each_run import EachRun

Rule = tuple[str, dict[str, Any]]


def rule(name: str, **values: Any) -> Any:
    fields = optim.hyperparameters(name).model_fields
    needed = {k: (get_args(f.annotation) or [0.1])[0] for k, f in fields.items() if f.is_required()}
    said = " ".join(f"{key}={value}" for key, value in values.items())
    return pytest.param((name, {**needed, **values}), id=f"{name} {said}".strip())


OURS = [
    *map(rule, optim.names()),
    rule("sgd", momentum=0.9),
    rule("ngd", norm="per_group", decay=0.5),
    rule("ngd", norm="per_tensor"),
    rule("sngd", lr=0.02, momentum=0.9, norm="per_tensor"),
    rule("sngd", eta_max=0.3),
    rule("sps", norm="per_tensor", momentum=0.5),
    rule("sps", mode="smooth_iter", period=3, initial=0.01),
    rule("sps", norm="per_group", eta_max=0.2),
    rule("preconditioned_prox", penalty=1e-4),
]
OTHERS = [
    rule("torch.optim.AdamW", lr=0.1, weight_decay=0),
    rule("torch.optim.RMSprop", lr=0.02),
    rule("torch.optim.SGD", lr=0.1, momentum=0.9, nesterov=True),
    rule("torch.optim.LBFGS", lr=0.5, max_iter=2),
    rule("torch.optim.Adafactor", lr=0.05),
    rule("tests.heavy_ball.HeavyBall"),
]
ALL = [*OURS, *OTHERS]
RUNS = 4
CURVATURE = torch.linspace(1, 2, 12, dtype=torch.float64).view(3, 4)


def starts() -> torch.Tensor:
    """Points of norm 1 whose rows sum to 0 (which the proximal rule keeps), for some runs."""
    w = torch.randn(RUNS, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    w -= w.mean(-1, keepdim=True)
    return w / w.flatten(1).norm(dim=1)[:, None, None]


def losses(w: torch.Tensor) -> torch.Tensor:
    """A quadratic with curvatures from 1 to 2, per run; its smallest value is 0."""
    return (CURVATURE * w**2).flatten(-2).sum(-1) / 2


class Descent:
    """A rule on the quadratic: parameters, the optimizer, and a closure that any torch optimizer takes."""

    def __init__(self, of: Rule, start: torch.Tensor, stacked: bool, cut: bool = False, **more: Any) -> None:
        self.parts = [start.clone()] if not cut else [start[..., :2].clone(), start[..., 2:].clone()]
        for part in self.parts:
            part.requires_grad_()
        self.optimizer = optim.build(of[0], self.parts, stacked=stacked, **{**of[1], **more})

    def closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        found = losses(torch.cat(self.parts, -1))
        found.sum().backward()
        return found.detach()

    def run(self, steps: int) -> torch.Tensor:
        for _ in range(steps):
            self.optimizer.step(self.closure)
        return torch.cat(self.parts, -1).detach()


@pytest.mark.parametrize("of", ALL)
def test_descends_a_well_conditioned_quadratic(of: Rule) -> None:
    start = starts()[0]
    end = Descent(of, start, stacked=False).run(60)
    assert losses(end) < 0.2 * losses(start)


@pytest.mark.parametrize("cut", [False, True], ids=["one tensor", "two tensors"])
@pytest.mark.parametrize("of", ALL)
def test_stacked_runs_are_as_if_alone(of: Rule, cut: bool) -> None:
    scale = torch.tensor([0.1, 0.3, 1, 1.5], dtype=torch.float64)[:, None, None]
    together = Descent(of, scale * starts(), True, cut).run(15)
    for i, start in enumerate(scale * starts()):
        alone = Descent(of, start, False, cut).run(15)
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("of", ALL)
def test_state_survives_a_round_trip_bitwise(of: Rule, stacked: bool) -> None:
    start = starts() if stacked else starts()[0]
    whole = Descent(of, start, stacked).run(8)
    first = Descent(of, start, stacked)
    half = first.run(4)
    file = io.BytesIO()
    torch.save(first.optimizer.state_dict(), file)
    first.run(1)  # must not reach the saved state
    second = Descent(of, half, stacked)
    file.seek(0)
    second.optimizer.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second.run(4), whole)


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("of", ALL)
def test_without_a_gradient_or_with_a_zero_one_nothing_moves(of: Rule, stacked: bool) -> None:
    start = starts() if stacked else starts()[0]
    w = start.clone().requires_grad_()
    optimizer = optim.build(of[0], [w], stacked=stacked, **of[1])
    loss = torch.ones(RUNS) if stacked else torch.ones(())
    optimizer.step(lambda: loss)
    assert torch.equal(w, start)
    if of[1].get("penalty"):
        return  # the penalty has a gradient of its own
    w.grad = torch.zeros_like(w)
    optimizer.step(lambda: loss)
    torch.testing.assert_close(w.detach(), start, rtol=1e-15, atol=1e-16)


# ---- schedulers and hooks ----


SCHEDULERS: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "StepLR": (partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5), [1, 0.5, 0.25]),
    "LambdaLR": (partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda t: 1 / (t + 1)), [1, 1 / 2, 1 / 3]),
    "CosineAnnealingLR": (partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4), [1, 0.8535534, 0.5]),
    "ReduceLROnPlateau": (partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0), [1, 1, 0.1]),
}


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("of", ALL)
def test_schedulers_set_the_step_size(of: Rule, scheduler: str, stacked: bool) -> None:
    make, factors = SCHEDULERS[scheduler]
    start = starts() if stacked else starts()[0]
    scheduled, by_hand = Descent(of, start, stacked), Descent(of, start, stacked)
    lr = by_hand.optimizer.param_groups[0]["lr"]
    schedule = make(scheduled.optimizer)
    for factor in factors:
        by_hand.optimizer.param_groups[0]["lr"] = lr * factor
        torch.testing.assert_close(scheduled.run(1), by_hand.run(1), rtol=1e-6, atol=1e-7)
        schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))


@pytest.mark.parametrize("of", ALL)
def test_half_the_step_size_by_a_scheduler_is_half_the_step_size(of: Rule) -> None:
    """So a scheduler's value is not only kept but used, in every run."""
    scheduled = Descent(of, starts(), stacked=True)
    torch.optim.lr_scheduler.LambdaLR(scheduled.optimizer, lambda t: 0.5)
    lr = scheduled.optimizer.param_groups[0]["initial_lr"]
    assert torch.equal(scheduled.run(3), Descent(of, starts(), stacked=True, lr=lr / 2).run(3))


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("of", ALL)
def test_hooks_fire(of: Rule, stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_training", False)
    descent = Descent(of, starts() if stacked else starts()[0], stacked)
    fired: list[str] = []
    descent.optimizer.register_step_pre_hook(lambda *_: fired.append("before"))
    descent.optimizer.register_step_post_hook(lambda *_: fired.append("after"))
    descent.run(2)
    assert fired == ["before", "after"] * 2


@pytest.mark.parametrize("of", ALL)
def test_a_training_job_s_steps_are_the_same(of: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training job is spared (hooks, the compiler) changes no step."""
    monkeypatch.setattr(startup, "_training", False)
    plain = Descent(of, starts(), stacked=True).run(3)
    monkeypatch.setattr(startup, "_training", True)
    assert torch.equal(Descent(of, starts(), stacked=True).run(3), plain)


# ---- hyper-parameters ----


@pytest.mark.parametrize("where", ["constructor", "group", "add_param_group"])
@pytest.mark.parametrize("name", optim.names())
def test_bad_values_are_told_by_name_everywhere(name: str, where: str) -> None:
    of = rule(name).values[0][1]

    def give(**values: Any) -> None:
        a, b = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
        if where == "constructor":
            optim.build(name, [a], **{**of, **values})
        elif where == "group":
            optim.build(name, [{"params": [a]}, {"params": [b], **values}], **of)
        else:
            optim.build(name, [a], **of).add_param_group({"params": [b], **values})

    for value in (-1.0, 0, float("nan"), "fast", torch.ones(2)):
        with pytest.raises(ValueError, match=r"^lr: "):
            give(lr=value)
    error = TypeError if where == "constructor" else ValueError
    for flag in ("foreach", "capturable", "differentiable", "fused"):
        if name == "adam" and where != "constructor":
            continue  # torch's own, whose groups have torch's flags
        with pytest.raises(error, match=f"unknown hyper-parameter '{flag}'"):
            give(**{flag: True})
    with pytest.raises(error, match=r"unknown hyper-parameter 'lrr'.*Did you mean 'lr'"):
        give(lrr=0.1)


def test_other_values_of_groups_are_checked_too() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)

    def give(name: str, **values: Any) -> None:
        optim.build(name, [{"params": [a]}, {"params": [b], **values}], **rule(name).values[0][1])

    for name, values, said in (
        ("polyak", {"factor": -1}, "^factor: "),
        ("adam", {"betas": (0.9, 2.0)}, "^beta2: "),
        ("adam", {"eps": -1.0}, "^epsilon: "),
        ("sgd", {"momentum": 1.5}, "^momentum: "),
        ("ngd", {"norm": "per_tensor"}, "^norm: is one for all groups"),
        ("ngd", {"stacked": True}, "^stacked: is one for all groups"),
        ("preconditioned_prox", {"weights": torch.tensor([0.5, 0.0])}, "^weights: "),
    ):
        with pytest.raises(ValueError, match=said):
            give(name, **values)
    optimizer = optim.build("polyak", [{"params": [a]}, {"params": [b], "factor": 2.0, "lr": 0.5}])
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer.step(lambda: torch.tensor(25.0))
    torch.testing.assert_close(a.detach(), torch.tensor([-3.0, 0.0]))
    torch.testing.assert_close(b.detach(), torch.tensor([0.0, -1.0]))


@pytest.mark.parametrize("name", [n for n in optim.names() if n != "preconditioned_prox"])
def test_a_group_s_own_step_size_is_used(name: str) -> None:
    parts = [starts()[0, :, :2], starts()[0, :, 2:]]

    def run(first: float, second: float) -> list[torch.Tensor]:
        ours = [part.clone().requires_grad_() for part in parts]
        values = {**rule(name).values[0][1], "lr": 0.1}
        groups = [{"params": [ours[0]], "lr": first}, {"params": [ours[1]], "lr": second}]
        optimizer = optim.build(name, groups, **values)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            found = losses(torch.cat(ours, -1))
            found.backward()
            return found.detach()

        optimizer.step(closure)
        return [own.detach() - part for own, part in zip(ours, parts, strict=True)]

    once, twice = run(0.1, 0.1), run(0.1, 0.2)
    torch.testing.assert_close(twice[0], once[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(twice[1], 2 * once[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("of", [r for r in OURS if r.values[0][1].get("norm") not in ("per_group",)])
def test_groups_change_nothing_where_the_rule_has_one_norm(of: Rule) -> None:
    if of[0] == "preconditioned_prox":
        pytest.skip("moves rows as a whole")
    whole = Descent(of, starts()[0], False, cut=True).run(4)
    cut = Descent(of, starts()[0], False, cut=True)
    cut.optimizer = optim.build(of[0], [{"params": [part]} for part in cut.parts], **of[1])
    torch.testing.assert_close(cut.run(4), whole, rtol=1e-14, atol=0)


def test_a_norm_for_each_group_where_it_is_asked_for() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    for name in ("ngd", "sngd"):
        with torch.no_grad():
            a.zero_(), b.zero_()
        a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([7.0])
        optim.build(name, [{"params": [a]}, {"params": [b]}], lr=0.1, norm="per_group").step()
        torch.testing.assert_close(torch.cat([a, b]).detach(), torch.tensor([-0.06, -0.08, -0.1]))


@pytest.mark.parametrize("name", ["gd", "sgd", "ngd", "led_ngd", "sngd", "adam"])
def test_maximize_is_descent_with_the_other_sign(name: str) -> None:
    moved = []
    for sign in (1, -1):
        w = torch.zeros(3, requires_grad=True)
        w.grad = sign * torch.tensor([1.0, -2.0, 0.5])
        optim.build(name, [w], lr=0.1, maximize=sign < 0).step()
        moved.append(w.detach())
    assert torch.equal(*moved)


@pytest.mark.parametrize("name", ["polyak", "sps", "preconditioned_prox"])
def test_maximize_is_refused_where_the_loss_has_a_floor(name: str) -> None:
    with pytest.raises(TypeError, match="maximize"):
        optim.build(name, [torch.zeros(2)], **rule(name).values[0][1], maximize=True)


def test_lr_is_positional_and_classes_are_imported_by_name() -> None:
    from workflow.lib.optim import GD, NGD, SGD, SNGD, SPS, Adam, LedNGD, Polyak, PreconditionedProx

    for found in (GD, NGD, SGD, SNGD, SPS, Adam, LedNGD, Polyak, PreconditionedProx):
        assert found([torch.zeros(2, 2)], 0.25).param_groups[0]["lr"] == 0.25
        with pytest.raises(TypeError, match="foreach"):
            found([torch.zeros(2, 2)], 0.25, foreach=True)
    with pytest.raises(ImportError, match="Newton"):
        from workflow.lib.optim import Newton  # noqa: F401


def test_a_class_derived_from_ours_keeps_its_checks() -> None:
    from workflow.lib.optim import NGD

    class Mine(NGD):
        pass

    assert Mine([torch.zeros(2)], 0.1).param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match=r"^lr: "):
        Mine([torch.zeros(2)], -0.1)


# ---- traits: what the rooms rely on ----


@pytest.mark.parametrize("of", OURS)
def test_entrywise_is_true(of: Rule) -> None:
    """A rule that acts entry by entry does with some entries what it does with all; any other does not."""
    whole = Descent(of, starts()[0], False, cut=True).run(3)[..., :2]
    half = starts()[0, :, :2].clone().requires_grad_()
    optimizer = optim.build(of[0], [half], **of[1])

    def closure() -> torch.Tensor:
        half.grad = (CURVATURE[:, :2] * half).detach()
        return (CURVATURE[:, :2] * half**2).sum().detach() / 2

    for _ in range(3):
        optimizer.step(closure)
    same = torch.allclose(half, whole, rtol=1e-10, atol=0)
    if optim.traits(*of).entrywise:
        assert same
    if not same:
        assert of[0] == "preconditioned_prox" or optim.traits(*of).one_norm or optim.traits(*of).needs_loss


TORCH_S = [rule(f"torch.optim.{name}", lr=0.1) for name in ("SGD", "LBFGS", "AdamW")]


@pytest.mark.parametrize("of", [*OURS, *TORCH_S])
def test_rotations_is_true(of: Rule) -> None:
    """A step in rotated coordinates is the rotated step, or the rule does not promise it."""
    turn, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64))

    def run(turned: bool) -> torch.Tensor:
        by = turn if turned else torch.eye(12, dtype=torch.float64)
        w = (by @ starts()[0].flatten()).view(3, 4).requires_grad_()
        optimizer = optim.build(of[0], [w], **of[1])

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            found = losses((by.T @ w.flatten()).view(3, 4))
            found.backward()
            return found.detach()

        for _ in range(3):
            optimizer.step(closure)
        return (by.T @ w.detach().flatten()).view(3, 4)

    assert torch.allclose(run(True), run(False), rtol=1e-9, atol=1e-12) == optim.traits(*of).rotations


@pytest.mark.parametrize("of", ALL)
def test_needs_loss_is_true(of: Rule) -> None:
    w = torch.zeros(2, 2, requires_grad=True)
    w.grad = torch.ones(2, 2)
    optimizer = optim.build(of[0], [w], **of[1])
    if optim.traits(*of).needs_loss:
        with pytest.raises(TypeError):
            optimizer.step()
    else:
        optimizer.step()


PER_RUN = [
    pytest.param(of.values[0], name, id=f"{of.id} {name}")
    for of in OURS
    for name in optim.traits(*of.values[0]).per_run
]


@pytest.mark.parametrize(("of", "name"), PER_RUN)
def test_a_value_for_each_run_is_as_if_alone(of: Rule, name: str) -> None:
    values = torch.tensor([0.02, 0.05, 0.1, 0.4], dtype=torch.float64)
    together = Descent(of, starts(), True, **{name: values}).run(5)
    for i, value in enumerate(values.tolist()):
        alone = Descent(of, starts()[i], False, **{name: value}).run(5)
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-15)


def test_planning_knows_the_traits_without_torch() -> None:
    """And a training in NumPy gets the proximal step without torch, from the file of its optimizer."""
    code = (
        "import sys; from workflow.lib import optim; from workflow.lib.optim.preconditioned_prox import proximal_step;"
        "[(optim.hyperparameters(n), optim.traits(n, {}), optim.check(n, {})) for n in optim.names()];"
        "print('torch' in sys.modules, dir(optim)[0] and 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(ROOT))
    assert done.stdout.strip() == "False False", done.stderr


def test_traits_of_rules_with_hyperparameters() -> None:
    assert optim.traits("adam", {}).entrywise
    assert not optim.traits("adam", {}).rotations
    assert optim.traits("sngd", {"norm": "global"}).one_norm
    assert not optim.traits("sngd", {"norm": "per_tensor"}).one_norm
    assert optim.traits("torch.optim.SGD", {"weight_decay": 0}).rotations
    assert not optim.traits("torch.optim.SGD", {"weight_decay": 0.1}).rotations
    assert optim.traits("torch.optim.LBFGS", {}).needs_loss
    assert not optim.traits("torch.optim.LBFGS", {}).rotations  # its first step is measured by the 1-norm
    assert optim.traits("tests.heavy_ball.HeavyBall", {}) == optim.Traits()


# ---- one optimizer for each run ----


def test_a_rule_that_evaluates_again_sees_its_own_run() -> None:
    """LBFGS with a line search, on runs of different losses and with groups; every run ends at its own minimum."""
    centre = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    w, v = (torch.zeros(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    values = {"lr": 1, "line_search_fn": "strong_wolfe"}
    optimizer = optim.build("torch.optim.LBFGS", [{"params": [w]}, {"params": [v]}], stacked=True, **values)
    assert isinstance(optimizer, EachRun)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = ((w - centre) ** 4 + (v + centre) ** 2).sum(1)
        found.sum().backward()
        return found.detach()

    first = optimizer.step(closure)
    torch.testing.assert_close(first, (centre**4 + centre**2).sum(1))
    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(v.detach(), -centre, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(w.detach(), centre, rtol=0.1, atol=0.1)


def test_groups_of_one_optimizer_for_each_run() -> None:
    a, b, c = (torch.zeros(3, 2, requires_grad=True) for _ in range(3))
    name = "tests.heavy_ball.HeavyBall"
    optimizer = optim.build(name, [{"params": [a]}, {"params": [b], "lr": 1.0}], stacked=True, lr=0.1)
    optimizer.add_param_group({"params": [c], "lr": 2.0})
    for p in (a, b, c):
        p.grad = torch.ones(3, 2)
    optimizer.step()
    optimizer.param_groups[1]["lr"] = 5.0
    optimizer.param_groups[1]["momentum"] = 0.0
    optimizer.step()
    assert a[0, 0].item() == pytest.approx(-0.1 - 0.1 - 0.09)
    assert b[2, 1].item() == pytest.approx(-1 - 5)
    assert c[1, 0].item() == pytest.approx(-2 - 2 - 1.8)
    with pytest.raises(ValueError, match=r"HeavyBall: unknown hyper-parameter 'lrr'.*Did you mean 'lr'"):
        optim.build(name, [{"params": [a], "lrr": 1.0}], stacked=True, lr=0.1)
    with pytest.raises(ValueError, match="the same number of runs"):
        optim.build(name, [a, torch.zeros(2, 2)], stacked=True, lr=0.1)
    with pytest.raises(ValueError, match="one loss for each of 3 runs, found 2"):
        optimizer.step(lambda: torch.zeros(2))
    with pytest.raises(ValueError, match="the states of 3 runs"):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()) | {"runs": []})


def test_a_class_that_acts_entry_by_entry_needs_no_loop() -> None:
    assert not isinstance(optim.build("torch.optim.AdamW", [torch.zeros(2, 2)], stacked=True), EachRun)
