"""The default profile: found without being named, and one run at a time on the one GPU of a workstation."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, SNAKEFILE, python, snakemake

PROFILE = (ROOT / SNAKEFILE).parent / "profiles" / "default"

# Eight jobs that each want the card for themselves, and fail where another one has it.
ONE_CARD = """
rule all:
    input: expand("{job}.txt", job=range(8))

rule occupy:
    output: "{job}.txt"
    resources: gpu=1
    shell: "mkdir card; sleep 0.2; rmdir card; touch {output}"
"""


def workstation(folder: Path, *arguments: str) -> int:
    (folder / "Snakefile").write_text(ONE_CARD)
    shutil.copytree(PROFILE, folder / "profiles" / "default")
    return python("snakemake", "--cores", "4", *arguments, cwd=folder).returncode


@pytest.mark.parametrize(("bound", "fails"), [((), 0), (("--resources", "gpu=4"), 1)])
@pytest.mark.slow
def test_one_job_at_a_time_has_the_gpu(tmp_path: Path, bound: tuple[str, ...], fails: int) -> None:
    assert workstation(tmp_path, *bound) == fails


@pytest.mark.slow
def test_a_round_looks_at_some_of_many_jobs_that_wait(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: expand("{i}", i=range(101))\nrule one:\n    output: "{i}"\n    shell: "exit 1"\n'
    )
    shutil.copytree(PROFILE, tmp_path / "profiles" / "default")
    done = python("snakemake", "--cores", "1", "--verbose", cwd=tmp_path)
    assert "Ready subsampled jobs: 100 (out of 101)" in done.stderr


@pytest.mark.parametrize("where", ["in the project", "elsewhere"])
@pytest.mark.slow
def test_snakemake_finds_workflow_and_profile(tmp_path: Path, where: str) -> None:
    named = [] if where == "in the project" else ["--snakefile", str(ROOT / SNAKEFILE)]
    folder = ROOT if where == "in the project" else tmp_path
    target = "results/ntp/figures/fig1.pdf"
    done = python("snakemake", "-n", *named, target, "--directory", str(tmp_path), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Using workflow specific profile \S*workflow/profiles/default for", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("auto", 1)])
def test_a_run_on_the_cpu_waits_for_no_gpu(tmp_path: Path, device: str, gpus: int) -> None:
    run = "results/ib/runs/vit_mnist/sgd/0.parquet"
    done = snakemake(tmp_path, "-n", run, "--config", "seeds_per_job=1", f"device={device}")
    asked = re.search(r"rule train_on_gpu:.*?resources: ([^\n]*)", done.stdout + done.stderr, re.DOTALL)
    assert asked is not None
    assert re.search(r"\bgpu=(\d+)", f"{asked[1]}, gpu=0")[1] == str(gpus)  # type: ignore[index]


@pytest.mark.parametrize("terminal", [True, False])
def test_make_shows_bars_on_a_terminal_alone(tmp_path: Path, terminal: bool) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    told = tmp_path / ".venv" / "bin" / "snakemake"
    told.parent.mkdir(parents=True)
    told.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    told.chmod(0o755)
    ours, theirs = pty.openpty()
    try:
        errors = theirs if terminal else subprocess.PIPE
        subprocess.run(["make", "-o", ".venv/ready", "figures"], cwd=tmp_path, stderr=errors, check=True)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ((tmp_path / "arguments").read_text().split()[:2] == ["--logger", "rich"]) is terminal
