"""ntp: every rule, registered or from elsewhere, on every kind of experiment, against the plain twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import ROOT
from tests.reference import ntp as plain
from workflow.lib import captions, optim, rooms
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.look import looks
from workflow.lib.papers.ntp import metrics
from workflow.lib.papers.ntp.data import generate
from workflow.lib.papers.ntp.language import DataSet
from workflow.lib.papers.ntp.settings import learning_rates
from workflow.lib.papers.ntp.training import initial, train
from workflow.lib.plan.matrix import ELSEWHERE, example
from workflow.lib.plan.model import Paper
from workflow.lib.rooms import load_paper
from workflow.lib.runs import Metrics

RULES = (*optim.names(), *ELSEWHERE, "torch.optim.SGD")
SMALL = {"vocabulary_size": 6, "embedding_dimension": 7, "sentences": 6, "steps_ov": 12, "steps_kq": 12}
KINDS = {"two_stage": SMALL, "example": {"steps_ov": 12, "steps_kq": 12, "init_scale": 0.1}}


def entry(rule: str) -> dict[str, Any]:
    """An entry of a configuration, with numbers where the rule has no default."""
    known = example(load_paper("ntp").experiment("two_stage"), rule).hyperparameters
    needed = {k for k, field in optim.hyperparameters(rule).model_fields.items() if field.is_required()}
    return {
        "rule": rule,
        **{k: v for k, v in known.items() if k in needed},
        **({"lr": 0.02, "lr_kq": 0.01} if "lr" in known else {}),
        **({"max_iter": 4} if "max_iter" in known else {}),  # of LBFGS, in each of its steps
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_stacked_seeds_follow_the_plain_twin(name: str, rule: str) -> None:
    changes = {"settings": KINDS[name], "optimizers": {"ngd": None, "mine": entry(rule)}}
    of = load_paper("ntp", {"experiments": {name: changes}}).experiment(name)
    optimizer = of.optimizers["mine"]
    data = {seed: generate(of, of.seed(seed)) for seed in (0, 1, 4)}
    finished = train(of, optimizer, data, Job())
    size = len(data[0]["collocation"])
    start = initial(of, list(data), size)

    def make(parameter: torch.Tensor, stage: int) -> torch.optim.Optimizer:
        lr = {"lr": learning_rates(optimizer)[stage]} if "lr" in optimizer.hyperparameters else {}
        return optimizer.build([parameter], **lr)

    for i, arrays in enumerate(data.values()):
        expected = plain.train_by(make, DataSet.from_arrays(arrays), start[0][i], start[1][i], (12, 12))
        for metric, scale in (("loss_ov", size), ("loss", 1)):
            found = scale * finished.trace[metric].values[i]
            np.testing.assert_allclose(found, torch.stack(expected[metric]), rtol=1e-8, err_msg=metric)
        np.testing.assert_allclose(finished.parameters["value"][i, -1], expected["value"][0], atol=1e-8)


@pytest.mark.slow
def test_every_rule_is_measured_and_drawn() -> None:
    """All of them beside NGD, in every figure that has training runs."""
    settings = {"steps_ov": 14, "steps_kq": 14}
    names = ("two_stage", "zero_init", "other_sentences", "long_run")
    mine = {f"mine_{at}": entry(rule) for at, rule in enumerate(RULES)}
    paper = load_paper(
        "ntp", {"experiments": {n: {"settings": settings, "seeds": 2, "optimizers": mine} for n in names}}
    )
    measured = Metrics({name: run(paper, name) for name in names})
    for name, figure in paper.figures.items():
        if name == "fig1":
            continue
        drawing = rooms.figures("ntp")[figure.drawing](measured, *[paper.experiment(e) for e in figure.experiments])
        for panel, rows in pd.DataFrame(dict(drawing.table)).groupby("panel"):
            if "deviation" not in str(panel):
                assert {"ngd", *mine} <= set(rows["series"]), (name, panel)
        caption = captions.text(ROOT / "workflow" / "report" / "ntp" / f"{name}.rst", drawing.facts)
        for label in mine:
            assert looks(paper.experiment("two_stage"))[label].name in caption.replace("\\", ""), (name, label)


def run(paper: Paper, name: str) -> dict[str, Any]:
    of = paper.experiment(name)
    data = {seed: generate(of, of.seed(seed)) for seed in range(of.seeds)}
    return metrics.measure(of, data, {label: train(of, o, data, Job()) for label, o in of.optimizers.items()})


def test_a_second_step_size_needs_a_rule_that_has_one() -> None:
    changes = {"two_stage": {"optimizers": {"polyak": {"f_star": 0.0, "lr_kq": 0.1}}}}
    with pytest.raises(UserError, match=r"optimizers\.polyak.*lr_kq"):
        load_paper("ntp", {"experiments": changes})
