"""The workflow on a real Slurm: routing, equal results, kills, cancelled runs, set-ups that cannot work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import pytest

from tests.conftest import (
    ROOT,
    SNAKEFILE,
    copy_project,
    each_training,
    environment,
    job_counts,
    jobs_at_work,
    snakemake,
)
from tests.slurm.cluster import ACCOUNT, FOLDER, TrialCluster, Unavailable, install, parse_fields
from workflow.lib import cluster
from workflow.lib.errors import UserError
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan

pytestmark = pytest.mark.slurm

QUICK = ("--configfile", str(ROOT / "tests" / "quick.yaml"))
PROFILE = Path("workflow") / "profiles" / "slurm"
RUNS_PER_JOB = read_yaml(ROOT / PROFILE / "profile.yaml")["group-components"]["train"]
PAPERS = make_plan(read_yaml(ROOT / "config" / "config.yaml")).papers
OFTEN = ROOT / "tests" / "slurm" / "often.py"

# One experiment of the project under test asks for a GPU, whatever the papers' own experiments ask for.
WANTS_GPU = """

class _OnGpu(KINDS["strings"]):
    def needs(self):
        return super().needs()._replace(gpu=1)


KINDS["strings"] = _OnGpu
"""
SHORT = "ntp={experiments: {long_run: {settings: {steps_ov: 20, steps_kq: 40}}}}"
LONG = "ntp={experiments: {long_run: {settings: {steps_kq: 30000}}}}"


# Of every room a run, one of them on a GPU, and what it takes from there to a figure; the deep net's is cut short.
TRAINED = [
    f"results/{paper}/runs/{experiment}/{label}/0"
    for paper, experiment, label in each_training(PAPERS)
    if experiment in ("two_stage", "example", "balanced", "joint", "vit_mnist", "main")
]
COMPARED = (
    *(f"{run}.{kind}" for run in TRAINED for kind in ("parquet", "safetensors")),
    "results/ntp/figures/fig1.csv",
)
SHORT_NETS = "ib={experiments: {vit_mnist: {settings: {train_examples: 200, test_examples: 40}}}}"


@dataclass
class Submitter:
    """Runs snakemake with the profile of a copied project on a trial cluster."""

    cluster: TrialCluster
    project: Path

    def command(self, directory: Path, *arguments: str, profile: Path | None = None) -> list[str]:
        directory.mkdir(exist_ok=True)
        chosen = profile or self.project / PROFILE
        fixed = ["--workflow-profile", str(chosen), "--snakefile", str(self.project / SNAKEFILE)]
        at_once = ["--slurm-init-seconds-before-status-checks", "1"]
        return [sys.executable, "-P", str(OFTEN), *fixed, "--directory", str(directory), *at_once, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        own = environment(self.project)
        slurm = self.cluster.environment
        return {
            **own,
            **slurm,
            "PATH": f"{self.cluster.folder}/bin{os.pathsep}{own['PATH']}",
            "PYTHONPATH": str(self.project),
        }

    def start(self, directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
        command = self.command(directory, *arguments)
        with (directory / "out.txt").open("wb") as out:
            return subprocess.Popen(
                command, env=self.environment, cwd=directory, stdout=out, stderr=out, start_new_session=True
            )

    def run(self, directory: Path, *arguments: str, ok: bool = True, profile: Path | None = None) -> str:
        """Everything that snakemake printed; `ok` says whether it must succeed."""
        command = self.command(directory, *arguments, profile=profile)
        done = subprocess.run(command, env=self.environment, cwd=directory, capture_output=True, text=True, timeout=900)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output[-6000:]
        return output

    def jobs(self) -> list[dict[str, str]]:
        """All jobs of the cluster, with the rule that Snakemake writes into the comment."""
        fields = "JobID,Partition,State,ReqMem,AllocTRES,Comment,Account"
        # Without a time, sacct leaves out what ended before the last midnight.
        rows = self.cluster.run("sacct", "-X", "-P", "-n", "-S", "now-2days", f"--format={fields}").splitlines()
        return [dict(zip(fields.split(","), row.split("|"), strict=True)) for row in rows]


def trial_cluster(folder: Path, accounting: bool) -> Iterator[TrialCluster]:
    trial = TrialCluster(folder, accounting)
    try:
        if os.environ.get("TRIAL_SLURM") == "install":
            install()
        with trial:
            yield trial
    except Unavailable as reason:
        pytest.skip(f"no trial cluster: {reason}")


WHOLE = (*COMPARED, *QUICK, "--config", f"papers=[{','.join(PAPERS)}]", "seeds=1", "device=auto", SHORT_NETS)


@pytest.fixture(scope="module")
def gpu_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("slurm") / "project")
    with (project / "workflow/lib/papers/ntp/settings.py").open("a") as settings:
        settings.write(WANTS_GPU)
    return project


@pytest.fixture(scope="module")
def with_sacct(tmp_path_factory: pytest.TempPathFactory, gpu_project: Path) -> Iterator[Submitter]:
    for trial in trial_cluster(tmp_path_factory.mktemp("sacct"), accounting=True):
        yield Submitter(trial, gpu_project)


@pytest.fixture
def with_squeue(tmp_path: Path, gpu_project: Path) -> Iterator[Submitter]:
    for trial in trial_cluster(tmp_path / "squeue", accounting=False):
        yield Submitter(trial, gpu_project)


@pytest.fixture(scope="module")
def whole(with_sacct: Submitter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of trainings of every room on the cluster."""
    directory = tmp_path_factory.mktemp("whole")
    account = ("--default-resources", "mem_mb=2000", "runtime=30", f"slurm_account={ACCOUNT}")
    with_sacct.run(directory, *WHOLE, *account)
    return directory


