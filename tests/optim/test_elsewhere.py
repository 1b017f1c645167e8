"""Rules from elsewhere (torch's own, a user's) and rooms that refuse one: all while planning, none in a job."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from tests import small
from tests.conftest import ROOT, environment
from workflow.lib import optim, rooms, stages
from workflow.lib.cli import main
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.files import read_parameters
from workflow.lib.papers.ntp.data import generate
from workflow.lib.papers.ntp.settings import RandomSentences
from workflow.lib.papers.ntp.training import train
from workflow.lib.plan import matrix
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.schema import paper_schema
from workflow.lib.rooms import load_paper
from workflow.lib.sources import modules
from workflow.lib.tables import read_metrics

HEAVY = "tests.heavy_ball.HeavyBall"
WHERE = "ntp.experiments.two_stage.optimizers.mine"


def planned(entry: dict[str, Any], **settings: Any) -> Experiment:
    changes = {"settings": settings, "optimizers": {"mine": entry}}
    return load_paper("ntp", {"experiments": {"two_stage": changes}}).experiment("two_stage")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"rule": "ngdd"}, ["unknown optimizer 'ngdd'", "Did you mean 'ngd'", "dotted path"]),
        ({"rule": "torch.optim.AdmW"}, ["unknown optimizer 'AdmW'", "Did you mean 'AdamW'"]),
        ({"rule": "torch.optm.Adam"}, ["torch.optm.Adam: cannot import torch.optm", "No module named 'torch.optm'"]),
        ({"rule": "no_such_package.Mine"}, ["cannot import no_such_package from", str(Path.cwd())]),
        ({"rule": "tests.heavy_ball.NotAnOptimizer"}, ["expected a subclass of torch.optim.Optimizer", "dict"]),
        ({"rule": "torch.optim.Optimizer"}, ["expected a subclass of torch.optim.Optimizer"]),
        ({"rule": "my-package.Mine"}, ["expected a dotted path", "my-package.Mine"]),
        ({"rule": "torch.optim.AdamW", "lr_": 0.1}, ["unknown hyper-parameter 'lr_'", "Did you mean 'lr'"]),
        ({"rule": "torch.optim.AdamW", "capturable": True}, ["unknown hyper-parameter 'capturable'"]),
        ({"rule": "torch.optim.AdamW", "lr": "fast"}, ["mine.lr: ", "'fast'"]),
        ({"rule": "torch.optim.AdamW", "lr": -1}, ["torch.optim.AdamW refuses", "Invalid learning rate: -1.0"]),
        ({"rule": "torch.optim.AdamW", "betas": [0.9]}, ["mine.betas"]),
        ({"rule": "torch.optim.AdamW", "betas": [0.9, 2]}, ["Invalid beta parameter at index 1: 2.0"]),
        ({"rule": HEAVY}, ["mine.lr: is missing"]),
        ({"rule": HEAVY, "lr": -1}, [f"{HEAVY} refuses", "Invalid learning rate: -1.0"]),
        ({"rule": HEAVY, "lr": 0.1, "momentum": "much"}, ["mine.momentum: ", "'much'"]),
        ({"rule": "tests.heavy_ball.Demanding", "lr": 0.1}, ["mine.warmup: is missing"]),
        ({"rule": "tests.heavy_ball.Demanding", "lr": 0.1, "warmup": 2.5}, ["mine.warmup", "whole number", "2.5"]),
        ({"rule": "tests.heavy_ball.Demanding", "lr": 0.1, "warmup": 2, "name": 3}, ["mine.name"]),
        (
            {"rule": "tests.heavy_ball.Failing"},
            ["takes no step: KeyError: 'momentum'", "heavy_ball.py, line", "raise Key"],
        ),
        ({"rule": "tests.heavy_ball.Differentiating"}, ["takes no step", "without the graph behind them"]),
        ({"rule": "tests.heavy_ball.WithoutClosure"}, ["takes no step: TypeError", "step(closure)"]),
        ({"rule": "ngd", "lr": [0.1, 0.2]}, ["mine.lr: expected a number, found [0.1, 0.2]", "{sweep: [...]}"]),
        (
            {"rule": "torch.optim.SparseAdam"},
            ["SparseAdam takes no step: RuntimeError", "does not support dense gradients"],
        ),
        ({"rule": "ngd", "lr": None}, ["mine.lr: expected a number, found null"]),
    ],
)
def test_a_mistake_is_told_while_planning(entry: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        planned(entry)
    for word in [WHERE, *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_gives_parameters_another_tensor_moves_them() -> None:
    w = torch.arange(12, dtype=torch.float64).reshape(3, 2, 2)
    expected = 0.9**4 * w
    optimizer = optim.build("tests.heavy_ball.Replacing", [w], stacked=True, lr=0.1)

    def closure() -> torch.Tensor:
        w.grad = w.clone()
        return w.square().sum((1, 2)) / 2

    for _ in range(4):
        optimizer.step(closure)
    torch.testing.assert_close(w, expected)


@pytest.mark.slow
def test_a_class_from_elsewhere_sees_the_tensors_of_a_net(tmp_path: Path) -> None:
    """It may tell them apart, so that no short cut may put all weights into one."""
    rivals = {
        "theirs": {"rule": "tests.heavy_ball.Tensorwise", "lr": 0.01},
        "ours": {"rule": "sngd", "lr": 0.01, "norm": "per_tensor"},
    }
    of = small.paper("ib", only=0, more=rivals, experiments=["vit_mnist"])
    (experiment,) = of.experiments.values()
    assert [experiment.settings.route(o) for o in experiment.optimizers.values()] == ["plain", "plain"]
    list(small.run(of, tmp_path))
    table = read_metrics(small.tables(of, tmp_path))
    theirs, ours = (table.curve("vit_mnist", "train_loss", label).values for label in rivals)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


@pytest.mark.parametrize(
    ("experiment", "tensors"),
    [
        ("bert_mnli", "matrices and biases"),
        ("vit_mnist", r"matrices and biases and positions \(1 x tokens x dim\) and scalars"),
    ],
)
def test_a_rule_for_matrices_alone_is_refused_where_there_are_others(experiment: str, tensors: str) -> None:
    changes = {"optimizers": {"mine": {"rule": "torch.optim.Muon", "lr": 0.01}}}
    with pytest.raises(
        UserError, match=rf"{experiment}.optimizers.mine: torch.optim.Muon takes no step on {tensors}: "
    ):
        load_paper("ib", {"experiments": {experiment: changes}})


@pytest.mark.parametrize("experiment", ["bert_mnli", "vit_mnist"])
def test_a_trial_step_sees_tensors_like_those_of_the_net(experiment: str, tmp_path: Path) -> None:
    """As many dimensions, or none: a rule that passes the trial finds no other in the job."""
    of = small.paper("ib", only=1, experiments=[experiment])
    (found,) = of.experiments.values()
    list(small.run(of, tmp_path))
    runs = tmp_path / "runs" / experiment
    (weights, *_) = runs.glob("*/*.safetensors")
    tensors = read_parameters(weights).values()
    assert {array.ndim - 1 for array in tensors} == {len(shape) for shape in found.settings.tensors.values()}


def test_an_error_in_a_step_is_told_by_the_users_line() -> None:
    of = "tests.heavy_ball.Failing"
    failing = optim.optimizer_class(of)([torch.ones(1, requires_grad=True)])
    with (
        pytest.raises(UserError, match=r"Failing takes no step: .*heavy_ball\.py, line \d+: raise"),
        optim.explained(of),
    ):
        failing.step()
    with pytest.raises(KeyError), optim.explained(of):  # not theirs
        raise KeyError("ours")


def test_good_values_are_read() -> None:
    found = planned({"rule": "torch.optim.AdamW", "lr": "1e-3", "betas": [0.8, 0.9], "lr_kq": 0.1}).optimizer("mine")
    assert (found.hyperparameters["lr"], found.hyperparameters["betas"]) == (1e-3, (0.8, 0.9))
    assert found.hyperparameters["weight_decay"] == 0.01
    assert found.options.lr_kq == 0.1
    demanding = {"rule": "tests.heavy_ball.Demanding", "lr": 1, "warmup": 2, "power": 0.5, "anything": [1, "a"]}
    values = Optimizer.read("mine", demanding, Options, "x").hyperparameters
    assert values == {"lr": 1.0, "warmup": 2, "power": 0.5, "name": "x", "anything": [1, "a"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        # a user's file takes no installed package's place
        (
            "import jinja2\nraise LookupError(jinja2.TemplateError)\n",
            "LookupError: <class 'jinja2.exceptions.TemplateError'>",
        ),
    ],
)
def test_a_user_s_file_that_does_not_load_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "jinja2.py").write_text("raise RuntimeError('the wrong one')")
    code = (
        "from workflow.lib.plan.model import Optimizer; from workflow.lib.plan.settings import Options\n"
        "Optimizer.read('a', {'rule': 'mine.Mine'}, Options, 'here')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(ROOT)
    )
    assert f"UserError: here: mine.Mine: cannot import mine from {tmp_path}" in done.stderr
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("rule", [*optim.names(), *matrix.ELSEWHERE, HEAVY])
def test_every_rule_runs_in_ntp(rule: str) -> None:
    """All of them with stacked runs, and each run as if alone."""
    base = planned({"rule": "ngd", "lr": 0.1}, steps_ov=6, steps_kq=6)
    of = base.model_copy(update={"optimizers": {"mine": matrix.example(base, rule)}})
    optimizer = of.optimizer("mine")
    data = {seed: generate(of, of.seed(seed)) for seed in (0, 1)}
    together = train(of, optimizer, data, Job()).trace
    assert together["loss"].values[0, -1] < together["loss"].values[0, 0]
    for i, seed in enumerate(data):
        alone = train(of, optimizer, {seed: data[seed]}, Job()).trace
        for metric in ("loss_ov", "loss", "norm_kq"):
            np.testing.assert_allclose(alone[metric].values[0], together[metric].values[i], rtol=1e-9)


def test_stage_two_has_a_step_size_of_its_own_or_the_first_one_s() -> None:
    data = {0: generate(of := planned({"rule": HEAVY, "lr": 0.1}, steps_ov=3, steps_kq=3), of.seed(0))}
    same = train(of, of.optimizer("mine"), data, Job()).trace["norm_kq"].values
    own = planned({"rule": HEAVY, "lr": 0.1, "lr_kq": 0.2}, steps_ov=3, steps_kq=3)
    assert (train(own, own.optimizer("mine"), data, Job()).trace["norm_kq"].values[0, 1:] != same[0, 1:]).all()


# ---- rooms say how they carry a rule ----


def test_a_room_s_refusal_is_told_while_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    def route(self: RandomSentences, optimizer: Optimizer) -> str:
        if not optimizer.traits.rotations:
            raise UserError(f"{optimizer.rule} does not commute with rotations")
        return "fast" if optimizer.traits.entrywise else "plain"

    entry = {"rule": "sgd", "lr": 0.1}
    experiment = planned(entry)
    monkeypatch.setattr(RandomSentences, "route", route)
    with pytest.raises(UserError, match=f"{WHERE}: adam does not commute with rotations"):
        planned({"rule": "adam", "lr": 0.1})
    assert [matrix.route(experiment, rule) for rule in ("gd", "ngd")] == ["fast", "plain"]
    assert matrix.route(experiment, "adam") == "refused: adam does not commute with rotations"
    table = matrix.markdown([load_paper("ntp")]).splitlines()
    assert table[0] == "| rule | ntp random_sentences | ntp strings |"
    assert table[2] == "| `adam` | refused: adam does not commute with rotations | fast |"


def test_an_option_that_a_rule_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match=f"{WHERE}: lr_kq: the rule .* has no lr"):
        planned({"rule": "tests.heavy_ball.WithoutLr", "lr_kq": 0.1})


def test_the_matrix_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--papers", "ntp"]) == 0
    assert "| `torch.optim.LBFGS` | fast | fast |" in capsys.readouterr().out


def test_the_schema_takes_a_dotted_path_with_its_own_hyperparameters() -> None:
    schema = paper_schema(rooms.room("ntp"))
    check = schema["properties"]["experiments"]["additionalProperties"]["properties"]["optimizers"]
    jsonschema.validate({"mine": {"rule": "torch.optim.RMSprop", "alpha": 0.9}, "ngd": {"lr": 0.1}}, check)
    for wrong in ({"rule": "ngd", "alpha": 0.9}, {"rule": "ngdd"}, {"alpha": 0.9}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"mine": wrong}, check)


class Noisy(torch.optim.SGD):
    """SGD with noise that it draws by itself."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad += torch.randn_like(p) + random.gauss(0, 1)
        return super().step(closure)


