"""Results in Python: frames and figures of what was run, the settings that made it, clear words where there is none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT, environment, python
from workflow.lib import load, stages
from workflow.lib.errors import UserError
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Experiment, Paper
from workflow.lib.rooms import load_paper

QUICK = {"settings": {"steps_ov": 20, "steps_kq": 20}}


def measured(experiment: Experiment, folder: Path) -> Path:
    """An experiment through the stages that the rules call."""
    block, data = experiment.blocks()[0], folder / "data" / f"{experiment.name}.npz"
    stages.generate(experiment, range(experiment.seeds), data)
    for label in experiment.optimizers:
        stem = folder / "runs" / experiment.name / label / block
        outputs = stem.with_suffix(".parquet"), stem.with_suffix(".safetensors")
        stages.train(experiment, label, range(experiment.seeds), data, *outputs)
    metrics = folder / "metrics" / f"{experiment.name}.parquet"
    stages.measure(experiment, [data], folder / "runs" / experiment.name, [block], metrics)
    return metrics


def planned(**experiments: Any) -> Paper:
    """A paper with two short experiments, and changes to them."""
    short = {"example": QUICK, "two_stage": {**QUICK, **experiments.pop("two_stage", {})}, **experiments}
    return load_paper("ntp", {"experiments": short}, seeds=2)


def run(results: Path, paper: Paper, *experiments: str) -> None:
    """What a run of snakemake leaves: plans, metrics and claims."""
    folder = results / paper.name
    tables = {name: measured(paper.experiment(name), folder) for name in experiments}
    plan = Path(jobs.hand(folder / "plan", "claims", jobs.for_claims(paper)))
    stages.judge(jobs.take(plan, _room()), tables, folder / "claims.csv")


def _room() -> Any:
    from workflow.lib import rooms

    return rooms.room("ntp")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two short experiments of ntp; not to be changed."""
    results = tmp_path_factory.mktemp("small") / "results"
    run(results, planned(), "example", "two_stage")
    return results


@pytest.fixture
def results(small: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(small, tmp_path / "results"))


def test_metrics_are_a_tidy_frame(small: Path) -> None:
    frame = load("ntp", small).metrics("two_stage")
    assert list(frame.columns) == ["optimizer", "seed", "step", "index", "metric", "value"]
    assert set(frame["seed"]) == {0, 1}
    assert set(frame["optimizer"]) == {"ngd", "data"}
    assert "norm_ov" in set(frame["metric"])


def test_settings_have_their_sources(small: Path) -> None:
    settings = load("ntp", small).settings("two_stage").set_index("setting")
    assert tuple(settings.loc["vocabulary_size"]) == (20, "paper", "p. 9")
    assert tuple(settings.loc["steps_ov", ["value", "source"]]) == (20, "user")
    assert settings.loc["ngd.lr", "source"] == "paper"
    assert settings.loc["seeds", "value"] == 2


def test_claims_have_verdicts(small: Path) -> None:
    claims = load("ntp", small).claims()
    assert set(claims["verdict"]) <= {"holds", "fails", "not measured"}
    assert set(claims["claim"]) == set(planned().claims)


def test_settings_are_those_of_the_numbers_not_of_the_last_plan(results: Path) -> None:
    """Other values, seeds or an untouched shipped file that were planned later, or earlier, explain nothing."""
    folder = results / "ntp"
    other = planned(two_stage={"optimizers": {"ngd": {"lr": 0.5}}})
    more = load_paper("ntp", {"experiments": {"two_stage": QUICK, "example": QUICK}}, seeds=9)
    for at, paper in enumerate((other, more), start=1):
        path = Path(jobs.hand(folder / "plan", "claims", jobs.for_claims(paper)))
        os.utime(path, (4e9 + at, 4e9 + at))
    found = load("ntp", results).settings("two_stage").set_index("setting")["value"]
    assert found["ngd.lr"] == pytest.approx(0.2 / 20**0.5)
    assert found["seeds"] == 2


def test_numbers_that_no_plan_explains(results: Path) -> None:
    for path in (results / "ntp" / "plan").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"two_stage\.parquet: no plan in .* says what it was made with"):
        load("ntp", results).settings("two_stage")
    with pytest.raises(UserError, match=r"fig2: no one plan has the settings of all its numbers. Run snakemake again"):
        load("ntp", results).figure("fig2")


