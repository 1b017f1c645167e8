"""A run that starts from the end of another run: through the plan, the command line and the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import job_counts, snakemake, stage
from workflow.lib import rooms
from workflow.lib.errors import UserError
from workflow.lib.files import read_parameters
from workflow.lib.plan import jobs

SHORT = {"positions": 50, "iterations": 20, "boosting_steps": 10, "batch_size": 4}


def overlay(**optimizers: Any) -> dict[str, Any]:
    return {"experiments": {"shorter": {"seeds": 2, "settings": SHORT, "optimizers": optimizers}}}


def test_a_job_gets_the_entries_that_it_goes_on_from() -> None:
    e = rooms.load_paper("scb", overlay()).experiment("shorter")
    assert e.before("prox") == ["boosting"]
    assert e.before("boosting") == []
    assert list(jobs.for_run(e, "prox")["experiments"]["shorter"]["optimizers"]) == ["boosting", "prox"]
    assert list(jobs.for_run(e, "boosting")["experiments"]["shorter"]["optimizers"]) == ["boosting"]


def test_removing_what_others_start_from_is_told() -> None:
    with pytest.raises(UserError, match=r"prox.start_from: unknown optimizer 'boosting'; there are: prox, sgd_large"):
        rooms.load_paper("scb", overlay(boosting=None))


def test_kinds_of_experiment_without_such_starts_say_so() -> None:
    mine = {"experiments": {"two_stage": {"optimizers": {"more": {"like": "ngd", "rule": "ngd", "start_from": "ngd"}}}}}
    with pytest.raises(UserError, match=r"more.start_from: in experiments of this kind all runs start on their own"):
        rooms.load_paper("ntp", mine)


@pytest.mark.slow
def test_the_workflow_hands_the_parameters_on(tmp_path: Path) -> None:
    def only(**optimizers: Any) -> tuple[str, ...]:
        return (table, "--config", "papers=[scb]", f"scb={overlay(**optimizers)}".replace("'", ""))

    table = "results/scb/metrics/shorter.parquet"
    snakemake(tmp_path, "--cores", "1", *only())
    folder = tmp_path / "results" / "scb" / "runs" / "shorter"
    start, end = (read_parameters(folder / label / "0-1.safetensors") for label in ("boosting", "prox"))
    assert start["attention"].shape == end["attention"].shape == (2, 3, 50)
    assert (start["attention"] != end["attention"]).any()
    for label, trains in (("boosting", 4), ("prox", 1)):
        done = snakemake(tmp_path, "-n", *only(**{label: {"lr": 0.02}}))
        assert job_counts(done.stdout + done.stderr) == {"train": trains, "measure": 1}, label


@pytest.mark.slow
def test_a_start_on_the_command_line_has_to_be_the_entry_s(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    common = ("--paper", "scb", "--experiment", "shorter", "--seeds", "0")
    assert stage("generate", *common, "--data", str(data)).returncode == 0
    out = ("--data", str(data), "--trace", str(tmp_path / "t.parquet"), "--parameters", str(tmp_path / "p.safetensors"))
    done = stage("train", *common, "--optimizer", "prox", *out)
    assert "--start: runs of 'prox' start from the parameters of 'boosting'; found nothing" in done.stderr
    assert stage("train", *common, "--optimizer", "boosting", *out, "--start").returncode == 0
    start = ("--start", str(tmp_path / "p.safetensors"))
    done = stage("train", *common, "--optimizer", "boosting", *out, *start)
    assert "--start: runs of 'boosting' start from nothing" in done.stderr
    before = read_parameters(tmp_path / "p.safetensors")
    np.testing.assert_allclose(before["attention"].sum(axis=-1), 1)
