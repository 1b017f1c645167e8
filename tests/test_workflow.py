"""The workflow as a whole: what it makes, what reruns after which change, and that results do not depend on how."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests import budget
from tests.conftest import (
    ROOT,
    SMALL,
    SMALL_FIGURES,
    SNAKEFILE,
    copy_project,
    each_training,
    environment,
    job_counts,
    snakemake,
)
from workflow.lib import rooms, stages
from workflow.lib.forked import PLACE
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan

PLAN = make_plan(read_yaml(ROOT / "config" / "config.yaml"))
FIGURES = [(paper, figure) for paper, figures in SMALL_FIGURES.items() for figure in figures]


def test_nothing_to_do_the_second_time(small_run: Path) -> None:
    done = snakemake(small_run, "--cores", "2", *SMALL)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_changing_a_step_size_reruns_that_optimizer_only(small_run: Path) -> None:
    change = "ntp={experiments: {two_stage: {optimizers: {ngd: {lr: 0.1}}}}}"
    done = snakemake(small_run, "-n", *SMALL, "--config", change)
    counts = job_counts(done.stdout + done.stderr)
    # Two figures read this experiment; nothing of other experiments or papers is touched.
    assert counts == {"train": 1, "measure": 1, "draw": 2, "judge": 1, "claims": 1, "page": 1, "all": 1}


def test_rewording_a_source_trains_nothing(small_run: Path) -> None:
    change = "ntp={experiments: {two_stage: {settings: {sentences: {where: elsewhere}}}}}"
    done = snakemake(small_run, "-n", *SMALL, "--config", change)
    counts = job_counts(done.stdout + done.stderr)
    assert set(counts) == {"draw", "judge", "claims", "page", "all"}


@pytest.fixture(scope="module")
def edited_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, to edit."""
    return copy_project(tmp_path_factory.mktemp("edited") / "project")


def planned(output: str) -> dict[str, set[str]]:
    """The rules of the jobs that a dry run lists, by the paper that their outputs are of."""
    found: dict[str, set[str]] = {}
    for rule, paper in re.findall(
        r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    output: results/(\w+)/", output, re.MULTILINE
    ):
        found.setdefault(paper, set()).add(rule)
    return found


@pytest.mark.parametrize(
    "edits",
    [
        {"papers/ntp/figures.py": ("ntp", "draw"), "papers/scb/training.py": ("scb", "train measure draw judge")},
        {"papers/ntp/data.py": ("ntp", "generate train measure draw judge"), "../report/scb/fig2.rst": ("scb", "draw")},
        {"optim/ngd.py": ("ntp", "train measure draw judge"), "loading.py": ("", "")},
        {"plotting.py": ("ntp", "draw"), "papers/scb/claims.py": ("scb", "draw judge")},
    ],
    ids=" ".join,
)
def test_an_edit_reruns_what_it_bears_upon(
    small_run: Path, edited_project: Path, edits: dict[str, tuple[str, str]]
) -> None:
    """A checkout that lies elsewhere, but for the edits, has nothing to do where this one has run."""
    paths = [edited_project / "workflow" / "lib" / name for name in edits]
    before = [(path.read_text(), path.stat()) for path in paths]
    for path in paths:
        path.write_text(path.read_text() + ("\n# edited\n" if path.suffix == ".py" else "\nEdited.\n"))
    done = snakemake(small_run, "-n", "ntp", "scb", *SMALL, project=edited_project)
    for path, (text, times) in zip(paths, before, strict=True):
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    expected = {paper: set(rules.split()) for paper, rules in edits.values() if paper}
    assert planned(done.stdout) == expected, (done.stdout + done.stderr)[-3000:]


def test_a_paper_alone_has_its_claims_to_read(small_run: Path, tmp_path: Path) -> None:
    """As the table of all papers has them."""
    results = small_run / "results"
    text = (results / "ntp" / "claims.md").read_text()
    assert text.count("\n## ") == 1
    assert all(claim in text for claim in PLAN.paper("ntp").claims)
    outputs = {kind: tmp_path / f"claims.{kind}" for kind in ("csv", "md", "html")}
    title = {"ntp": PLAN.paper("ntp").title}
    stages.gather([results / "ntp" / "claims.csv"], title, outputs["csv"], outputs["md"], outputs["html"])
    assert text == outputs["md"].read_text()  # of a run of that paper alone


