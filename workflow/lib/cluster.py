"""Whether a Slurm cluster is set up as the profile says, asked once, before the first job is submitted.

Slurm's own answers to these mistakes come late or never: a job without a fitting partition goes to the default one,
and without accounting `sacct` reports no job as finished, so that the workflow waits for ever.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.lib.configuration import read_yaml
from workflow.lib.errors import UserError, unknown

PROFILE = "workflow/profiles/slurm"


@dataclass(frozen=True)
class Request:
    """What one job asks of the cluster: the rule's name and its resources as Snakemake has worked them out."""

    rule: str
    resources: Mapping[str, Any]

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
    if wanting:
        _check_gpus(wanting, table, partition_table, cluster)
        if device == "cpu":
            raise UserError(
                f"device: {len(wanting)} jobs ask for a GPU, and `device: cpu` would leave it idle."
                " Say --config device=auto (a --config on the command line replaces the profile's own)"
            )


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


def _check_gpus(
    wanting: Collection[Request],
    table: Mapping[str, Mapping[str, Any]],
    path: Path | None,
    cluster: Mapping[str, str],
) -> None:
    """Every job that asks for a GPU has a partition that offers it, in the table and on the cluster."""
    for request in wanting:
        count, model = request.gpu
        asked = f"{count} GPU{'s' if count > 1 else ''}" + (f" of model {model}" if model else "")
        if chosen := request.resources.get("slurm_partition"):
            candidates = [str(chosen)]
        else:
            candidates = [
                name
                for name, limits in table.items()
                if limits.get("max_gpu", 0) >= count
                and (model is None or model in (limits.get("available_gpu_models") or [model]))
            ]
            if not candidates:
                raise UserError(
                    f"{path or 'slurm-partition-config'}: rule {request.rule} asks for {asked}, and no partition of the"
                    f" table has max_gpu: {count}" + (f" and available_gpu_models: [{model}]" if model else "")
                )
        offers = {name: [gres for gres in cluster[name].split(",") if gres.startswith("gpu")] for name in candidates}
        if not any(_offered(gres, model) for all_gres in offers.values() for gres in all_gres):
            has = "; ".join(f"{name} has {', '.join(gres) or 'none'}" for name, gres in offers.items())
            raise UserError(f"rule {request.rule} asks for {asked}, which Slurm does not offer: {has}")


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