BESIDE = """
import os
from workflow.lib import load
from workflow.lib.errors import UserError

try:
    load("ntp", "run/results").settings("example")
except UserError as error:
    print(error, "---", sep="\\n")
os.chdir("run")
print(load("ntp", "results").settings("example"))
"""


@pytest.mark.slow
def test_an_optimizer_of_the_user_s_own_has_to_be_beside_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said which file is missing, and found where the workflow was run."""
    (tmp_path / "run").mkdir()
    source = "from workflow.lib.optim.ngd import NGD\n\n\nclass Mine(NGD):\n    pass\n"
    (tmp_path / "run" / "mine_of_test_loading.py").write_text(source)
    monkeypatch.chdir(tmp_path / "run")
    own = {"mine": {"rule": "mine_of_test_loading.Mine", "lr": 0.1, "lr_kq": 0.1}}
    run(tmp_path / "run" / "results", planned(example={**QUICK, "optimizers": own}), "example")
    (tmp_path / "beside.py").write_text(BESIDE)
    done = python("beside", cwd=tmp_path)
    refused, _, found = done.stdout.partition("\n---\n")
    assert "may is not readable here" in refused
    assert "mine_of_test_loading" in refused
    assert "mine.lr" in found, done.stderr


OWN = """
import sys
from pathlib import Path
from tests.test_loading import measured
from workflow.lib import load, places
from workflow.lib.errors import UserError
from workflow.lib.plan import jobs
from workflow.lib.rooms import load_paper

rooms, results = sys.argv[1], Path(sys.argv[2])
try:
    load("margin", results)
except UserError as error:
    assert "rooms=" in str(error), error
places.use(rooms)
paper = load_paper("margin", {"experiments": {"separable": {"settings": {"steps": 20}}}}, seeds=1)
measured(paper.experiment("separable"), results / "margin")
jobs.hand(results / "margin" / "plan", "claims", jobs.for_claims(paper))
opened = load("margin", results, rooms=rooms)
print(opened.settings("separable"), opened.figure("fig1"))
"""


@pytest.mark.slow
def test_a_paper_of_the_user_s_own(tmp_path: Path) -> None:
    rooms = ROOT / "examples" / "own-project" / "rooms"
    (tmp_path / "own.py").write_text(OWN)
    done = python("own", str(rooms), str(tmp_path), cwd=tmp_path)
    assert "choice" in done.stdout, done.stderr
    assert "Figure(" in done.stdout


def test_shipped_settings_need_no_plan(tmp_path: Path) -> None:
    measured(load_paper("ntp").experiment("example"), tmp_path / "ntp")
    found = load("ntp", tmp_path).settings("example").set_index("setting")
    assert found.loc["steps_ov", "source"] == "paper"


def test_a_figure_has_the_experiments_that_it_was_last_drawn_from(results: Path) -> None:
    folder = results / "ntp"
    wide = {"wide": {"like": "two_stage", "settings": {"vocabulary_size": 30, "embedding_dimension": 30}}}
    experiments = {"example": QUICK, "two_stage": QUICK, "wide": {**wide["wide"], **QUICK}}
    changed = load_paper("ntp", {"experiments": experiments, "figures": {"fig2": {"experiments": ["wide"]}}}, seeds=2)
    measured(changed.experiment("wide"), folder)
    path = Path(jobs.hand(folder / "plan", "figure-fig2", jobs.for_figure(changed, "fig2")))
    os.utime(path, (4e9, 4e9))
    drawn = folder / "figures" / "fig2.json"
    drawn.parent.mkdir()
    for name in ("two_stage", "wide"):
        drawn.write_text(f'{{"experiments": [{{"name": "{name}"}}]}}')
        opened = load("ntp", results)
        assert opened._plan_of("fig2").figure("fig2").experiments == (name,)


LOOK = """
import sys
from workflow.lib import load