def test_gpu_jobs_go_to_v100_nodes_and_no_other_job_does(with_sacct: Submitter, whole: Path, tmp_path: Path) -> None:
    planned = job_counts(snakemake(tmp_path, "-n", *WHOLE, project=with_sacct.project).stdout)
    jobs = with_sacct.jobs()
    by_rule = Counter(job["Comment"].split("_wildcards_")[0] for job in jobs)
    assert by_rule["rule_train_on_gpu"] == planned["train_on_gpu"] > 0
    assert by_rule.total() - by_rule["rule_train_on_gpu"] == ceil(planned["train"] / RUNS_PER_JOB)
    for job in jobs:
        assert job["State"] == "COMPLETED"
        assert job["Account"] == ACCOUNT
        on_gpu = job["Comment"].startswith("rule_train_on_gpu")
        assert job["Partition"] == ("gpu" if on_gpu else "cpu"), job
        assert ("gres/gpu:v100=1" in job["AllocTRES"]) == on_gpu, job
        assert ("gres/gpu" in job["AllocTRES"]) == on_gpu, job


def test_results_are_those_of_a_local_run(whole: Path, tmp_path: Path) -> None:
    """On this machine, and by the project as it is: to ask for a GPU changes no number."""
    snakemake(tmp_path, "--cores", "2", *WHOLE, anew=True)
    for path in COMPARED:
        same = (whole / path).read_bytes() == (tmp_path / path).read_bytes()
        assert same, path  # not the bytes themselves: pytest would compare them at length


def test_nothing_to_do_the_second_time(with_sacct: Submitter, whole: Path) -> None:
    before = len(with_sacct.jobs())
    assert "Nothing to be done" in with_sacct.run(whole, *WHOLE)
    assert len(with_sacct.jobs()) == before


def test_a_job_killed_on_its_node_is_retried_with_more_memory(with_sacct: Submitter, tmp_path: Path) -> None:
    before = len(with_sacct.jobs())
    running = with_sacct.start(tmp_path, "results/ntp/metrics/long_run.parquet", "--config", SHORT, "seeds=2")
    try:
        os.kill(training_process(tmp_path), signal.SIGKILL)
        assert running.wait(timeout=300) == 0, (tmp_path / "out.txt").read_text()[-3000:]
    finally:
        end(running)
    killed, again = with_sacct.jobs()[before:]
    assert (killed["State"], again["State"]) == ("FAILED", "COMPLETED")
    assert int(again["ReqMem"].removesuffix("M")) == 2 * int(killed["ReqMem"].removesuffix("M"))


def test_a_cancelled_workflow_resumes(with_sacct: Submitter, tmp_path: Path) -> None:
    before = len(with_sacct.jobs())
    arguments = ("results/ntp/metrics/long_run.parquet", "--config", LONG, "seeds=2")
    running = with_sacct.start(tmp_path, *arguments)
    try:
        training_process(tmp_path)
        os.kill(running.pid, signal.SIGINT)
        assert running.wait(timeout=60) != 0
    finally:
        end(running)
    wait(lambda: not with_sacct.cluster.run("squeue", "-h").strip(), 30, "the jobs to be cancelled")
    assert not list(tmp_path.glob("results/ntp/runs/*/*/*.parquet"))
    with_sacct.run(tmp_path, *arguments)
    cancelled, again = with_sacct.jobs()[before:]
    assert cancelled["State"].startswith("CANCELLED")
    assert again["State"] == "COMPLETED"
    assert list(tmp_path.glob("results/ntp/metrics/long_run.parquet"))