@pytest.mark.slow
def test_a_job_runs_the_code_of_the_checkout_that_planned_it(tmp_path: Path) -> None:
    """Another checkout is installed in this environment, and the folder of the results holds a package of that name."""
    project = copy_project(tmp_path / "a project of one's own")
    path = project / "workflow" / "lib" / "cli.py"
    path.write_text(
        path.read_text().replace("    stages.generate(", "    raise UserError('the copy ran')\n    stages.generate(")
    )
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "workflow").mkdir(parents=True)
    (elsewhere / "workflow" / "__init__.py").write_text("raise RuntimeError('the working folder was imported')\n")
    environ = {key: value for key, value in environment(project).items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(project / SNAKEFILE), "--cores", "1"]
    target = "results/ntp/data/example/0.npz"
    done = subprocess.run([*command, target], cwd=elsewhere, env=environ, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the copy ran" in done.stdout + done.stderr, done.stderr[-3000:]


@pytest.mark.slow
def test_braces_in_the_project_s_path_are_told(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", project=copy_project(tmp_path / "{project}"), check=False)
    assert done.returncode != 0
    assert "takes braces for wildcards" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_papers_share_no_module_of_a_room() -> None:
    from workflow.lib.sources import modules

    for paper in PLAN.papers:
        for experiment in PLAN.paper(paper).experiments.values():
            room = rooms.package(experiment)
            for stage in ("data", "training", "metrics"):
                foreign = [p for p in modules(f"{room}.{stage}") if "papers" in p.parts and p.parent.name != "papers"]
                assert all(paper in path.parts for path in foreign)


def test_same_bytes_whatever_the_cores_and_after_a_kill(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was killed on three cores and went on with two; its jobs were forks of others.

    One core makes of every kind of job the same, with jobs that start anew.
    """
    monkeypatch.setenv(PLACE, "no")
    results, targets = (
        small_run / "results",
        ["results/ntp/figures/fig1.pdf", "results/ntp/metrics/two_stage.parquet"],
    )
    for paper, experiment, label in each_training(PLAN.papers):
        made = min(results.glob(f"{paper}/runs/{experiment}/{label}/*.parquet"))
        targets.append(str(made.relative_to(small_run)))
    snakemake(tmp_path, "--cores", "1", *targets, SMALL[0], str(small_run / SMALL[1]), anew=True)
    # The page is of all that is there, and there is less.
    again = [path.relative_to(tmp_path) for path in sorted(tmp_path.glob("results/*/**/*")) if path.is_file()]
    compared = {path for path in again if "logs" not in path.parts}
    assert {path.suffix for path in compared} >= {".npz", ".parquet", ".safetensors", ".pdf", ".png", ".csv", ".json"}
    assert {path.parts[1] for path in compared} == set(PLAN.papers)
    assert [path for path in compared if (tmp_path / path).read_bytes() != (small_run / path).read_bytes()] == []
    assert not list(results.rglob(".*~*")), "a temporary file was left behind"
    # Starting forks costs less CPU time than starting anew, but for the first of its kind.
    forks, anew = (
        median(cost.starting for cost in budget.costs(each).values()) for each in (results, tmp_path / "results")
    )
    assert sys.platform != "linux" or forks < anew / 2


@pytest.mark.slow
def test_a_single_figure_needs_only_its_own_jobs(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "results/ntp/figures/fig1.pdf")
    assert job_counts(done.stdout + done.stderr) == {"generate": 1, "train": 1, "measure": 1, "draw": 1}


@pytest.mark.parametrize("target", [*PLAN.papers, "claims"])
@pytest.mark.slow
def test_target_rules(tmp_path: Path, target: str) -> None:
    done = snakemake(tmp_path, "-n", target)
    assert job_counts(done.stdout + done.stderr)[target] == 1


@pytest.mark.slow
def test_seeds_are_cut_into_blocks(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "ntp", "--config", "papers=[ntp]", "seeds=7", "seeds_per_job=3")
    assert job_counts(done.stdout + done.stderr)["train"] == 3 * len(PLAN.paper("ntp").experiments)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_trainings_ask_for_memory_by_seed_and_for_more_on_a_gpu(tmp_path: Path, device: str) -> None:
    needs = PLAN.paper("ib").experiment("vit_mnist").settings.needs()
    assert needs.memory(4) == needs.memory(2) + 2 * needs.seed_mb
    assert needs.memory(2, "cuda") == needs.memory(2) + needs.cuda_mb
    target = "results/ib/runs/vit_mnist/sgd/0-1.parquet"
    planned = snakemake(tmp_path, "-n", target, "--config", f"device={device}").stdout
    assert f"mem_mb={needs.memory(2, device)}," in planned.split("rule train_on_gpu:")[1]


@pytest.mark.slow
def test_lint_is_clean(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--lint", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_rules_are_formatted_and_name_no_paper() -> None:
    files = [ROOT / SNAKEFILE, *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", *map(str, files)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    for path in files:
        words = path.read_text().replace("_", " ").replace('"', " ").replace("'", " ").split()
        assert not set(PLAN.papers) & set(words), path


def test_report_holds_every_figure_and_the_claims(small_run: Path) -> None:
    import zipfile

    snakemake(small_run, "--report", "report.zip", *SMALL)
    with zipfile.ZipFile(small_run / "report.zip") as archive:
        names = archive.namelist()
        text = b"".join(archive.read(name) for name in names if name.endswith((".html", ".js"))).decode()
    for paper, figure in FIGURES:
        assert f"{paper}/figures/{figure}" in text or any(f"{figure}.png" in name for name in names), figure
    assert "claims.html" in text or any("claims" in name for name in names)
