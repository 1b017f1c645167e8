"""The example of another project: a figure of ours, and a room of its own that lies elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, job_counts, python, snakemake

EXAMPLE = Path("examples", "own-project")


def run(folder: Path, *arguments: str) -> str:
    done = python("snakemake", "--cores", "2", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_draws_both_and_follows_edits(tmp_path: Path) -> None:
    made = shutil.ignore_patterns("results", ".snakemake")  # by who tried it in this checkout
    project = Path(shutil.copytree(ROOT / EXAMPLE, tmp_path / EXAMPLE, ignore=made))
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    run(project)
    report = (project / "results" / "report.txt").read_text()
    assert report.startswith("results/margin/figures/fig1.pdf\nresults/ntp/figures/fig1.pdf\n")
    claims = pd.read_csv(project / "results" / "margin" / "claims.csv")
    assert list(claims["verdict"]) == ["holds", "holds"]
    assert (project / "results/margin/figures/fig1.pdf").read_bytes().startswith(b"%PDF")
    assert "20 separable points in 10 dimensions" in (project / "results/margin/figures/fig1.rst").read_text()

    # What an edit does not name has nothing to be done.
    room = project / "rooms" / "margin"
    drawn = {"figures_draw": 1, "figures_judge": 1, "report": 1}
    for edited, made in {
        ("fig1.rst", "claims.py"): drawn,
        ("data.py",): {**drawn, "figures_generate": 1, "figures_train": 2, "figures_measure": 1},
    }.items():
        for name in edited:
            (room / name).write_text((room / name).read_text() + "\n")
        assert job_counts(run(project, "-n")) == made, edited


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "config.rooms: found no room in"),
        ("ntp", "this workflow has a paper of that name; choose another"),
        ("My-paper", "expected a name of small letters and digits, found 'My-paper'"),
    ],
)
def test_rooms_that_cannot_be_used_are_told(tmp_path: Path, folder: str, message: str) -> None:
    if folder != "nowhere":
        (tmp_path / "rooms" / folder).mkdir(parents=True)
        (tmp_path / "rooms" / folder / "settings.py").touch()
    done = snakemake(tmp_path, "-n", "--config", "rooms=rooms", check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
