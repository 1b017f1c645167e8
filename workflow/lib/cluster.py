"""Whether a Slurm cluster is set up as the profile says, asked once, before the first job is submitted.

Slurm's own answers to these mistakes come late or never: a job without a fitting partition goes to the default one,
and without accounting `sacct` reports no job as finished, so that the workflow waits for ever.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.lib.errors import UserError, unknown
from workflow.lib.plan.reading import read_yaml

PROFILE = "workflow/profiles/slurm"


@dataclass(frozen=True)
class Request:
    """What one job asks for: the rule's name, its resources as Snakemake has worked them out, and its wildcards."""

    rule: str
    resources: Mapping[str, Any]
    wildcards: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpu(self) -> tuple[int, str | None]:
        """Number of GPUs and their model, from `gpu` and `gpu_model`, or from `gres: gpu:MODEL:NUMBER`."""
        if count := int(self.resources.get("gpu") or 0):
            return count, self.resources.get("gpu_model")
        for entry in str(self.resources.get("gres") or "").split(","):
            name, *rest = entry.split(":")
            if name == "gpu":
                number = int(rest[-1]) if rest and rest[-1].isdecimal() else 1
                model = rest[0] if rest and not rest[0].isdecimal() else None
                return number, model
        return 0, None


def check(requests: Collection[Request], partition_table: Path | None, status_command: str | None, device: str) -> None:
    """Hold what the jobs ask for, and the profile, against the cluster.

    Args:
        requests: the jobs that will be submitted.
        partition_table: the partitions.yaml of the profile, if it names one.
        status_command: sacct or squeue.
        device: the device of the workflow's configuration.

    Raises:
        UserError: saying what was found, what the cluster has and which line to change.
    """
    if not requests:
        return
    for program in ("sbatch", "sinfo", "squeue"):
        if shutil.which(program) is None:
            raise UserError(
                f"{program} is not on PATH: this machine cannot submit to Slurm. Run the workflow on the cluster's"
                " login node (`module load slurm` may be needed), or here without the profile: snakemake --cores 4"
            )
    cluster = _partitions()
    _check_status_command(status_command)
    table = _table(partition_table)
    named = {
        str(r.resources["slurm_partition"]): f"slurm_partition of rule {r.rule}"
        for r in requests
        if r.resources.get("slurm_partition")
    }
    named |= {name: str(partition_table) for name in table}
    for name, where in named.items():
        if name not in cluster:
            raise UserError(f"{where}: {unknown('partition', name, cluster)}")
    wanting = [request for request in requests if request.gpu[0]]
    if wanting and device == "cpu":
        raise UserError(
            f"device: {len(wanting)} jobs ask for a GPU, and `device: cpu` would leave it idle."
            " Say --config device=auto (a --config on the command line replaces the profile's own)"
        )
    for request in requests:
        candidates = _candidates(request, table, partition_table)
        if request.gpu[0]:
            _check_offer(request, {name: cluster[name] for name in candidates})


def _partitions() -> dict[str, str]:
    """The cluster's partitions, each with the generic resources (GRES) of its nodes."""
    found: dict[str, str] = {}
    for line in _answer("sinfo", "--noheader", "--format=%R %G").splitlines():
        name, _, resources = line.strip().partition(" ")
        found[name] = f"{found.get(name, '')},{resources}"
    return found


def _check_status_command(command: str | None) -> None:
    if command != "sacct":
        return
    mend = f"set `slurm-status-command: squeue` in {PROFILE}/profile.yaml"
    if shutil.which("sacct") is None:
        raise UserError(f"slurm-status-command: sacct is not on PATH; {mend}")
    done = subprocess.run(["sacct", "-X", "-n", "--starttime=now"], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        raise UserError(f"slurm-status-command: sacct cannot tell when a job ends ({_line(done.stderr)}); {mend}")


def _table(path: Path | None) -> dict[str, Mapping[str, Any]]:
    if path is None:
        return {}
    entries = read_yaml(path).get("partitions")
    if not isinstance(entries, dict) or not all(isinstance(limits, dict) for limits in entries.values()):
        raise UserError(f"{path}: expected `partitions:` with the limits of each partition under its name")
    return entries


LIMITS = {"max_runtime": "runtime", "max_mem_mb": "mem_mb", "max_cpus_per_task": "threads", "max_threads": "threads"}


def _candidates(request: Request, table: Mapping[str, Mapping[str, Any]], path: Path | None) -> list[str]:
    """The partitions that a job may go to; without one, Slurm would get it for the default partition."""
    if chosen := request.resources.get("slurm_partition"):
        return [str(chosen)]
    count, model = request.gpu
    with_gpu = [
        name
        for name, limits in table.items()
        if count <= limits.get("max_gpu", 0)
        and (model is None or model in (limits.get("available_gpu_models") or [model]))
    ]
    if count and not with_gpu:
        wanted = f"max_gpu: {count}" + (f" and available_gpu_models: [{model}]" if model else "")
        where = path or "slurm-partition-config"
        raise UserError(f"{where}: rule {request.rule} asks for {_asked(request)}, and no partition has {wanted}")
    fitting = with_gpu if count else list(table)
    for limit, resource in LIMITS.items():
        asked = request.resources.get(resource)
        if not isinstance(asked, int):
            continue
        left = [name for name in fitting if asked <= _number(table[name].get(limit))]
        if fitting and not left:
            most = ", ".join(f"{name} has {limit}: {table[name][limit]}" for name in fitting)
            raise UserError(f"{path}: rule {request.rule} asks for {resource}={asked}, and {most}")
        fitting = left
    return fitting


def _number(limit: Any) -> float:
    """A limit of the table; none where it is not given, or spelled as a time such as 1-00:00:00."""
    return float(limit) if isinstance(limit, int | float) else float("inf")


def _check_offer(request: Request, offers: Mapping[str, str]) -> None:
    """One of these partitions really has nodes with the GPU."""
    _, model = request.gpu
    gpus = {name: [gres for gres in text.split(",") if gres.startswith("gpu")] for name, text in offers.items()}
    if not any(_offered(gres, model) for all_gres in gpus.values() for gres in all_gres):
        has = "; ".join(f"{name} has {', '.join(gres) or 'none'}" for name, gres in gpus.items())
        raise UserError(f"rule {request.rule} asks for {_asked(request)}, which Slurm does not offer: {has}")


def _asked(request: Request) -> str:
    count, model = request.gpu
    return f"{count} GPU{'s' if count > 1 else ''}" + (f" of model {model}" if model else "")


def _offered(gres: str, model: str | None) -> bool:
    """Whether this is the GPU entry of a node that has the model.

    >>> _offered("gpu:v100:2(S:0-1)", "v100"), _offered("gpu:a100:4", "v100"), _offered("gpu:4", None)
    (True, False, True)
    """
    return model is None or model in gres.split("(")[0].split(":")[1:]


def _answer(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise UserError(f"{command[0]} gets no answer from the Slurm controller: {_line(done.stderr)}")
    return done.stdout


def _line(text: str) -> str:
    return " ".join(text.split()) or "no message"
