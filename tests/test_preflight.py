"""Before anything runs: the disk has room, the device is there, the folder takes files; a dry run tells the cost."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT, python, snakemake, stage
from workflow.lib import datasets, identity, preflight
from workflow.lib.cluster import Request
from workflow.lib.costs import Cost
from workflow.lib.datasets import Sentences
from workflow.lib.errors import UserError, exit_on_user_error
from workflow.lib.files import write_arrays
from workflow.lib.papers.ib.deep import texts
from workflow.lib.plan.model import Plan
from workflow.lib.plan.reading import read_yaml
from workflow.lib.preflight import Demand, demand
from workflow.lib.rooms import make_plan
from workflow.lib.runs import Trace
from workflow.lib.tables import write_traces

PAPER = ROOT / "config" / "paper.yaml"
ENCODER, MNIST = "bert-base-uncased", 11_594_722
WEIGHTS = 440_449_768


def full(**config: Any) -> Plan:
    return make_plan({**read_yaml(ROOT / "config" / "config.yaml"), **read_yaml(PAPER), **config})


def fetch(name: str) -> Request:
    return Request("fetch", {}, {"dataset": name})


def train(experiment: str, seeds: str = "0", **names: str) -> Request:
    return Request("train", {"runtime": 90}, {"paper": "ib", "experiment": experiment, "seeds": seeds, **names})


def test_downloads_are_those_of_the_jobs() -> None:
    needed = demand(full(), [fetch("mnist"), fetch("multinli")], 1)
    assert needed.downloads == {"mnist": MNIST, "multinli": 226_850_000}
    (parts,) = needed.disk.values()
    assert sum(parts.values()) > sum(needed.downloads.values())  # an archive lies beside what was in it
    assert "downloads: 0.24 GB (mnist 0.01, multinli 0.23)" in str(needed)


def test_files_that_are_there_cost_nothing() -> None:
    assert str(demand(full(data_dir="/data"), [fetch("mnist")], 1)) == ""


def test_the_readme_says_how_much_is_downloaded() -> None:
    names = {name for e in full().paper("ib").experiments.values() for name in e.settings.downloads()}
    total = sum(demand(full(), map(fetch, names), 1).downloads.values()) / preflight.GB
    assert f"{total:.2f} GB of downloads" in (ROOT / "README.md").read_text()


def test_every_data_set_that_is_fetched_says_its_size() -> None:
    for name in datasets.names():
        for remote in datasets.source(name).remotes:
            assert remote.download > 0 or remote.file == "config.json", (name, remote.file)
            assert (remote.unpacked > remote.download) == (remote.unpack is not None), (name, remote.file)


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_checkpoints_are_those_of_jobs_that_run_at_once(at_once: int) -> None:
    jobs = [train("bert_mnli", seeds, optimizer=rule) for seeds in "012" for rule in ("sgd", "adam")]
    parts = demand(full(), jobs, at_once).disk[Path("results/ib")]
    assert parts == {"checkpoints": min(at_once, 6) * 6 * WEIGHTS}


def test_gpu_hours_are_the_limits_that_jobs_ask_for() -> None:
    jobs = [train("vit_mnist", seeds, optimizer="sgd") for seeds in "012"]
    assert demand(full(), jobs, 1).gpu_jobs == {1.5: 3}
    assert "3 jobs of at most 1.5 hours each" in str(demand(full(), jobs, 1))
    assert not demand(full(device="cpu"), jobs, 1).gpu_jobs


@pytest.mark.parametrize(
    ("seconds", "lr", "told"), [((3600, 7200), 0.01, 3.0), ((3600, 7200), 0.02, None), ((), 0.01, None)]
)
def test_hours_are_those_of_finished_runs_of_the_same_settings(
    tmp_path: Path, seconds: tuple[float, ...], lr: float, told: float | None
) -> None:
    """Two seeds are done and two are not; then the finished ones had another step size; then there are none."""
    sizes = {"vit_mnist": {"seeds": 4, "optimizers": {"sgd": {"lr": lr}}}}
    plan = full(ib={**read_yaml(PAPER)["ib"], "experiments": {**read_yaml(PAPER)["ib"]["experiments"], **sizes}})
    before = {"vit_mnist": {"seeds": 4, "optimizers": {"sgd": {"lr": 0.01}}}}
    earlier = full(ib={**read_yaml(PAPER)["ib"], "experiments": {**read_yaml(PAPER)["ib"]["experiments"], **before}})
    done = earlier.paper("ib").experiment("vit_mnist")
    for seed, took in enumerate(seconds):
        path = tmp_path / "ib" / "runs" / "vit_mnist" / "sgd" / f"{seed}.parquet"
        trace = Trace([seed])
        trace.record("loss", 0, [1.0])
        write_traces(path, "ib", "vit_mnist", {"sgd": trace}, identity.of_run(done, "sgd", [seed]))
        log = tmp_path / "ib" / "logs" / "train" / "vit_mnist" / "sgd" / f"{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{Cost('train', took, took, 1, 100)}\n")
    jobs = [train("vit_mnist", seed, optimizer="sgd") for seed in "23"]
    needed = demand(plan, jobs, 1, tmp_path)
    assert sum(needed.like_finished) == (told or 0)
    assert ("3 hours for 2 of them, if" in str(needed)) == (told is not None)
    assert ("told here once runs like them have finished" in str(needed)) == (told is None)


def test_the_shipped_run_has_nothing_to_tell() -> None:
    plan = make_plan(read_yaml(ROOT / "config" / "config.yaml"))
    jobs = [
        Request("train", {}, {"paper": paper.name, "experiment": name, "optimizer": label, "seeds": block})
        for paper in plan.papers.values()
        for name, experiment in paper.experiments.items()
        for label in experiment.optimizers
        for block in experiment.blocks()
    ]
    assert str(demand(plan, jobs, 4)) == ""


def test_prepared_texts_take_what_the_settings_say(tmp_path: Path) -> None:
    settings = full().paper("ib").experiment("bert_mnli").settings
    short = settings.model_copy(update={"max_length": 16, "train_examples": 5000, "test_examples": 1000})
    words = Sentences(["a b c d"] * 6000, ["e f g h i j k l m n o"] * 6000, np.zeros(6000, np.uint8))
    arrays = {**texts.by_words(words, {}, 16)._asdict(), "labels": words.labels}
    write_arrays(tmp_path / "data.npz", {0: arrays})
    assert (tmp_path / "data.npz").stat().st_size == pytest.approx(short.disk(1).data, rel=0.01)
    assert short.disk(3).data == 3 * short.disk(1).data
    assert settings.disk(3).data == settings.disk(1).data  # a whole set is shared


# ---- refusals ----


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = demand(full(), [fetch(ENCODER), train("bert_mnli", optimizer="adam")], 1)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(int(3.1e9)))
    preflight.check_disk(needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(int(3.0e9)))  # enough for each, not for both
    with pytest.raises(UserError, match=r"up to 3\.08 GB \(results/datasets: .*results/ib: .*3\.00 GB are free"):
        preflight.check_disk(needed)


def test_a_linked_folder_counts_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = next((p for p in map(Path, ("/dev/shm", "/proc")) if p.is_dir()), None)
    if place is None or place.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "datasets").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(int(3.0e9)))
    preflight.check_disk(demand(full(), [fetch(ENCODER), train("bert_mnli", optimizer="adam")], 1))


ONE = Demand({}, {}, {48.0: 1})


@pytest.mark.parametrize(("status", "refused"), [(0, False), (1, True)])
def test_torch_is_asked_for_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, refused: bool
) -> None:
    """With the `python` that the jobs will find."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho torch 9 finds none >&2\nexit {status}\n")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    preflight.check_device("auto", ONE, False)
    preflight.check_device("cuda", Demand({}, {}, {}), False)
    if refused:
        with pytest.raises(UserError, match="1 job would run on a GPU, but torch 9 finds none"):
            preflight.check_device("cuda", ONE, False)
    else:
        preflight.check_device("cuda", ONE, False)


