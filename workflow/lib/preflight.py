"""What a run needs and costs, asked once before its first job: downloads, room on disk, GPUs, a folder to write to.

Sizes are those that the sources of the data and the settings state. Hours are the limits that the jobs ask for, and
what finished runs of the same settings took, where there are any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workflow.lib import datasets, identity
from workflow.lib.cluster import Request
from workflow.lib.costs import Cost
from workflow.lib.errors import UserError, from_os_error
from workflow.lib.plan.model import Experiment, Plan, block_seeds

GB = 1e9
# What a machine with a GPU that torch may use has: the drivers of NVIDIA, of AMD, and of Windows below Linux.
DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True)
class Demand:
    """What some jobs need.

    downloads: data set -> bytes to download; disk: folder -> what for -> bytes, at most; gpu_jobs: hours that a job on
    a GPU may take -> how many such jobs; like_finished: for each of them with finished runs of its settings, the mean
    of the hours that these took.
    """

    downloads: Mapping[str, int]
    disk: Mapping[Path, Mapping[str, int]]
    gpu_jobs: Mapping[float, int]
    like_finished: Sequence[float] = ()

    def __str__(self) -> str:
        """For reading, in three lines at most; empty where there is nothing to say."""
        lines = []
        if self.downloads:
            lines.append(f"downloads: {_told(self.downloads)}")
        for folder, parts in self.disk.items():
            lines.append(f"disk: at most {_told(parts)} in {folder}, where {_free(folder) / GB:.0f} GB are free")
        for hours, count in sorted(self.gpu_jobs.items()):
            lines.append(
                f"GPU: {count} job{'s' * (count > 1)} of at most {hours:g} hours each, the limit that they ask for"
            )
        if self.like_finished:
            lines.append(
                f"GPU: {sum(self.like_finished):.2g} hours for {len(self.like_finished)} of them, if they take as long "
                "as finished runs of the same settings took since they last began"
            )
        elif self.gpu_jobs:
            lines.append(
                "GPU: how long they take depends on the GPU, and is told here once runs like them have finished"
            )
        return "\n".join(lines)


def demand(plan: Plan, requests: Iterable[Request], at_once: float, results: Path = Path("results")) -> Demand:
    """Add up what jobs need.

    Args:
        plan: holds their experiments.
        requests: the jobs that are to run.
        at_once: how many of them may run at a time.
        results: the folder that they write to.
    """
    downloads: dict[str, int] = {}
    fetched = 0
    data: Counter[Path] = Counter()
    kept: Counter[Path] = Counter()
    checkpoints: dict[Path, list[int]] = {}
    gpu_jobs: Counter[float] = Counter()
    like_finished = []
    for request in requests:
        names = request.wildcards
        if "dataset" in names and plan.data_dir is None:
            remotes = datasets.source(names["dataset"]).remotes
            downloads[names["dataset"]] = sum(remote.download for remote in remotes)
            fetched += sum(remote.disk for remote in remotes)
        elif "seeds" in names and names.get("paper") in plan.papers:
            experiment = plan.paper(names["paper"]).experiment(names["experiment"])
            settings = experiment.settings
            disk = settings.disk(len(block_seeds(names["seeds"])))
            folder = results / names["paper"]
            if "optimizer" not in names:
                data[folder] += disk.data
                continue
            kept[folder] += disk.results * len(experiment.job(names["optimizer"]))
            checkpoints.setdefault(folder, []).append(disk.checkpoint)
            if settings.needs().gpu and plan.device != "cpu":
                gpu_jobs[int(request.resources.get("runtime", settings.needs().runtime)) / 60] += 1
                if took := _took(experiment, names["optimizer"], experiment.blocks(plan.seeds_per_job), folder):
                    like_finished.append(sum(took) / len(took))
    disk = {results / "datasets": {"downloads, unpacked": fetched}}
    for folder in {**data, **checkpoints}:
        largest = sorted(checkpoints.get(folder, ()), reverse=True)[: int(min(at_once, 1e6))]
        disk[folder] = {"prepared data": data[folder], "weights": kept[folder], "checkpoints": sum(largest)}
    used = {folder: {name: size for name, size in parts.items() if size} for folder, parts in disk.items()}
    return Demand(downloads, {folder: parts for folder, parts in used.items() if parts}, gpu_jobs, like_finished)


def _took(experiment: Experiment, name: str, blocks: Iterable[str], folder: Path) -> list[float]:
    """The hours that finished jobs of one name and the same settings took."""
    from workflow.lib.tables import told_identity

    found = []
    for block in blocks:
        trace = folder / "runs" / experiment.name / name / f"{block}.parquet"
        log = folder / "logs" / "train" / experiment.name / name / f"{block}.log"
        if not (trace.exists() and log.exists()):
            continue
        if told_identity(trace) == str(identity.of_run(experiment, name, block_seeds(block))):
            cost = Cost.read(log.read_text(encoding="utf-8", errors="replace"))
            found += [cost.took / 3600] if cost else []
    return found


def check_disk(needed: Demand) -> None:
    """Hold what jobs write against what is free where they write it.

    Raises:
        UserError: naming the folders, what they need and what there is.
    """
    disks: dict[int, list[Path]] = {}
    for folder in needed.disk:
        disks.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    for folders in disks.values():
        wanted = sum(size for folder in folders for size in needed.disk[folder].values())
        free = _free(folders[0])
        if wanted > free:
            told = "; ".join(f"{folder}: {_told(needed.disk[folder])}" for folder in folders)
            raise UserError(
                f"disk: this run needs up to {wanted / GB:.2f} GB ({told}), and {free / GB:.2f} GB are free there. "
                "Free some space, choose another place with --directory, or link a folder to a larger disk. "
                "Official files that are somewhere already need no room: name their folder with data_dir."
            )


def check_writable(results: Path = Path("results")) -> None:
    """Raise a UserError unless a folder, or what is to become it, can be written to."""
    place = _existing(results)
    try:
        if not place.is_dir():
            raise NotADirectoryError(20, os.strerror(20), str(place))
        probe = place / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        error.filename = str(place)
        raise from_os_error(error) from None


def check_folders(papers: Iterable[str], results: Path = Path("results")) -> None:
    """Refuse that something else has the name of a folder of the results, before snakemake looks into it.

    Args:
        papers: the short names of the papers that run.
        results: the folder that they write to.

    Raises:
        UserError: naming what is in the way.
    """
    inside = (results / paper / name for paper in papers for name in ("", "plan", "data", "runs", "metrics", "figures"))
    for folder in (results, *inside):
        if os.path.lexists(folder) and not folder.is_dir():
            found = "a link that leads to no folder" if folder.is_symlink() else "a file"
            raise UserError(
                f"{folder}: expected a folder, found {found}. Move it away, or choose another place with --directory."
            )


def check_device(device: str, needed: Demand, own_environment: bool) -> None:
    """Refuse `device: cuda` where jobs will find no GPU; for jobs that run on this machine.

    Args:
        device: of the configuration.
        needed: by the jobs.
        own_environment: whether jobs have another Python than this one, made for them by conda or in a container; then
            only the machine can be looked at.

    Raises:
        UserError: there is none.
    """
    jobs = sum(needed.gpu_jobs.values())
    if device != "cuda" or not jobs:
        return
    if own_environment:
        found = any(Path(driver).exists() for driver in DRIVERS)
        reason = "this machine has no driver of one"
    else:
        # In a process of its own: torch would stay in this one, which lives as long as the whole run.
        code = (
            "import sys, torch; sys.exit(0 if torch.cuda.is_available() else f'torch {torch.__version__} finds none')"
        )
        python = shutil.which("python") or sys.executable  # as the jobs' commands find it
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
        found = done.returncode == 0
        reason = (done.stderr.strip().splitlines() or ["torch cannot be asked"])[-1]
    if not found:
        raise UserError(
            f"device: 'cuda' was asked for, and {jobs} job{'s' * (jobs > 1)} would run on a GPU, but {reason}. Run on "
            "a machine with one (and a torch built for it), or choose another device: --config device=cpu"
        )


def _told(parts: Mapping[str, int]) -> str:
    """Sizes in GB, summed and one by one."""
    each = ", ".join(f"{name} {size / GB:.2f}" for name, size in sorted(parts.items()))
    return f"{sum(parts.values()) / GB:.2f} GB ({each})"


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free
