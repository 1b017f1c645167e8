"""What the README prints works as printed."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import small
from tests.conftest import ROOT, job_counts, snakemake
from workflow.lib.cli import main
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import load_paper, make_plan

README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The block of the README whose first line is a comment with a file's name."""
    fenced = re.search(rf"```\w+\n(# {re.escape(name)}\n.*?)```", README, re.DOTALL)
    if fenced:
        return fenced[1]
    start = README.index(f"    # {name}\n")
    lines = re.match(r"(?:    .*\n|\n(?=    ))+", README[start:])
    assert lines is not None
    return re.sub(r"^    ", "", lines[0], flags=re.MULTILINE)


@pytest.mark.slow
def test_an_optimizer_of_the_user_s_own_is_drawn(tmp_path: Path) -> None:
    """From the text of the README to a drawn figure: two files, one command; an edit trains that optimizer alone."""
    for name in ("my_optimizers.py", "heavy_ball.yaml"):
        (tmp_path / name).write_text(block(name))
    command = re.search(r"^    snakemake (.*heavy_ball\.yaml)$", README, re.MULTILINE)
    assert command is not None
    short = ["seeds=2", "ntp={experiments: {two_stage: {settings: {steps_ov: 20, steps_kq: 20}}}}"]
    arguments = [*command[1].replace("--cores 4", "--cores 2").split(), "--config", *short]
    snakemake(tmp_path, *arguments)
    drawn = pd.read_csv(tmp_path / "results/ntp/figures/fig2.csv")
    assert {"ngd", "heavy_ball"} <= set(drawn["series"])
    caption = (tmp_path / "results/ntp/figures/fig2.rst").read_text()
    assert "my_optimizers.HeavyBall" in caption.replace("\\", "")  # as it is read, without escapes
    with (tmp_path / "my_optimizers.py").open("a") as file:
        file.write("# edited\n")
    edited = snakemake(tmp_path, "-n", *arguments)
    assert job_counts(edited.stdout + edited.stderr) == {"train": 1, "measure": 1, "draw": 1}


def test_the_overlay_is_a_plan() -> None:
    text = block("mine.yaml").split("\nmake figures")[0]
    plan = make_plan({**read_yaml(ROOT / "config" / "config.yaml"), **yaml.safe_load(text)})
    paper = plan.paper("ntp")
    assert "long_run" not in paper.experiments
    assert paper.figure("extra_wide").experiments == ("wide",)
    assert paper.experiment("two_stage").optimizer("ngd").given["lr"].source == "user"


def test_an_experiment_of_the_user_s_own_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The overlay of the README, at small size: its figure comes out, with its settings told as the user's."""
    mine = yaml.safe_load(block("mine.yaml").split("\nmake figures")[0])["ntp"]
    mine["experiments"]["wide"]["settings"] |= {"steps_ov": 20, "steps_kq": 20}
    paper = load_paper("ntp", mine, seeds=2)
    alone = paper.model_copy(update={"experiments": {"wide": paper.experiment("wide")}})
    assert list(small.run(alone, tmp_path)) == ["wide"]
    small.quick_pictures(monkeypatch)
    told = json.loads(small.draw(paper, tmp_path, "extra_wide").with_suffix(".json").read_text())
    (wide,) = told["experiments"]
    user = {entry["setting"]: entry["value"] for entry in wide["settings"] if entry["source"] == "user"}
    assert user["vocabulary_size"] == user["embedding_dimension"] == 40


def test_make_hands_the_user_s_file_on() -> None:
    for arguments, said in (((), "--cores 4"), (("CONFIG=mine.yaml",), "--cores 4 --configfile mine.yaml")):
        done = subprocess.run(
            ["make", "-n", "-o", ".venv/ready", "figures", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert any(line.strip().endswith(said) for line in done.stdout.splitlines())


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 40
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_picture_of_the_rules_is_theirs(tmp_path: Path) -> None:
    """With `train` for both rules that train, and without those that only name targets."""
    graph = re.search(r"```mermaid\nflowchart LR\n(.*?)```", README, re.DOTALL)
    assert graph is not None
    drawn = {pair for line in graph[1].splitlines() for pair in itertools.pairwise(line.strip().split(" --> "))}
    real = ("--configfile", str(ROOT / "config" / "paper.yaml"))
    printed = snakemake(tmp_path, "--rulegraph", "mermaid-js", *real).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", printed)) | {"": "all"}
    names = {key: name.removesuffix("_on_gpu") for key, name in names.items()}
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", printed)}
    assert drawn == {edge for edge in edges if edge[1] != "all"}


def test_the_matrix_of_the_docs_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix"]) == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "optimizers.md").read_text()


def test_the_keys_of_the_configuration_are_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys"]) == 0
    readme = (ROOT / "config" / "README.md").read_text()
    assert readme.endswith(capsys.readouterr().out), "python -m workflow.lib keys prints the tables"
    example = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    plan = make_plan(yaml.safe_load(example[1]))
    assert plan.paper("ntp").experiment("wide").settings.sentences == 40  # type: ignore[attr-defined]
    assert plan.paper("ntp").experiment("two_stage").optimizer("adam").given["lr"].source == "user"