def test_in_an_environment_of_its_own_the_machine_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "driver"
    monkeypatch.setattr(preflight, "DRIVERS", (str(driver),))
    with pytest.raises(UserError, match="no driver"):
        preflight.check_device("cuda", ONE, True)
    driver.touch()
    preflight.check_device("cuda", ONE, True)


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    preflight.check_writable(tmp_path / "to" / "be" / "made")
    assert not list(tmp_path.iterdir())
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match="results: Not a directory"):
        preflight.check_writable(tmp_path / "results")


def test_a_failed_file_while_planning_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*gone: No such file or directory"), exit_on_user_error():
        (tmp_path / "gone").read_text()


# ---- through snakemake ----


@pytest.fixture(scope="module")
def no_gpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("asked")
    (folder / "ask.py").write_text("import torch, sys; sys.exit(torch.cuda.is_available())")
    if python("ask", cwd=folder).returncode:
        pytest.skip("there is a GPU here")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.slow
def test_a_job_on_a_node_without_a_gpu_ends_before_it_reads_anything(tmp_path: Path) -> None:
    named = ("--paper", "ib", "--experiment", "vit_mnist", "--optimizer", "sgd", "--seeds", "0", "--device", "cuda")
    files = {"data": "npz", "trace": "parquet", "parameters": "safetensors"}
    done = stage("train", *named, *(x for f, kind in files.items() for x in (f"--{f}", str(tmp_path / f"{f}.{kind}"))))
    assert done.returncode == 1
    assert done.stderr.startswith("error: device: 'cuda' was asked for, but torch finds no GPU here")


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_told_before_downloads_begin(tmp_path: Path) -> None:
    arguments = ["results/ib/figures/fig6.pdf", "--configfile", str(PAPER)]
    planned = snakemake(tmp_path, "--cores", "2", "-n", *arguments)
    told = planned.stdout[planned.stdout.index("This was a dry-run") :]
    assert "downloads: 0.01 GB (mnist 0.01)" in told
    assert re.search(r"^disk: at most 0\.1\d GB \(prepared data 0\.16\) in results/ib", told, re.MULTILINE)
    assert re.search(r"^GPU: \d+ jobs of at most 48 hours each", told, re.MULTILINE)

    refused = snakemake(tmp_path, "--cores", "2", *arguments, check=False)
    assert refused.returncode != 0
    assert "error: device: 'cuda' was asked for" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "results" / "datasets").exists()

    touched = snakemake(tmp_path, "--cores", "2", "--touch", *arguments, check=False)
    assert "error: device" not in touched.stderr  # nothing runs


