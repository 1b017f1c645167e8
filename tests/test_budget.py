"""The last line of a stage's log, and the table of them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import budget
from tests.conftest import stage
from workflow.lib.costs import Cost


@pytest.mark.slow
def test_a_stage_ends_with_its_cost_and_the_table_adds_them_up(tmp_path: Path) -> None:
    named = ("--paper", "scb", "--experiment", "checks", "--seeds", "0")
    made = stage("generate", *named, "--data", f"{tmp_path}/0.npz", anew=True)  # a fork has next to nothing to start
    cost = Cost.read(made.stderr)
    assert cost is not None
    assert cost.stage == "generate"
    assert 0 < cost.starting <= cost.seconds < 60
    assert 20 < cost.memory < 2000

    logs = {"scb/logs/generate/checks/0.log": made.stderr, "scb/logs/train/checks/boosting/0.log": "cut short"}
    logs |= {f"scb/logs/train/main/prox/{s}.log": f"{Cost('train', 3.0, 2.0, 0.5, 100 + s)}\n" for s in range(3)}
    for name, text in logs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    jobs = budget.costs(tmp_path)
    assert len(jobs) == 4
    lines = [line.split() for line in budget.budget(jobs, tmp_path, snakemake=3.0)]
    assert lines[1] == ["train", "scb", "3", "6.0", "2.00", "25%", "102"]
    assert lines[-1][:3] == ["in", "all", "4"]
    assert float(lines[-1][3]) >= 9
    ((name, held, asked),) = budget.memory(jobs, tmp_path)
    assert (name, held) == ("scb bigram", 102)
    assert asked > 0


@pytest.mark.slow
def test_a_refused_stage_tells_no_cost(tmp_path: Path) -> None:
    done = stage("generate", "--paper", "nobody", "--experiment", "x", "--seeds", "0", "--data", f"{tmp_path}/0.npz")
    assert done.returncode == 1
    assert Cost.read(done.stderr) is None