def test_a_bad_set_up_ends_before_any_job(with_sacct: Submitter, tmp_path: Path) -> None:
    profile = changed_profile(tmp_path, {"partitions.yaml": ("  cpu:", "  cppu:")})
    before = len(with_sacct.jobs())
    output = with_sacct.run(tmp_path / "run", *QUICK, ok=False, profile=profile)
    assert "partitions.yaml: unknown partition 'cppu'; there are: cpu, gpu" in output
    assert "Traceback" not in output
    assert len(with_sacct.jobs()) == before


@pytest.mark.parametrize(
    ("old", "new", "resources", "message"),
    [
        ("", "", {}, None),
        ("max_gpu: 2", "max_gpu: 0", {}, "no partition has max_gpu: 1"),
        ("[v100]", "[a100]", {}, "available_gpu_models: [v100]"),
        ("", "", {"slurm_partition": "cpu"}, "cpu has none"),
        ("[v100]", "[v100, a100]", {"gpu_model": "a100"}, "gpu has gpu:v100:2"),
    ],
)
def test_what_this_cluster_has(
    with_sacct: Submitter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    resources: dict[str, str],
    message: str | None,
) -> None:
    """The check before any job, on what a real Slurm says of itself."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, with_sacct.environment[name])
    table = changed_profile(tmp_path, {"partitions.yaml": (old, new)}) / "partitions.yaml"
    request = cluster.Request("train_on_gpu", {"mem_mb": 1000, "gpu": 1, "gpu_model": "v100", **resources})
    if message is None:
        cluster.check([request], table, "sacct", "auto")
        return
    with pytest.raises(UserError, match=re.escape(message)):
        cluster.check([request], table, "sacct", "auto")


def test_without_accounting(with_squeue: Submitter, tmp_path: Path) -> None:
    """A cluster with neither sacct nor --gpus: refused as shipped, served by the profile's other blocks."""
    figure = "results/ntp/figures/fig1.csv"
    output = with_squeue.run(tmp_path / "refused", figure, *QUICK, ok=False)
    assert "set `slurm-status-command: squeue`" in output

    gres = "    gpu: 0\n    gres: gpu:v100:1"
    changes = {"profile.yaml": ("    gpu_model: v100", gres)}
    profile = changed_profile(tmp_path, changes, "slurm-status-command: squeue\n")
    with_squeue.run(tmp_path / "run", figure, *QUICK, profile=profile)
    assert (tmp_path / "run" / figure).exists()
    (job,) = with_squeue.cluster.run("scontrol", "-o", "show", "jobs").splitlines()
    fields = parse_fields(job)
    assert fields["Partition"] == "gpu"
    assert "gpu:v100:1" in fields["TresPerNode"]
    assert fields["JobState"] == "COMPLETED"


def changed_profile(folder: Path, changes: dict[str, tuple[str, str]], more: str = "") -> Path:
    """A copy of the profile with some text replaced."""
    profile = folder / "profile"
    shutil.copytree(ROOT / PROFILE, profile)
    for name, (old, new) in changes.items():
        text = (profile / name).read_text()
        assert old in text
        (profile / name).write_text(text.replace(old, new, 1))
    with (profile / "profile.yaml").open("a") as settings:
        settings.write(more)
    return profile


def test_a_killed_test_leaves_no_daemons(tmp_path: Path) -> None:
    """Neither SIGKILL nor a closed terminal leaves a Slurm behind."""
    code = "import sys, time; from tests.slurm.cluster import *\n"
    code += "with TrialCluster(Path(sys.argv[1])): print('started', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert killed.stdout is not None
        if killed.stdout.readline() != "started\n":
            pytest.skip("no trial cluster")
        pids = [int(path.read_text()) for path in (tmp_path / FOLDER).glob("*.pid")]
        assert len(pids) == 4
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    wait(lambda: not any(alive(pid) for pid in pids), 60, "the daemons to end")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def training_process(directory: Path) -> int:
    """The process id of the training that works in a directory, as soon as there is one."""
    found: list[int] = []

    def look() -> bool:
        found.extend(jobs_at_work(directory, "train"))
        return bool(found)

    wait(look, 120, "a training job to run")
    return found[0]


def wait(ready: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
