"""What Snakemake's ecosystem finds: the catalog's description, a deployment, and planning without our packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT, environment
from tests.test_module import committed, served


def test_the_catalog_s_description() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    for needed in ("workflow/Snakefile", "config/config.yaml", "config/README.md", "LICENSE"):
        assert (ROOT / needed).is_file()


@pytest.mark.slow
def test_planning_needs_numpy_and_what_comes_with_snakemake() -> None:
    """So that a bare snakemake with --sdm conda deploys the rest."""
    files = [ROOT / "workflow" / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    imports = {line for path in files for line in re.findall(r"^from workflow\S* import .*$", path.read_text(), re.M)}
    code = "\n".join([*sorted(imports), "make_plan({})", "import sys", "print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    providers = importlib.metadata.packages_distributions()
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    loaded = {plain(distribution) for name in imported for distribution in providers.get(name, [])}
    brought, waiting = {"setuptools", "figures-of-transformer-training"}, ["snakemake", "numpy"]
    while waiting:
        name = plain(waiting.pop())
        if name not in brought:
            brought.add(name)
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert loaded <= brought


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.fixture(scope="module")
def snakedeploy(tmp_path_factory: pytest.TempPathFactory) -> str:
    if found := shutil.which("snakedeploy"):
        return found
    if os.environ.get("TRIAL_SNAKEDEPLOY") != "install":
        pytest.skip("no snakedeploy; TRIAL_SNAKEDEPLOY=install installs it in an environment of its own")
    folder = tmp_path_factory.mktemp("snakedeploy")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "snakedeploy"], check=True)
    return str(folder / "bin" / "snakedeploy")


@pytest.mark.catalog
def test_a_deployment_plans_and_refuses_edits_of_what_is_not_read(tmp_path: Path, snakedeploy: str) -> None:
    environ = {key: value for key, value in environment(ROOT).items() if key != "PYTHONPATH"}
    environ |= served(committed(tmp_path), tmp_path)
    target = tmp_path / "deployed"
    address = "https://github.com/owner/figures"
    subprocess.run([snakedeploy, "deploy-workflow", address, target, "--tag", "v1"], env=environ, check=True)
    plan = [sys.executable, "-m", "snakemake", "-n", "results/ntp/figures/fig1.pdf"]
    done = subprocess.run(plan, cwd=target, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with (target / "config" / "papers" / "ntp.yaml").open("a") as copy:
        copy.write("# edited\n")
    done = subprocess.run(plan, cwd=target, env=environ, capture_output=True, text=True)
    assert done.returncode != 0
    assert "config/papers/ntp.yaml: is not read, and differs from" in done.stderr