@pytest.mark.parametrize("place", ["results", "results/ntp", "results/ntp/runs"])
@pytest.mark.parametrize("found", ["a file", "a link that leads to no folder"])
def test_what_stands_in_the_place_of_a_folder_is_told(tmp_path: Path, place: str, found: str) -> None:
    folder = tmp_path / place
    folder.parent.mkdir(parents=True, exist_ok=True)
    if found == "a file":
        folder.touch()
    else:
        folder.symlink_to(folder.name)  # a loop
    with pytest.raises(UserError, match=f"{place}: expected a folder, found {found}"):
        preflight.check_folders(["ntp"], tmp_path / "results")


def test_folders_and_links_to_folders_are_fine(tmp_path: Path) -> None:
    preflight.check_folders(["ntp"], tmp_path / "results")
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to("disk")
    (tmp_path / "results" / "ntp").mkdir()
    preflight.check_folders(["ntp"], tmp_path / "results")


@pytest.mark.slow
def test_snakemake_ends_with_one_message_where_results_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    done = snakemake(tmp_path, "-n", "results/ntp/figures/fig1.pdf", check=False)
    assert done.returncode != 0
    assert "results: expected a folder, found a file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_cores_are_told_and_nothing_waits(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--cores", "0", "results/ntp/figures/fig1.pdf", check=False)
    assert done.returncode != 0
    assert "--cores 0: expected at least 1" in done.stdout + done.stderr
