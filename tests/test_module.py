"""Used from elsewhere: as a module of another workflow, in a container.

Another checkout of the project is installed in the environment of these tests, which must make no difference.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import ROOT, SNAKEFILE, copy_project, environment, job_counts, python, snakemake

DATA = "results/ntp/data/example/0.npz"


def call(folder: Path, snakefile: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run snakemake in the folder of a caller's workflow, with nothing of this project on the import path."""
    (folder / "workflow").mkdir(exist_ok=True)
    (folder / "workflow" / "Snakefile").write_text(snakefile)
    mine = {key: value for key, value in environment(ROOT).items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, env={**mine, **environ}, capture_output=True, text=True)


CALLER = f"""
from lib.helpers import NAME

module figures:
    snakefile: "{ROOT / SNAKEFILE}"
    config: {{"papers": ["ntp"], "seeds": 2}}
    prefix: "drawn"

use rule * from figures as figures_*

from lib.other import NUMBER
import tests

rule paper:
    default_target: True
    input: "drawn/{DATA}"
    output: "paper.txt"
    params: name=NAME, number=NUMBER, tests=tests.__name__
    shell: "python -c 'from workflow.lib.helpers import NAME; print(NAME)' > {{output}}; python script.py"
"""


@pytest.mark.slow
def test_a_workflow_with_a_lib_of_its_own(tmp_path: Path) -> None:
    """Its Snakefile and its jobs import its own `lib`, `workflow` and `tests`, before and after the module.

    What the module makes, and reads of it, lies under the prefix.
    """
    for name in ("workflow/__init__.py", "workflow/lib/__init__.py", "tests.py", "beside.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "workflow/lib/helpers.py").write_text("NAME = 'the caller'\n")
    (tmp_path / "workflow/lib/other.py").write_text("NUMBER = 3\n")
    (tmp_path / "script.py").write_text("import beside\n")
    done = call(tmp_path, CALLER)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert (tmp_path / "paper.txt").read_text() == "the caller\n"
    assert not (tmp_path / "results").exists()
    whole = call(tmp_path, CALLER, "-n", "--printshellcmds", "paper", "figures_all")
    told = whole.stdout + whole.stderr
    assert "paper" not in job_counts(told)  # neither it nor what it is made of
    assert "drawn/results/claims.md" in told
    assert set(re.findall(r"(\S*)results/", told)) == {"drawn/"}


def committed(folder: Path) -> Path:
    """A repository with this project, whose work tree is broken: only what is committed can run."""
    project = copy_project(folder / "remote")
    git = ["git", "-C", str(project), "-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    for command in (["init", "-q", "-b", "trunk"], ["add", "-A"], ["commit", "-q", "-m", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    (project / "workflow/lib/cli.py").write_text("raise RuntimeError('the work tree ran')\n")
    (project / "config/config.yaml").write_text("papers: []\n")
    return project


def served(project: Path, folder: Path) -> dict[str, str]:
    """Variables with which a repository is what GitHub has for owner/figures."""
    return {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{project}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/owner/figures",
    }


@pytest.mark.slow
def test_a_module_in_a_git_repository(tmp_path: Path) -> None:
    """Named in two ways, which are one project."""
    project = committed(tmp_path)
    named = {
        "here": f'"git+file://{project}/workflow/Snakefile@v1"',
        "there": 'github("owner/figures", path="workflow/Snakefile", tag="v1")',
    }
    caller = "".join(
        f'module {name}:\n    snakefile: {source}\n    prefix: "{name}"\n\nuse rule * from {name} as {name}_*\n\n'
        for name, source in named.items()
    )
    (tmp_path / "caller").mkdir()
    made = [f"{name}/{DATA}" for name in named]
    done = call(tmp_path / "caller", caller, *made, **served(project, tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert all((tmp_path / "caller" / each).exists() for each in made)


@pytest.mark.slow
def test_what_cannot_be_a_module_is_told(tmp_path: Path) -> None:
    module = f'module figures:\n    snakefile: "{ROOT / SNAKEFILE}"\n    config: config\n\nuse rule * from figures\n'
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/__init__.py").touch()
    (tmp_path / "workflow/lib.py").touch()
    taken = call(tmp_path, "import sys\nsys.path.insert(0, '.')\nfrom workflow import lib\n" + module, "-n", DATA)
    assert f"a Python package called `workflow` is imported already, from {tmp_path}/workflow" in taken.stderr
    (tmp_path / "workflow" / "Snakefile").write_text(module)
    strange = python("snakemake", "-n", DATA, "--config", "samples=3", cwd=tmp_path)
    assert "config: unknown key 'samples'; there are: container, data_dir" in strange.stderr
    for done in (taken, strange):
        assert done.returncode != 0
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_module_read_file_by_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(ROOT))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{SNAKEFILE}"
        (tmp_path / "Snakefile").write_text(f'module figures:\n    snakefile: "{address}"\n\nuse rule * from figures\n')
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        done = python("snakemake", "-n", DATA, cwd=tmp_path)
        server.shutdown()
    assert done.returncode != 0
    assert "Name it as github(...), gitlab(...) or git+file://..." in done.stderr


# Takes its options as apptainer does, and runs the command where no project is installed and nothing else is bound.
APPTAINER = """#!{python}
import os, subprocess, sys
if "--version" in sys.argv:
    sys.exit(print("apptainer version 1.3.4"))
print("BOUND", os.environ["APPTAINER_BIND"], file=sys.stderr)
environ = {{**os.environ, "PATH": "{folder}/inside:/usr/bin:/bin"}}
environ.pop("PYTHONPATH", None)
sys.exit(subprocess.call(sys.argv[-3:], env=environ))
"""
# Python with the packages of this environment, but without what .pth files install from elsewhere.
INSIDE = """#!/bin/sh
PYTHONPATH="$PYTHONPATH:{packages}" exec "{python}" -S "$@"
"""


@pytest.mark.slow
def test_a_job_in_a_container_finds_code_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the project's folder nor an installation of it is in the image or in the folder of the run."""
    import numpy

    run = tmp_path / "run"
    for folder in (tmp_path / "inside", run):
        folder.mkdir()
    (run / "figures.sif").touch()
    scripts = {"apptainer": APPTAINER, "inside/python": INSIDE}
    for name, text in scripts.items():
        packages = Path(numpy.__file__).parents[1]
        (tmp_path / name).write_text(text.format(python=sys.executable, folder=tmp_path, packages=packages))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    container = ("--sdm", "apptainer", "--config", "container=figures.sif", "data_dir=../official")
    done = snakemake(run, "--cores", "1", DATA, *container)
    assert (run / DATA).exists()
    assert f"BOUND {ROOT},{tmp_path / 'official'}\n" in done.stdout + done.stderr
