"""Files between the stages: a file of anything else than what is asked for is refused, in one message."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.faults import refused
from workflow.lib import rooms, stages
from workflow.lib.plan.model import Experiment, Paper, block_seeds
from workflow.lib.runs import Trace
from workflow.lib.tables import read_traces, write_traces

SHORT: dict[str, Any] = {"settings": {"steps_ov": 5, "steps_kq": 5}, "seeds": 4}


def paper(**changes: Any) -> Paper:
    mine = {**SHORT, **changes, "settings": {**SHORT["settings"], **changes.get("settings", {})}}
    other = {"like": "two_stage", **SHORT}
    optimizers = {"ngd": {}, "slow": {"rule": "ngd", "lr": 0.001, "lr_kq": 0.001}}
    experiments = {name: {**found, "optimizers": optimizers} for name, found in (("two_stage", mine), ("other", other))}
    return rooms.load_paper("ntp", {"experiments": experiments})


@dataclass
class Run:
    """A finished run of two experiments, two optimizers and two blocks of two seeds."""

    folder: Path

    def data(self, name: str, block: str) -> Path:
        return self.folder / "data" / name / f"{block}.npz"

    def stem(self, name: str, label: str, block: str) -> Path:
        return self.folder / "runs" / name / label / block

    def metrics(self, name: str) -> Path:
        return self.folder / "metrics" / f"{name}.parquet"

    def generate(self, experiment: Experiment, block: str) -> None:
        stages.generate(experiment, block_seeds(block), self.data(experiment.name, block))

    def train(self, experiment: Experiment, label: str, block: str) -> None:
        stem = self.stem(experiment.name, label, block)
        files = self.data(experiment.name, block), stem.with_suffix(".parquet"), stem.with_suffix(".safetensors")
        stages.train(experiment, label, block_seeds(block), *files)

    def measure(self, experiment: Experiment) -> None:
        blocks = experiment.blocks(2)
        data = [self.data(experiment.name, block) for block in blocks]
        folder = self.folder / "runs" / experiment.name
        stages.measure(experiment, data, folder, blocks, self.metrics(experiment.name))

    def judge(self, of: Paper) -> None:
        kept = {name: of.experiments[name] for name in ("two_stage", "other")}
        some = of.model_copy(update={"experiments": kept})
        stages.judge(some, {name: self.metrics(name) for name in kept}, self.folder / "claims.csv")

    def draw(self, of: Paper) -> None:
        outputs = {kind: self.folder / f"fig2.{kind}" for kind in ("pdf", "png", "csv", "caption", "description")}
        template = Path(stages.__file__).parents[1] / "report" / "ntp" / "fig2.rst"
        stages.draw(of, "fig2", {"two_stage": self.metrics("two_stage")}, template, outputs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(tmp_path_factory.mktemp("finished"))
    for name in ("two_stage", "other"):
        experiment = paper().experiment(name)
        for block in experiment.blocks(2):
            made.generate(experiment, block)
            for label in experiment.optimizers:
                made.train(experiment, label, block)
        made.measure(experiment)
    return made


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def replace(to: Callable[[Run], Path], by: Callable[[Run], Path]) -> Callable[[Run], None]:
    return lambda run: (to(run).unlink(), shutil.copy(by(run), to(run)))[0]  # type: ignore[return-value]


def train(run: Run) -> None:
    run.train(paper().experiment("two_stage"), "ngd", "0-1")


def measure(run: Run) -> None:
    run.measure(paper().experiment("two_stage"))


def judge(run: Run) -> None:
    run.judge(paper())


def draw(run: Run) -> None:
    run.draw(paper())


def data(block: str, name: str = "two_stage") -> Callable[[Run], Path]:
    return lambda run: run.data(name, block)


def table(label: str, block: str, name: str = "two_stage") -> Callable[[Run], Path]:
    return lambda run: run.stem(name, label, block).with_suffix(".parquet")


def weights(label: str, block: str, name: str = "two_stage") -> Callable[[Run], Path]:
    return lambda run: run.stem(name, label, block).with_suffix(".safetensors")


def metrics(name: str) -> Callable[[Run], Path]:
    return lambda run: run.metrics(name)


# Of each file that a stage reads: another one in its place, the stage, and what the message names.
TAKEN_FOR_ANOTHER = [
    ("data of other seeds", replace(data("0-1"), data("2-3")), train, ["0-1.npz", "seeds", "'0-1'", "'2-3'"]),
    ("data of another experiment", replace(data("0-1"), data("0-1", "other")), train, ["experiment", "'other'"]),
    ("data of other seeds, measured", replace(data("2-3"), data("0-1")), measure, ["2-3.npz", "seeds"]),
    ("data of another experiment, measured", replace(data("2-3"), data("2-3", "other")), measure, ["'other'"]),
    ("a trace of another optimizer", replace(table("ngd", "0-1"), table("slow", "0-1")), measure, ["'slow'", "'ngd'"]),
    ("a trace of other seeds", replace(table("ngd", "0-1"), table("ngd", "2-3")), measure, ["seeds", "'2-3'"]),
    ("a trace of another experiment", replace(table("ngd", "0-1"), table("ngd", "0-1", "other")), measure, ["'other'"]),
    ("weights of another optimizer", replace(weights("slow", "0-1"), weights("ngd", "0-1")), measure, ["'ngd'"]),
    ("weights of other seeds", replace(weights("slow", "0-1"), weights("slow", "2-3")), measure, ["'2-3'", "'0-1'"]),
    (
        "weights of another experiment",
        replace(weights("slow", "2-3"), weights("slow", "2-3", "other")),
        measure,
        ["'other'"],
    ),
    ("metrics of another experiment", replace(metrics("two_stage"), metrics("other")), judge, ["'other'"]),
    ("metrics of another experiment, drawn", replace(metrics("two_stage"), metrics("other")), draw, ["'other'"]),
    ("runs for metrics", replace(metrics("two_stage"), table("ngd", "0-1")), draw, ["two_stage.parquet", "'ngd'"]),
    ("metrics for runs", replace(table("ngd", "0-1"), metrics("two_stage")), measure, ["0-1.parquet", "optimizer"]),
    ("data for weights", replace(weights("ngd", "0-1"), data("0-1")), measure, ["0-1.safetensors", "cannot be read"]),
    ("weights for data", replace(data("0-1"), weights("ngd", "0-1")), train, ["0-1.npz", "cannot be read"]),
]


@pytest.mark.parametrize(
    ("change", "stage", "words"), [pytest.param(*case[1:], id=case[0]) for case in TAKEN_FOR_ANOTHER]
)
def test_another_file_is_not_taken(run: Run, change: Any, stage: Any, words: list[str]) -> None:
    change(run)
    refused(
        lambda: stage(run),
        *words,
        "Delete it and run snakemake again" if "cannot be read" not in words else "",
        inside=run.folder,
    )


SETTINGS = [
    ("a setting", {"settings": {"init_scale": 0.2}}),
    ("a number of steps", {"settings": {"steps_ov": 4}}),
    ("the stream of random numbers", {"stream": 1}),
]


@pytest.mark.parametrize("changes", [pytest.param(case[1], id=case[0]) for case in SETTINGS])
@pytest.mark.parametrize("stage", ["train", "measure", "draw", "judge"])
def test_files_of_other_settings_are_refused(finished: Run, changes: dict[str, Any], stage: str) -> None:
    of = paper(**changes)
    experiment = of.experiment("two_stage")
    calls = {
        "train": lambda: finished.train(experiment, "ngd", "0-1"),
        "measure": lambda: finished.measure(experiment),
        "draw": lambda: finished.draw(of),
        "judge": lambda: finished.judge(of),
    }
    refused(calls[stage], "two_stage", "other settings", "run snakemake again")


def test_other_evidence_is_no_other_setting(finished: Run) -> None:
    """A source that is worded better makes nothing stale."""
    given = paper().experiment("two_stage").settings.steps_ov
    told = {"value": given, "source": "paper", "where": "page 10, read again"}
    finished.measure(paper(settings={"steps_ov": told}).experiment("two_stage"))


def test_fewer_seeds_are_not_taken_for_all(finished: Run) -> None:
    refused(lambda: finished.draw(paper(seeds=3)), "two_stage.parquet", "seeds", "'0-2'", "'0-3'")


def without_identity_npz(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files if key != "identity"}
    np.savez(path, **arrays)


NAMELESS = [
    ("data", data("0-1"), train, without_identity_npz),
    (
        "a trace",
        table("ngd", "0-1"),
        measure,
        lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(), path),
    ),
    ("weights", weights("ngd", "0-1"), measure, lambda path: save_file(load_file(path), path)),
    (
        "metrics",
        metrics("two_stage"),
        draw,
        lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(), path),
    ),
]


@pytest.mark.parametrize(("of", "stage", "strip"), [pytest.param(*case[1:], id=case[0]) for case in NAMELESS])
def test_a_file_that_does_not_say_what_it_is(run: Run, of: Any, stage: Any, strip: Any) -> None:
    strip(of(run))
    refused(lambda: stage(run), of(run).name, "does not say what it holds", "ntp.two_stage", inside=run.folder)


# Of each file that a stage reads: something else under its name.
READERS = [
    ("data", data("0-1"), train),
    ("data, measured", data("2-3"), measure),
    ("a trace", table("slow", "2-3"), measure),
    ("weights", weights("slow", "2-3"), measure),
    ("metrics, drawn", metrics("two_stage"), draw),
    ("metrics, judged", metrics("two_stage"), judge),
]


def cut(part: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])  # type: ignore[return-value]


def flipped(path: Path) -> None:
    """The last bytes, where two of the formats have their table of contents."""
    whole = bytearray(path.read_bytes())
    whole[-40:] = bytes(255 - byte for byte in whole[-40:])
    path.write_bytes(whole)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    import os

    path.unlink()
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def huge_npy(path: Path) -> None:
    """A header that claims 8 TB."""
    import io
    import zipfile

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0/x.npy", head.getvalue() + b"\0" * 80)


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("missing", Path.unlink, "no such file"),
    ("empty", lambda path: path.write_bytes(b""), "cannot be read"),
    ("one byte", lambda path: path.write_bytes(b"P"), "cannot be read"),
    ("half", cut(0.5), "cannot be read"),
    ("all but the end", cut(0.98), "cannot be read"),
    ("text", lambda path: path.write_text("hello\n" * 100), "cannot be read"),
    ("JSON", lambda path: path.write_text('{"a": 1}'), "cannot be read"),
    ("zeros", lambda path: path.write_bytes(bytes(5000)), "cannot be read"),
    ("an array without a name", lambda path: path.write_bytes(npy()), "cannot be read"),
    ("a pickle", lambda path: path.write_bytes(b"\x80\x04K\x01."), "cannot be read"),
    ("an end that is flipped", flipped, "two_stage"),
    ("a folder", a_folder, "it is a folder"),
    ("a pipe", a_pipe, "no regular file"),
    ("a link to itself", a_link_to_itself, "two_stage"),
]


def npy() -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(("of", "stage"), [pytest.param(*case[1:], id=case[0]) for case in READERS])
@pytest.mark.parametrize(("damage", "word"), [pytest.param(*case[1:], id=case[0]) for case in DAMAGE])
def test_a_damaged_file_is_named(run: Run, of: Any, stage: Any, damage: Any, word: str) -> None:
    path = of(run)
    damage(path)
    refused(lambda: stage(run), path.name, word, inside=run.folder)


def test_an_array_that_claims_terabytes(run: Run) -> None:
    huge_npy(run.data("two_stage", "0-1"))
    refused(lambda: train(run), "0-1.npz", inside=run.folder)


def test_a_curve_of_nothing_stays_one_when_it_is_written_again(tmp_path: Path) -> None:
    """Runs that were lost at once are measured from their trace: they keep their names, seeds and last step."""
    trace = Trace([3, 4])
    trace.record("loss", [0, 5, 9], np.full((2, 3), np.nan))
    for _ in range(3):
        write_traces(tmp_path / "t.parquet", "p", "e", {"lost": trace, "silent": Trace([3, 4])})
        found = read_traces(tmp_path / "t.parquet")
        trace = found["lost"]
    assert list(found) == ["lost", "silent"]
    assert found["silent"].seeds == trace.seeds == (3, 4)
    assert trace["loss"].steps.tolist() == [0, 9]
    assert np.isnan(trace["loss"].values).all()
