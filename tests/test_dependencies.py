"""What is installed: ranges, the lock, the environments, and no CUDA on a machine without a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT, copy_project
from workflow.lib.plan.reading import read_yaml

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]


@cache
def locked() -> dict[str, list[str]]:
    """Versions in the lock by name; a package may have one for each version of Python."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            versions.setdefault(requirement.name, []).append(str(requirement.specifier).removeprefix("=="))
    return versions


def test_the_lock_is_within_the_ranges() -> None:
    for requirement in (*RUNTIME, *EXTRAS):
        assert requirement.name in locked(), (
            f"{requirement.name} is not in requirements.lock: run `make lock` (needs uv)"
        )
        for version in locked()[requirement.name]:
            assert requirement.specifier.contains(version), (str(requirement), version)
            assert not any(specifier.operator == "==" for specifier in requirement.specifier), str(requirement)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_environments_have_the_versions_of_the_lock(name: str) -> None:
    needed = {f"{r.name}=={version}" for r in RUNTIME if r.name != "snakemake" for version in locked()[r.name]}
    python, _, packages = read_yaml(ROOT / "envs" / f"{name}.yaml")["dependencies"]
    assert {package for package in packages["pip"] if not package.startswith("--")} == needed
    assert PROJECT["requires-python"] == python.removeprefix("python").split(",")[0]


@pytest.mark.parametrize(
    ("has", "given", "index"),
    [
        ((), {}, "https://download.pytorch.org/whl/cpu"),
        (("nvidia-smi",), {}, None),
        (("nvidia-smi",), {"TORCH": "cu126"}, "https://download.pytorch.org/whl/cu126"),
        ((), {"PIP_FIND_LINKS": "/a/folder/of/wheels"}, None),
    ],
)
@pytest.mark.slow
def test_make_takes_torch_for_the_cpu_where_there_is_no_gpu(
    tmp_path: Path, has: tuple[str, ...], given: dict[str, str], index: str | None
) -> None:
    for name in ("sh", "bash", "grep", "make", "touch"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    for name in has:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "HOME": str(tmp_path), **given}
    # pip is asked several times, and takes as long as all else: where it knows no folder of wheels, nobody answers.
    python = sys.executable if "PIP_FIND_LINKS" in given else "no-python"
    command = ["make", "-n", "-B", f"PYTHON={python}", ".venv/ready"]
    said = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"--extra-index-url (\S+) torch", said) == ([index] if index else [])
    assert "-c requirements.lock -e '.[test]'" in said


@pytest.mark.slow
def test_no_package_is_built_that_would_lack_the_yaml(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([*command, str(project)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "this project runs from its checkout" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))