def test_what_a_rule_draws_begins_by_the_first_seed_of_its_job(tmp_path: Path) -> None:
    entry = {"rule": f"{__name__}.Noisy", "lr": 0.1}
    of = small.paper("ntp", more={"mine": entry}, experiments=["two_stage"])
    experiment = of.experiment("two_stage")
    ends = []
    for name, seeds in (("first", [0, 1]), ("again", [0, 1]), ("other", [1])):
        files = [tmp_path / f"{name}.{kind}" for kind in ("npz", "parquet", "safetensors")]
        stages.generate(experiment, seeds, files[0])
        stages.train(experiment, "mine", seeds, *files)
        ends.append(read_parameters(files[2])["value"])
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0][1] - ends[2][0]).max() > 0.01


# ---- an edit reruns ----


def test_the_files_behind_a_user_s_rule() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in modules(*optim.files(HEAVY))}
    assert found == {"tests/__init__.py", "tests/heavy_ball.py", "tests/heavy_ball_helper.py"}
    assert optim.files("torch.optim.AdamW") == ()
    assert [path.name for path in optim.files("ngd")] == ["ngd.py"]


def test_a_user_s_package_is_followed_by_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"__init__.py": "", "helper.py": "FACTOR = 1\n", "beside.py": "", "mine.py": "from .helper import FACTOR\n"}
    (tmp_path / "package").mkdir()
    for name, text in files.items():
        (tmp_path / "package" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert {path.name for path in modules(tmp_path / "package" / "mine.py")} == {*files} - {"beside.py"}
