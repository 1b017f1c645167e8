"""Faults: broken files, full and read-only disks, wrong commands. One message, no traceback, nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, copy_project, snakemake
from workflow.lib import cli, stages
from workflow.lib.errors import UserError
from workflow.lib.files import (
    atomic,
    read_arrays,
    read_parameters,
    readable,
    write_arrays,
    write_parameters,
    write_text,
)
from workflow.lib.identity import Identity
from workflow.lib.runs import Trace
from workflow.lib.tables import read_traces, write_traces

GENERATE = ("generate", "--paper", "ntp", "--experiment", "two_stage")


def stage(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python -m workflow.lib <arguments>` says and how it ends, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(arguments)
        except SystemExit as end:  # of argparse
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def assert_one_message(done: subprocess.CompletedProcess[str], *words: str) -> None:
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in output, output
    for word in words:
        assert word in output, output


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a block of seeds."""
    path = tmp_path_factory.mktemp("block") / "0-1.npz"
    assert stage(*GENERATE, "--seeds", "0-1", "--data", str(path)).returncode == 0
    return path


# ---- the command line ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "--paper", "npt", "--experiment", "x", "--seeds", "0"), ["unknown paper 'npt'", "'ntp'"]),
        (("generate", "--paper", "ntp", "--experiment", "two_stages", "--seeds", "0"), ["two_stages", "two_stage"]),
        ((*GENERATE, "--seeds", "3-1"), ["expected one seed", "'3-1'"]),
        ((*GENERATE, "--seeds", "0", "--plan", "/none.json"), ["/none.json", "no such file"]),
        ((*GENERATE, "--seeds", "0", "--plan", "/dev/null"), ["/dev/null", "cannot be read"]),
        (("paint",), ["paint", "generate"]),
    ],
)
def test_a_wrong_command_is_told(tmp_path: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    data = ("--data", str(tmp_path / "x.npz")) if arguments[0] == "generate" else ()
    assert_one_message(stage(*arguments, *data), *words)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_stage() -> None:
    done = stage("--help")
    for name in ("generate", "train", "measure", "draw", "judge", "gather"):
        assert name in done.stdout
    assert "such as 0-9" in stage("generate", "--help").stdout


# ---- broken files ----


def train(data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    outputs = ("--trace", str(folder / "t.parquet"), "--parameters", str(folder / "p.safetensors"))
    named = ("--paper", "ntp", "--experiment", "two_stage", "--optimizer", "ngd", "--seeds", "0-1")
    return stage("train", *named, "--data", str(data), *outputs)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_truncated_npz_is_named(block: Path, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "in" / "cut.npz"
    cut.parent.mkdir()
    cut.write_bytes(block.read_bytes()[:keep])
    (tmp_path / "out").mkdir()
    assert_one_message(train(cut, tmp_path / "out"), "cut.npz", "delete it and run snakemake again")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", **{"0/x": np.array([print], dtype=object)})
    with pytest.raises(UserError, match=r"evil\.npz"):
        read_arrays(tmp_path / "evil.npz")


@pytest.mark.parametrize("keep", [0, 8, 200, -5])
def test_truncated_tables_and_parameters_are_named(tmp_path: Path, keep: int) -> None:
    trace = Trace([0, 1])
    trace.record("loss", [0, 1, 2], np.arange(6.0).reshape(2, 3))
    write_traces(tmp_path / "t.parquet", "p", "e", {"o": trace})
    write_parameters(tmp_path / "p.safetensors", {"w": np.ones((2, 50))})
    for name in ("t.parquet", "p.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(UserError, match=r"t\.parquet: cannot be read"):
        read_traces(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"p\.safetensors: cannot be read"):
        read_parameters(tmp_path / "p.safetensors")


def test_a_broken_file_is_moved_in_a_job_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a user names is theirs; one that a job reads was made by the workflow, which can make it again."""
    broken = tmp_path / "0.npz"
    broken.write_bytes(b"half")
    with pytest.raises(UserError, match="delete it and run snakemake again"):
        read_arrays(broken)
    assert broken.exists()
    monkeypatch.setenv("WORKFLOW_JOB", "1")
    with pytest.raises(UserError, match=r"it is \S*/0\.npz\.broken now, and the same command makes it again"):
        read_arrays(broken)
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz.broken"]
    with pytest.raises(UserError, match="a broken one was moved aside"):
        read_arrays(broken)
    (tmp_path / "b.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match="official"), readable(tmp_path / "b.parquet", "replace it by the official one"):
        raise ValueError
    assert (tmp_path / "b.parquet").exists()


def test_want_of_memory_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_JOB", "1")
    write_arrays(tmp_path / "0.npz", {0: {"x": np.ones(3)}})
    with pytest.raises(UserError, match=r"0\.npz: cannot be read: out of memory"), readable(tmp_path / "0.npz"):
        raise MemoryError
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_want_of_memory_is_one_message(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(stages, "generate", fail)
    assert cli.main([*GENERATE, "--seeds", "0", "--data", str(tmp_path / "x.npz")]) == 1
    assert capsys.readouterr().err == f"error: {cli._OUT_OF_MEMORY}\n"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_one_message(train(tmp_path / "none.npz", tmp_path), "none.npz", "no such file")


def test_files_read_back_what_was_written(tmp_path: Path) -> None:
    arrays = {3: {"x": np.arange(4), "y/z": np.eye(2)}, 4: {"x": np.arange(2)}}
    write_arrays(tmp_path / "a.npz", arrays)
    again = read_arrays(tmp_path / "a.npz")
    assert {s: {k: v.tolist() for k, v in b.items()} for s, b in again.items()} == {
        s: {k: v.tolist() for k, v in b.items()} for s, b in arrays.items()
    }
    trace = Trace([5, 7])
    trace.record("loss", [0, 10], [[1.0, np.nan], [2.0, 3.0]])
    trace.record("final", 10, [4.0, 5.0])
    write_traces(tmp_path / "t.parquet", "p", "e", {"o": trace, "q": trace})
    read = read_traces(tmp_path / "t.parquet")
    assert list(read) == ["o", "q"]
    np.testing.assert_array_equal(read["o"]["loss"].values, trace["loss"].values)
    np.testing.assert_array_equal(read["q"]["final"].at(10), [4.0, 5.0])


# ---- writing ----


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    yield place
    # An error that is still known may know a file that was open there.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_told(block: Path, small_disk: Path) -> None:
    assert_one_message(train(block, small_disk), "No space left on device", "Free some space")
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_read_only_results_are_told(block: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_one_message(train(block, small_disk), "Read-only file system", "--directory")


@pytest.mark.slow
def test_the_workflow_on_read_only_results(tmp_path: Path, small_disk: Path) -> None:
    """The disk holds `results`; the rest of the folder can be written."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = snakemake(tmp_path / "run", "--cores", "1", "results/ntp/data/example/0.npz", check=False)
    assert done.returncode != 0
    assert "Read-only file system" in done.stdout + done.stderr


# ---- the workflow ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "papers=[npt]"), ["unknown paper 'npt'"]),
        (("--config", "seeds=2.5"), ["config.seeds", "2.5"]),
        (("results/ntp/figures/fig9.pdf",), ["unknown figure 'fig9'", "fig2"]),
        (("results/npt/figures/fig1.pdf",), ["unknown paper 'npt'"]),
        (("results/ntp/runs/two_stage/ngdd/0-99.parquet",), ["unknown optimizer 'ngdd'", "ngd"]),
        (("results/ntp/metrics/two_stages.parquet",), ["unknown experiment 'two_stages'"]),
    ],
)
@pytest.mark.slow
def test_a_wrong_request_stops_before_anything_runs(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    assert_one_message(snakemake(tmp_path, "--cores", "1", *arguments, check=False), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_slip_in_a_yaml_file_is_told_with_its_line(tmp_path: Path) -> None:
    """Of two slips the one that is read first: the configuration is, then a paper's own file."""
    project = copy_project(tmp_path / "project")
    for name in ("config/claims/ntp.yaml", "config/config.yaml"):
        path = project / name
        path.write_text(path.read_text() + "\nslip: [1, 2\n")
        done = snakemake(project, "-n", project=project, check=False)
        assert_one_message(done, name.rpartition("/")[2], "is not valid YAML", "line")


@pytest.mark.slow
def test_an_input_that_is_cut_short_is_made_again_by_the_same_command(tmp_path: Path) -> None:
    target, made = "results/ntp/metrics/example.parquet", "results/ntp/data/example/0.npz"
    snakemake(tmp_path, "--cores", "1", made)
    data = tmp_path / made
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    done = snakemake(tmp_path, "--cores", "1", target, check=False)
    assert_one_message(done, "0.npz: cannot be read", "0.npz.broken now", "the same command makes it again")
    assert Path(f"{data}.broken").read_bytes() == whole[:100]
    snakemake(tmp_path, "--cores", "1", target)
    assert data.read_bytes() == whole
    assert (tmp_path / target).is_file()


@pytest.mark.slow
def test_a_run_that_fails_writes_its_message_to_the_log_too(tmp_path: Path) -> None:
    overlay = tmp_path / "impossible.yaml"
    overlay.write_text(
        "ntp: {experiments: {two_stage: {settings: {vocabulary_size: 3, embedding_dimension: 3, sentences: 12}}}}"
    )
    target = "results/ntp/data/two_stage/0-99.npz"
    done = snakemake(tmp_path, "--cores", "1", target, "--configfile", str(overlay), check=False)
    assert_one_message(done, "sentences: found 12")
    assert "sentences: found 12" in (tmp_path / "results/ntp/logs/generate/two_stage/0-99.log").read_text()
    assert not (tmp_path / target).exists()


def test_the_library_is_complete_in_version_control() -> None:
    """What the workflow reads must be in a clone: no file of the library is ignored."""
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "workflow", "config", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if "__pycache__" not in name] == []


def test_equal_parameters_are_equal_bytes(tmp_path: Path) -> None:
    """Also with what the file is, although safetensors draws the order of its metadata by lot."""
    arrays = {"w": np.ones((2, 5)), "b/c": np.arange(3.0)}
    written = set()
    for _ in range(20):
        write_parameters(tmp_path / "p.safetensors", arrays, Identity("ib", "é", "sgd", "0", "x"))
        written.add((tmp_path / "p.safetensors").read_bytes())
    assert len(written) == 1
    found = read_parameters(tmp_path / "p.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
