"""The cluster's parts that need no cluster: environments, the profile, which runs ask for a GPU, bad set-ups."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.benchmarks.cluster import SLURM_JOBS_LIMIT, experiments, slurm_jobs
from tests.conftest import ROOT, job_counts, snakemake
from workflow.lib import cluster
from workflow.lib.errors import UserError

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
TABLE = PROFILE / "partitions.yaml"


def test_every_rule_with_a_command_has_an_environment() -> None:
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in path.read_text().split("\nrule ")[1:]:
            assert ("shell:" in rule) <= ("../../envs/" in rule), (path.name, rule.split(":")[0])


@pytest.mark.slow
def test_runs_that_ask_for_a_gpu_have_the_rule_for_it(tmp_path: Path) -> None:
    optimizers = {0: 0, 1: 0}
    for experiment in experiments():
        optimizers[experiment.settings.needs().gpu] += len(experiment.optimizers)
    planned = snakemake(tmp_path, "-n", "--quiet", "rules", "--config", "seeds=1")
    counts = job_counts(planned.stdout + planned.stderr)
    assert counts["train"] == optimizers[0]
    assert counts.get("train_on_gpu", 0) == optimizers[1]
    assert slurm_jobs(counts) <= SLURM_JOBS_LIMIT


class Slurm:
    """Commands of a pretended cluster on PATH, each a script that prints a text."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", str(folder))
        for name in ("sbatch", "squeue", "sacct"):
            self.command(name)
        self.command("sinfo", "cpu (null)\ngpu gpu:v100:2(S:0-1)\ngpu gpu:a100:4\n")

    def command(self, name: str, prints: str = "", error: str = "", status: int = 0) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\nprintf '%s' '{prints}'\nprintf '%s' '{error}' >&2\nexit {status}\n")
        path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path, monkeypatch)


CPU = cluster.Request("train", {"mem_mb": 1000})
GPU = cluster.Request("train_on_gpu", {"mem_mb": 1000, "gpu": 1, "gpu_model": "v100"})
GRES = cluster.Request("train_on_gpu", {"mem_mb": 1000, "gpu": 0, "gres": "gpu:v100:1"})


@pytest.mark.parametrize("status_command", ["sacct", "squeue", None])
def test_a_good_set_up_passes(slurm: Slurm, status_command: str | None) -> None:
    cluster.check([CPU, GPU, GRES], TABLE, status_command, "auto")


def test_nothing_to_submit_needs_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster.check([], TABLE, "sacct", "cpu")


def refusal(
    *requests: cluster.Request, table: Path | None = TABLE, status_command: str = "sacct", device: str = "auto"
) -> str:
    with pytest.raises(UserError) as refused:
        cluster.check(requests, table, status_command, device)
    return str(refused.value)


def test_no_sbatch(slurm: Slurm) -> None:
    (slurm.folder / "sbatch").unlink()
    assert refusal(CPU).startswith("sbatch is not on PATH")


def test_no_controller(slurm: Slurm) -> None:
    slurm.command("sinfo", error="Unable to contact slurm controller", status=1)
    assert refusal(CPU) == "sinfo gets no answer from the Slurm controller: Unable to contact slurm controller"


def test_no_accounting(slurm: Slurm) -> None:
    slurm.command("sacct", error="Slurm accounting storage is disabled", status=1)
    assert "Slurm accounting storage is disabled" in refusal(CPU)
    assert "`slurm-status-command: squeue`" in refusal(CPU)
    cluster.check([CPU], TABLE, "squeue", "auto")


def test_unknown_partitions(slurm: Slurm) -> None:
    slurm.command("sinfo", "cpu (null)\nlong (null)\n")
    assert refusal(CPU).startswith(f"{TABLE}: unknown partition 'gpu'; there are: cpu, long")
    chosen = cluster.Request("train", {"slurm_partition": "lonk"})
    assert "slurm_partition of rule train: unknown partition 'lonk'" in refusal(chosen, table=None)


def test_no_gpu_partition(slurm: Slurm, tmp_path: Path) -> None:
    table = tmp_path / "partitions.yaml"
    table.write_text("partitions: {cpu: {max_runtime: 60}}")
    assert "no partition has max_gpu: 1 and available_gpu_models: [v100]" in refusal(GPU, table=table)
    cluster.check([CPU], table, "sacct", "cpu")


def test_a_model_that_the_cluster_lacks(slurm: Slurm) -> None:
    slurm.command("sinfo", "cpu (null)\ngpu gpu:a100:4\n")
    assert "1 GPU of model v100, which Slurm does not offer: gpu has gpu:a100:4" in refusal(GPU)
    assert "of model v100" in refusal(GRES)


@pytest.mark.parametrize(("resource", "asked"), [("runtime", 9999), ("mem_mb", 999_999), ("threads", 64)])
def test_a_job_too_big_for_every_partition(slurm: Slurm, resource: str, asked: int) -> None:
    message = refusal(cluster.Request("train", {resource: asked}))
    assert f"rule train asks for {resource}={asked}, and cpu has max_" in message
    assert "gpu has max_" in message


def test_a_gpu_that_would_stay_idle(slurm: Slurm) -> None:
    assert "--config device=auto" in refusal(GPU, device="cpu")


def test_a_table_that_is_none(slurm: Slurm, tmp_path: Path) -> None:
    table = tmp_path / "partitions.yaml"
    table.write_text("partitions: [cpu]")
    assert "expected `partitions:`" in refusal(CPU, table=table)


@pytest.mark.slow
def test_the_profile_without_a_cluster_ends_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command, on a PATH that has what the workflow needs and no Slurm."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "tee", "which", "env"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    quick = ("--configfile", str(ROOT / "tests" / "quick.yaml"))
    done = snakemake(tmp_path, "--workflow-profile", str(PROFILE), *quick, check=False)
    assert done.returncode == 1
    assert "error: sbatch is not on PATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists() or not list(tmp_path.glob("results/**/*.npz"))
