"""The contract that every paper's room keeps."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from workflow.lib import rooms
from workflow.lib.plan.reading import read_yaml
from workflow.lib.plan.settings import Needs, Settings
from workflow.lib.rooms import load_paper, make_plan

PAPERS = rooms.papers()
EXPERIMENTS = [(p, e) for p in PAPERS for e in load_paper(p).experiments]


def test_every_room_has_a_configuration_and_runs_by_default() -> None:
    configured = {path.stem for path in (ROOT / "config" / "papers").glob("*.yaml")}
    assert set(PAPERS) == configured == set(read_yaml(ROOT / "config" / "config.yaml")["papers"])


@pytest.mark.parametrize("paper", PAPERS)
def test_figures_claims_and_captions_match_the_configuration(paper: str) -> None:
    plan = load_paper(paper)
    assert set(rooms.figures(paper)) == set(plan.figures) == set(rooms.room(paper).drawings)
    assert set(rooms.claims(paper)) == set(plan.claims)
    captions = {path.stem for path in (ROOT / "workflow" / "report" / paper).glob("*.rst")}
    assert captions == set(plan.figures)
    for claim in plan.claims.values():
        assert claim.name.startswith(f"{paper}.")
        assert claim.figure is None or claim.figure in plan.figures, claim
        assert claim.low is not None or claim.high is not None, claim


@pytest.mark.parametrize("paper", PAPERS)
def test_every_experiment_is_drawn_or_claimed(paper: str) -> None:
    plan = load_paper(paper)
    drawn = {name for figure in plan.figures.values() for name in figure.experiments}
    source = "".join(path.read_text() for path in (ROOT / "workflow/lib/papers" / paper).rglob("claims.py"))
    assert {name for name in plan.experiments if name not in drawn and name not in source} == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_what_goes_beyond_the_paper_says_so(paper: str) -> None:
    for name in load_paper(paper).figures:
        text = (ROOT / "workflow" / "report" / paper / f"{name}.rst").read_text()
        assert name.startswith("fig") or "Not in the paper" in text, name


@pytest.mark.parametrize("paper", PAPERS)
def test_settings_are_typed_and_light(paper: str) -> None:
    for kind in rooms.room(paper).kinds.values():
        assert issubclass(kind, Settings)
        given = [f for f in kind.model_fields.values() if not f.is_required()]
        assert not given, f"{kind.__name__} has defaults: a shipped number without a source"
    heavy = "('torch', 'pandas', 'matplotlib')"
    code = f"import sys, workflow.lib.papers.{paper}.settings; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("paper", "name"), EXPERIMENTS)
def test_stage_functions_have_the_contract_s_parameters(paper: str, name: str) -> None:
    experiment = load_paper(paper).experiment(name)
    assert list(inspect.signature(rooms.generate(experiment)).parameters) == ["experiment", "seed"]
    assert list(inspect.signature(rooms.train(experiment)).parameters) == ["experiment", "optimizer", "data", "job"]
    assert list(inspect.signature(rooms.measure(experiment)).parameters) == ["experiment", "data", "runs"]
    assert isinstance(experiment.settings.needs(), Needs)


def test_a_job_asks_for_more_memory_where_torch_takes_its_steps() -> None:
    from workflow.lib.papers.ib.synthetic.along import along
    from workflow.lib.papers.scb.descent import WITHOUT_TORCH

    joint = load_paper("ib").experiment("joint")
    without = {o.rule for o in joint.optimizers.values() if along(o, joint=True) is not None}
    assert without == joint.settings.without_torch
    assert load_paper("scb").experiment("main").settings.without_torch == set(WITHOUT_TORCH)
    asked = [joint.settings.memory(rules, seeds=5) for rules in (["gd", "ngd"], ["gd", "torch.optim.Adam"])]
    assert asked[1] - asked[0] == joint.settings.needs().torch_mb > 0


@pytest.mark.parametrize(("paper", "name"), EXPERIMENTS)
def test_data_depend_on_the_seed_alone(paper: str, name: str) -> None:
    experiment = load_paper(paper).experiment(name)
    make = rooms.generate(experiment)
    one, again = make(experiment, experiment.seed(1)), make(experiment, experiment.seed(1))
    assert one.keys() == again.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], again[key])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow" / "lib").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_hidden_random_numbers(path: Path) -> None:
    text = re.sub(r"^\s*>>>.*$", "", path.read_text(), flags=re.MULTILINE)  # examples may seed what they show
    for pattern in (
        r"np\.random\.seed\(\d",
        r"default_rng\(\)",
        r"manual_seed\(\d",
        r"np\.random\.(normal|uniform|choice|rand)\(",
    ):
        assert not re.search(pattern, text), f"{path}: {pattern}"


def test_shared_code_names_no_paper() -> None:
    shared = [
        p for p in (ROOT / "workflow" / "lib").rglob("*.py") if "papers" not in p.parts or p.parent.name == "papers"
    ]
    for path in shared:
        code = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not {c for c in code if c in PAPERS}, path


def test_config_of_the_readme_is_a_plan() -> None:
    plan = make_plan(read_yaml(ROOT / "config" / "config.yaml"))
    assert set(plan.papers) == set(PAPERS)
