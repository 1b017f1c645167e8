"""Kills of real jobs at random moments, full disks, two runs at once: too long for every day.

    pytest tests/faults/campaign.py         # KILLS=10 for fewer than 50

A case passes only with nothing half-written, the same command then going to its end, and the bytes of a run that
nothing disturbed.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.conftest import ROOT, SNAKEFILE, environment, jobs_at_work
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Paper, block_name

KILLS = int(os.environ.get("KILLS", "50"))
# What is killed: of each paper an experiment and one of its optimizers.
TRAINED = {
    "ntp": ("two_stage", "ngd"),
    "icl": ("balanced", "adam"),
    "scb": ("main", "boosting"),
    "ib": ("vit_mnist", "sgd"),
}


@dataclass(frozen=True)
class Stage:
    """One command of the library: its arguments for a folder, what it writes there, and how long it takes alone."""

    name: str
    arguments: Callable[[Path], list[str]]
    outputs: tuple[str, ...]
    whole: tuple[bytes, ...] = ()
    seconds: float = 0.0

    def start(self, folder: Path, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "workflow.lib", *self.arguments(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment(ROOT), cwd=folder, start_new_session=True, **pipes, **more)

    def read(self, folder: Path) -> tuple[bytes, ...]:
        return tuple((folder / name).read_bytes() for name in self.outputs)

    def check_nothing_half_written(self, folder: Path) -> None:
        for name, whole in zip(self.outputs, self.whole, strict=True):
            assert not (folder / name).exists() or (folder / name).read_bytes() == whole, f"{self.name}: {name}"

    def finish(self, folder: Path) -> None:
        """Run the same command to its end: the bytes of an undisturbed run, and no temporary file."""
        done = self.start(folder)
        told, _ = done.communicate()
        assert done.returncode == 0, told
        assert self.read(folder) == self.whole, self.name
        left = [path.name for path in folder.rglob("*") if "~" in path.name or path.suffix == ".checkpoint"]
        assert left == [], self.name


def stages(of: Paper, experiment: str, label: str, inputs: Path) -> Iterator[Stage]:
    """Generating and training of an experiment, and drawing where one figure shows it alone."""
    found = of.experiment(experiment)
    block = block_name(0, found.seeds - 1)
    parts = {"generate": jobs.for_data(found), "train": jobs.for_run(found, label), "measure": jobs.for_metrics(found)}
    plans = {name: jobs.hand(inputs, f"{of.name}-{name}", part) for name, part in parts.items()}

    def named(stage: str, *more: str) -> list[str]:
        return [stage, "--paper", of.name, "--experiment", experiment, "--plan", plans[stage], *more]

    data = str(inputs / f"{of.name}.npz")
    yield Stage(
        f"{of.name} generate", lambda at: named("generate", "--seeds", block, "--data", str(at / "d.npz")), ("d.npz",)
    )
    yield Stage(
        f"{of.name} train",
        lambda at: named(
            *("train", "--optimizer", label, "--seeds", block, "--data", data),
            *("--trace", str(at / "t.parquet"), "--parameters", str(at / "t.safetensors")),
        ),
        ("t.parquet", "t.safetensors"),
    )
    runs, tables = str(inputs / "runs" / experiment), ("m.parquet",)
    yield Stage(
        f"{of.name} measure",
        lambda at: named(
            *("measure", "--data", str(inputs / "data" / experiment), "--runs", runs),
            *("--seeds", block, "--block", str(found.seeds), "--metrics", str(at / tables[0])),
        ),
        tables,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """All stages, with the bytes and the time of a run that nothing disturbs."""
    inputs, found = tmp_path_factory.mktemp("inputs"), []
    for name, (experiment, label) in TRAINED.items():
        of = small.paper(name, entries={"iterations": 400, "steps": 400}, settings={"steps_ov": 400, "steps_kq": 400})
        of = of.model_copy(update={"experiments": {experiment: of.experiment(experiment)}})
        list(small.run(of, inputs))
        block = block_name(0, of.experiment(experiment).seeds - 1)
        os.link(inputs / "data" / experiment / f"{block}.npz", inputs / f"{name}.npz")
        for stage in stages(of, experiment, label, inputs):
            folder = tmp_path_factory.mktemp("alone")
            began = time.monotonic()
            done = stage.start(folder)
            told, _ = done.communicate()
            assert done.returncode == 0, told
            whole = stage.read(folder)
            found.append(Stage(stage.name, stage.arguments, stage.outputs, whole, time.monotonic() - began))
    return found


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_job(undisturbed: list[Stage], number: int, tmp_path: Path) -> None:
    lot = random.Random(number)
    stage = undisturbed[number % len(undisturbed)]
    killed = stage.start(tmp_path)
    time.sleep(stage.seconds * lot.random())
    os.killpg(killed.pid, lot.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    killed.communicate()
    stage.check_nothing_half_written(tmp_path)
    stage.finish(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_full_disk(undisturbed: list[Stage], share: float, tmp_path: Path) -> None:
    """No file may grow beyond a share of the smallest one that a stage writes."""
    for place, stage in enumerate(undisturbed):
        folder = tmp_path / str(place)
        folder.mkdir()
        most = int(share * min(map(len, stage.whole)))
        full = stage.start(folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))  # noqa: B023
        told, _ = full.communicate()
        assert full.returncode == 1, f"{stage.name}: {told}"
        assert told.count("error: ") == 1
        assert "File too large" in told, told
        assert "Traceback" not in told
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        stage.finish(folder)


FIGURE = "results/ntp/figures/fig1.pdf"


def run(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / SNAKEFILE), "--directory", str(directory)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options = ["--cores", "1", FIGURE]
    return subprocess.Popen([*command, *options], env=environment(ROOT), cwd=directory, start_new_session=True, **pipes)


def results(directory: Path) -> dict[str, bytes]:
    """Every file that holds results."""
    files = (path for path in (directory / "results").rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        if "logs" not in path.parts and "~" not in path.name
    }


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    directory, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    done = run(directory)
    told, _ = done.communicate()
    assert done.returncode == 0, told
    return results(directory), time.monotonic() - began


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_killed_run(whole_run: tuple[dict[str, bytes], float], share: float, tmp_path: Path) -> None:
    """Snakemake and its jobs at once; then what the README says."""
    whole, seconds = whole_run
    killed = run(tmp_path)
    time.sleep(share * seconds)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert results(tmp_path).items() <= whole.items()
    unlock = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / SNAKEFILE), "--unlock"]
    subprocess.run(unlock, env=environment(ROOT), cwd=tmp_path, check=True, capture_output=True)
    again = run(tmp_path)
    told, _ = again.communicate()
    assert again.returncode == 0, told
    assert results(tmp_path) == whole


def test_a_killed_job_of_a_run_is_told(tmp_path: Path) -> None:
    """A job that the system kills cannot say so itself."""
    command = run(tmp_path)
    try:
        while command.poll() is None:
            for process in jobs_at_work(tmp_path, "draw"):
                os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
    finally:
        told, _ = command.communicate()
    assert command.returncode == 1
    assert "error: draw (ntp, fig1): ended without a word" in told


def test_two_runs_at_once(whole_run: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    """The second one is refused, and the first one comes to its end as if it had been alone."""
    first = run(tmp_path)
    while not list(tmp_path.glob(".snakemake/locks/*")):
        assert first.poll() is None
        time.sleep(0.05)
    second = run(tmp_path)
    told, _ = second.communicate()
    assert second.returncode == 1
    assert "Traceback" not in told
    assert "locked" in told
    told, _ = first.communicate()
    assert first.returncode == 0, told
    assert results(tmp_path) == whole_run[0]