heavy = [name for name in ("torch", "pandas", "pyarrow", "matplotlib") if name in sys.modules]
assert not heavy, heavy
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams.update({"font.size": 30, "axes.facecolor": "black", "xtick.labelsize": 40})
before = dict(matplotlib.rcParams)
figure = load("ntp", sys.argv[1]).figure("fig1")
figure.savefig(sys.argv[2], format="png", dpi=60)
assert dict(matplotlib.rcParams) == before
assert matplotlib.get_backend().lower() == "svg"
assert "torch" not in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.slow
def test_a_figure_looks_as_printed_and_changes_no_settings_of_the_user_s(small: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOK, str(small), str(tmp_path / "look.png")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(ROOT))
    assert done.returncode == 0, done.stderr
    plain = load("ntp", small).figure("fig1")
    plain.savefig(tmp_path / "plain.png", format="png", dpi=60)
    assert (tmp_path / "look.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    assert plain._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]  # what a notebook shows


# ---- what is not there ----


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda r: load("npt", r), "unknown paper 'npt'.*Did you mean 'ntp'"),
        (lambda r: load("icl", r), r"icl: no results lie there yet. `snakemake --cores 4 icl` makes them"),
        (lambda r: load("ntp", r / "elsewhere"), "elsewhere/ntp: no results lie there yet"),
        (lambda r: load("ntp", r).metrics("two_stages"), "unknown experiment 'two_stages'.*Did you mean 'two_stage'"),
        (
            lambda r: load("ntp", r).metrics("long_run"),
            r"not made yet. `snakemake --cores 4 results/ntp/metrics/long_run\.parquet`",
        ),
        (lambda r: load("ntp", r).settings("long_run"), "not made yet"),
        (lambda r: load("ntp", r).figure("fig3"), "unknown figure 'fig3'.*Did you mean 'fig[12]'"),
        (
            lambda r: load("ntp", r).figure("extra_rates"),
            r"not run yet: long_run\. `snakemake --cores 4 results/ntp/figures/extra_rates\.pdf`",
        ),
    ],
)
def test_what_is_not_there_is_told_with_the_command_that_makes_it(small: Path, ask: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ask(small)


def test_claims_that_were_not_judged_or_are_older_than_the_numbers(results: Path) -> None:
    table = results / "ntp" / "claims.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("ntp", results).claims()
    os.utime(table, (1e9, 1e9))
    with pytest.warns(UserWarning, match=r"older than the metrics of example, two_stage. `snakemake --cores 4 ntp`"):
        load("ntp", results).claims()
    table.unlink()
    with pytest.raises(UserError, match=r"not judged yet. `snakemake --cores 4 ntp`"):
        load("ntp", results).claims()


def test_names_to_go_on_with(small: Path) -> None:
    opened = load("ntp", small)
    assert opened.experiments == ("example", "two_stage")
    assert {"fig1", "fig2"} <= set(opened.figures)
    assert "extra_rates" not in opened.figures
    assert "two_stage" in repr(opened)


# ---- what the README and the notebook say ----


@pytest.mark.slow
def test_six_lines_of_the_readme(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"```python\n(from workflow\.lib import load\n.*?)```", readme, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(small.parent)
    told: dict[str, Any] = {}
    exec(found[1].replace("fig2.svg", str(tmp_path / "fig2.svg")), told)
    assert len(found[1].replace("\n\n", "\n").splitlines()) == 6
    assert set(told["failing"]["verdict"]) <= {"fails"}
    assert len(told["numbers"]) > 100
    assert list(told["settings"].columns) == ["setting", "value", "source", "where"]
    assert "<svg" in (tmp_path / "fig2.svg").read_text()


NOTEBOOK = ROOT / "examples" / "results.ipynb"


def _shown(cell: Any) -> set[str]:
    """The kinds of what a cell shows."""
    return {kind for output in cell.outputs for kind in output.get("data", {output.output_type: ""})}


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is shipped, it has outputs of a whole run; on small results it shows the same kinds of things."""
    shipped = nbformat.read(NOTEBOOK, as_version=4)
    (tmp_path / "results").symlink_to(small)
    (tmp_path / "examples").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    again = nbformat.from_dict(shipped)
    place = {"metadata": {"path": str(tmp_path / "examples")}}
    NotebookClient(again, timeout=120, kernel_name="python3", resources=place).execute()
    for old, new in zip(shipped.cells, again.cells, strict=True):
        if old.cell_type == "code":
            assert _shown(old) == _shown(new) != set(), old.source
    assert "/tmp" not in NOTEBOOK.read_text()
