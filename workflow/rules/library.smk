"""The library of the checkout that this file lies in: loaded here for planning, and handed to every job of these rules.

Another workflow may use this one as a module, installed or not, beside Python packages of its own that are called
`workflow`, `lib` or `tests`. So nothing here changes `sys.path` or snakemake's prefix of all shell commands.
"""

import gc
import importlib.util
import io
import os
import pathlib
import shlex
import subprocess
import sys
import tarfile
import tempfile


def project_folder(rules):
    """The project that the folder of these rules is in. Of a module in a git repository, the commit is laid out."""
    if hasattr(rules, "hosted_repo"):
        repository, ref = rules.hosted_repo.repo_clone, rules.ref
    elif hasattr(rules, "repo_path"):
        repository, ref = rules.repo_path, rules.ref
    else:
        folder = rules.get_path_or_uri(secret_free=False)
        if not os.path.isdir(folder):
            sys.exit(
                f"error: {rules}: snakemake reads this workflow file by file from there, but it is a Python package too. "
                "Name it as github(...), gitlab(...) or git+file://..., or clone it and give the path."
            )
        return pathlib.Path(folder).resolve().parents[1]
    git = [
        "git",
        "--git-dir",
        subprocess.check_output(
            ["git", "-C", repository, "rev-parse", "--absolute-git-dir"], text=True
        ).strip(),
    ]
    commit = subprocess.check_output(
        [*git, "rev-parse", f"{ref}^{{commit}}"], text=True
    ).strip()
    # In the folder of the run, which every machine and container with a job sees.
    place = pathlib.Path(".snakemake", "projects", commit).absolute()
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as new:
            archive = subprocess.check_output([*git, "archive", commit])
            tarfile.open(fileobj=io.BytesIO(archive)).extractall(
                f"{new}/project", filter="data"
            )
            try:
                os.rename(f"{new}/project", place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
    return place


def load_library(root):
    """Import this project's package `workflow`, and no other of that name."""
    missing = [
        name
        for name in ("numpy", "pydantic", "yaml")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        sys.exit(
            f"error: {sys.executable}: planning needs {', '.join(missing)} beside snakemake. Install them there (the jobs' "
            f"other packages come with --sdm conda), or the whole project: pip install --editable {root}"
        )
    loaded = sys.modules.get("workflow")
    if loaded is None:
        spec = importlib.util.spec_from_file_location(
            "workflow", f"{root}/workflow/__init__.py"
        )
        loaded = sys.modules["workflow"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    places = [str(pathlib.Path(place).resolve()) for place in loaded.__path__]
    if places != [f"{root}/workflow"]:
        sys.exit(
            f"error: {root}: a Python package called `workflow` is imported already, from {', '.join(places)}. One process "
            "has room for one: import yours under another name (snakemake finds `lib` beside your Snakefile), or use one "
            "version of this workflow only."
        )


def python(wildcards, threads):
    """How a job starts Python: snakemake's own, or that of its conda environment or container, with this library.

    Like all functions here that ask for `threads`: Snakemake takes such a parameter for no reason to run again, so that
    a project can be moved.
    """
    elsewhere = workflow.deployment_settings.deployment_method
    command = "python" if elsewhere else f"{shlex.quote(sys.executable)} {FORKED}"
    return f"{variables()} {command}"


def variables():
    """The variables of a job's Python."""
    rooms = (
        f"OWN_ROOMS={shlex.quote(os.path.abspath(plan.rooms))} " if plan.rooms else ""
    )
    return f"{rooms}WORKFLOW_JOB=$PPID PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(ROOT)}${{PYTHONPATH:+:$PYTHONPATH}}"


# Of a plan everything lives to its end: looking for cycles after every 700 new objects is an eighth of planning.
gc.set_threshold(500_000, 10, 10)
ROOT = str(project_folder(workflow.current_basedir))
# A script that asks for a fork where there are any, and is that Python otherwise.
FORKED = f"-Ss {shlex.quote(f'{ROOT}/workflow/lib/forked.py')}"
if {"{", "}"} & set(ROOT):
    sys.exit(
        f"error: {ROOT}: snakemake takes braces for wildcards. Move the project to a path without them."
    )
load_library(ROOT)
# Snakemake puts the folder of each Snakefile there; this one's `lib` is not for other Snakefiles.
sys.path[:] = [place for place in sys.path if place != f"{ROOT}/workflow"]


from workflow.lib import guards

guards.plan_cheaply()
