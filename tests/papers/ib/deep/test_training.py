"""The deep nets: models against plain twins, training, checkpoints after a kill, divergence, bad input, claims."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, environment
from tests.reference import ib_deep as plain
from workflow.lib import devices, rooms
from workflow.lib.cli import main
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.papers.ib.deep import claims, figures, recorded, training
from workflow.lib.papers.ib.deep.data import encoder_folder, generate
from workflow.lib.papers.ib.deep.metrics import measure, trailing_mean
from workflow.lib.papers.ib.deep.training import train
from workflow.lib.papers.ib.deep.vit import ViT
from workflow.lib.plan.model import Experiment, Paper
from workflow.lib.plan.reading import read_yaml
from workflow.lib.runs import Curve, Metrics, Trace

VISION: dict[str, Any] = {
    "dataset": "mnist_5k", "train_examples": 60, "test_examples": 30, "batch_size": 25, "epochs": 2,
    "precision": "float32", "evaluations": 9, "smoothing": 2, "keep_weights": True, "pixels": None, "patch": 7,
    "dim": 8, "depth": 2, "heads": 2,
    "dim_head": 4, "mlp": 8, "dropout": 0.1, "embedding_dropout": 0.1,
}  # fmt: skip
LANGUAGE: dict[str, Any] = {
    "dataset": "multinli_standin", "train_examples": 60, "test_examples": 30, "batch_size": 25, "epochs": 2,
    "precision": "float32", "evaluations": 9, "smoothing": 2, "keep_weights": True, "max_length": 32, "dropout": 0.1,
    "encoder": {"hidden": 8, "layers": 2, "heads": 2, "mlp": 8, "initial_deviation": 0.2},
}  # fmt: skip
OPTIMIZERS = {
    "sgd": {"lr": 0.1},
    "sngd": {"lr": 0.01, "eta_max": 0.1},
    "sps": {"eta_max": 0.1},
    "adam": {"lr": 0.01},
}
SHAPE = {"patch": 4, "dim": 16, "depth": 2, "heads": 3, "dim_head": 5, "mlp": 12}


def experiment(kind: str = "vision", optimizers: Any = OPTIMIZERS, **changes: Any) -> Experiment:
    settings = {**(VISION if kind == "vision" else LANGUAGE), **changes}
    given = {key: {"value": value} for key, value in settings.items()}
    return Experiment.read(rooms.room("ib"), "x", {"kind": kind, "settings": given, "optimizers": optimizers})


def paper(overlay: str | None = None) -> Paper:
    """The paper as it is shipped, or with the changes of a file of `config/`."""
    return rooms.load_paper("ib", read_yaml(ROOT / "config" / overlay)["ib"] if overlay else None)


def run(e: Experiment, rule: str, seeds: tuple[int, ...] = (0,), job: Job | None = None) -> Any:
    return train(e, e.optimizers[rule], {seed: generate(e, e.seed(seed)) for seed in seeds}, job or Job())


def same(a: Any, b: Any) -> None:
    assert a.seeds == b.seeds
    for metric in (*recorded.ITERATION_METRICS, *recorded.EPOCH_METRICS):
        assert np.array_equal(a.trace[metric].values, b.trace[metric].values), metric
    assert a.parameters.keys() == b.parameters.keys()
    assert all(np.array_equal(a.parameters[name], b.parameters[name]) for name in a.parameters)


# ---- models ----


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_vit_is_the_plain_one(channels: int, size: int) -> None:
    torch.manual_seed(0)
    fast = ViT(channels=channels, size=size, classes=10, **SHAPE, dropout=0.0, embedding_dropout=0.0).double()
    slow = plain.PlainViT(channels, size, 10, **SHAPE).double()
    plain.copy_weights(fast, slow)
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    labels = torch.tensor([1, 2, 3])
    (logits, rows), (expected, expected_rows) = fast(images, with_attention=True), slow(images)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(rows, expected_rows, rtol=1e-10, atol=1e-12)
    assert torch.equal(rows[..., 0], torch.zeros_like(rows[..., 0]))  # no token attends to itself
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))
    for found in (logits, expected):
        torch.nn.functional.cross_entropy(found, labels).backward()
    for name in ("class_token", "positions"):
        torch.testing.assert_close(getattr(fast, name).grad, getattr(slow, name).grad, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(fast.attentions, slow.attentions, strict=True):
        torch.testing.assert_close(mine.log_temperature.grad, theirs.log_temperature.grad, rtol=1e-9, atol=1e-12)
        kinds = (theirs.queries, theirs.keys, theirs.values)
        gradients = torch.cat([head.weight.grad for kind in kinds for head in kind])
        torch.testing.assert_close(mine.query_key_value.weight.grad, gradients, rtol=1e-9, atol=1e-12)


def test_vit_starts_as_specified() -> None:
    model = ViT(channels=1, size=28, classes=10, **SHAPE, dropout=0.0, embedding_dropout=0.0)
    assert model.positions.shape == (1, 50, 16)
    for attention in model.attentions:
        assert attention.log_temperature.exp().item() == pytest.approx(5**-0.5)


def test_an_encoder_that_is_nowhere(tmp_path: Path) -> None:
    e = experiment("language", dataset="multinli", encoder=str(tmp_path / "none"))
    with pytest.raises(UserError, match="encoder: expected bert-base-uncased, or a folder"):
        encoder_folder(e, e.settings.encoder)


# ---- training ----


@pytest.mark.parametrize("rule", list(OPTIMIZERS))
def test_what_a_run_records(rule: str) -> None:
    found = run(experiment(), rule, seeds=(0, 1))
    assert found.trace["train_loss"].values.shape == (2, 6)  # 60 examples in batches of 25, 25 and 10; two epochs
    assert found.trace["test_accuracy"].steps.tolist() == [0, 1, 2]
    assert found.trace["batches_per_epoch"].values.tolist() == [[3.0], [3.0]]
    assert np.isfinite(found.trace["attention"].values).all()
    assert "diverged_at" not in found.trace
    size, norm = (found.trace[name].values for name in ("step_size", "gradient_norm"))
    if rule == "sngd":
        np.testing.assert_allclose(size, np.minimum(0.01 / norm, 0.1), rtol=1e-4)
    elif rule == "sps":
        loss = found.trace["train_loss"].values
        np.testing.assert_allclose(size, np.minimum(loss / (0.5 * norm**2 + 1e-8), 0.1), rtol=1e-4)
    else:
        np.testing.assert_allclose(size, OPTIMIZERS[rule]["lr"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["vision", "language"])
def test_seeds_do_not_depend_on_their_block(kind: str) -> None:
    e = experiment(kind)
    together, alone = run(e, "adam", seeds=(0, 1)), run(e, "adam", seeds=(1,))
    for metric in (*recorded.ITERATION_METRICS, *recorded.EPOCH_METRICS):
        assert np.array_equal(together.trace[metric].values[1:], alone.trace[metric].values)
    assert all(np.array_equal(together.parameters[n][1:], alone.parameters[n]) for n in alone.parameters)


def test_optimizers_share_start_and_batches() -> None:
    e = experiment(dropout=0.0, embedding_dropout=0.0)
    found = [run(e, rule) for rule in OPTIMIZERS]
    assert len({float(f.trace["test_loss"].values[0, 0]) for f in found}) == 1
    assert len({float(f.trace["train_loss"].values[0, 0]) for f in found}) == 1


@pytest.mark.parametrize("kind", ["vision", "language"])
def test_bfloat16_leaves_weights_and_steps_in_float32(kind: str) -> None:
    exact, rounded = (run(experiment(kind, precision=p), "sngd") for p in ("float32", "bfloat16"))
    assert {array.dtype for array in rounded.parameters.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(exact.trace["train_loss"].values, rounded.trace["train_loss"].values, rtol=0.02)
    assert not np.array_equal(exact.trace["train_loss"].values, rounded.trace["train_loss"].values)


@pytest.mark.slow
def test_a_diverging_run_is_recorded_and_drawn() -> None:
    e = experiment(optimizers={**OPTIMIZERS, "sgd": {"lr": 1e30}})
    data = {seed: generate(e, e.seed(seed)) for seed in (0, 1)}
    runs = {rule: train(e, e.optimizers[rule], data, Job()) for rule in OPTIMIZERS}
    at = runs["sgd"].trace["diverged_at"].values
    assert np.isfinite(at).all()
    loss = runs["sgd"].trace["train_loss"]
    assert np.isnan(loss.values[:, loss.steps >= at.max()]).all()
    metrics = Metrics({"vit_mnist": measure(e, data, runs)})
    drawing = figures.FIGURES["fig6"](metrics, rename(e, "vit_mnist"))
    assert (drawing.table["series"][drawing.table["part"] == "lost"] == "sgd").sum() == 2
    assert np.isnan(claims.CLAIMS["ib.fig6.leaves_chance"](metrics, {})).all()


def rename(e: Experiment, name: str) -> Experiment:
    return e.model_copy(update={"name": name})


def test_a_user_s_own_optimizer_is_drawn_too() -> None:
    e = experiment(optimizers={"sgd": {"lr": 0.1}, "mine": {"rule": "ngd", "lr": 0.01}})
    data = {0: generate(e, e.seed(0))}
    runs = {rule: train(e, e.optimizers[rule], data, Job()) for rule in e.optimizers}
    metrics = Metrics({"vit_mnist": measure(e, data, runs)})
    drawing = figures.FIGURES["fig6"](metrics, rename(e, "vit_mnist"))
    assert {"sgd", "mine"} <= set(drawing.table["series"])


# ---- checkpoints ----


class StopError(Exception):
    pass


def stops_after(steps: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let every training stop after some steps; what is given back may be set to how many more it may do."""
    step, left = training._Training._step, [steps]

    def interrupted(self: Any, index: torch.Tensor) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StopError
        step(self, index)

    patch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    patch.setattr(training._Training, "_step", interrupted)
    return left


@cache
def uninterrupted(kind: str, rule: str) -> tuple[Experiment, Any]:
    return experiment(kind), run(experiment(kind), rule, seeds=(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rule", "stop"),
    [
        *(("vision", "adam", stop) for stop in (2, 5, 8)),
        *(("vision", rule, 5) for rule in OPTIMIZERS if rule != "adam"),
        ("language", "adam", 8),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rule: str, stop: int
) -> None:
    """Stopped in the middle of an epoch, at its end, and in the second seed; dropout draws from the restored state."""
    e, whole = uninterrupted(kind, rule)
    job, left = Job(checkpoint=tmp_path / "0-1.checkpoint"), stops_after(stop, monkeypatch)
    with pytest.raises(StopError):
        run(e, rule, seeds=(0, 1), job=job)
    assert job.checkpoint is not None
    assert job.checkpoint.is_file()
    left[0] = 12 - stop  # not one step more than were missing
    same(run(e, rule, seeds=(0, 1), job=job), whole)


def handed(folder: Path, kind: str, settings: dict[str, Any]) -> list[str]:
    """What a stage is told of a net trained by Adam."""
    section = {"kind": kind, "settings": settings, "optimizers": {"adam": {"lr": 0.01}}}
    (folder / "plan.json").write_text(json.dumps({"experiments": {"x": section}}))
    return ["--paper", "ib", "--experiment", "x", "--plan", str(folder / "plan.json")]


# A stage that is killed in its fifth step.
KILLED = """
import os, signal, sys
from workflow.lib import cli
from workflow.lib.papers.ib.deep import training

step, left = training._Training._step, [4]

def killed(self, index):
    left[0] -= 1
    if left[0] < 0:
        assert "transformers" not in sys.modules
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, index)

training._Training._step = killed
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_job_goes_on_to_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL in the middle; the next run of the same command ends with the bytes of one that was left alone.

    Stacked BERTs train without transformers, which takes longer to import than a small run takes.
    """
    common = handed(tmp_path, "language", {**LANGUAGE, "dropout": 0.0})
    assert main(["generate", *common, "--seeds", "0-1", "--data", str(tmp_path / "data.npz")]) == 0

    def command(name: str) -> list[str]:
        out = ["--trace", str(tmp_path / f"{name}.parquet"), "--parameters", str(tmp_path / f"{name}.safetensors")]
        return ["train", *common, "--optimizer", "adam", "--seeds", "0-1", "--data", str(tmp_path / "data.npz"), *out]

    assert main(command("whole")) == 0
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command("cut")], env=environment(ROOT), stderr=subprocess.PIPE, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "cut.checkpoint").exists()
    assert not (tmp_path / "cut.parquet").exists()
    assert main(command("cut")) == 0
    assert "going on from the checkpoint" in capsys.readouterr().err
    for kind_of_file in ("parquet", "safetensors"):
        assert (tmp_path / f"cut.{kind_of_file}").read_bytes() == (tmp_path / f"whole.{kind_of_file}").read_bytes()
    assert not (tmp_path / "cut.checkpoint").exists()


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(checkpoint=tmp_path / "x.checkpoint")
    run(experiment(mlp=9), "sgd", job=job)
    same(run(experiment(), "sgd", job=job), run(experiment(), "sgd"))
    assert "of other settings, data or code; beginning anew" in capsys.readouterr().err


# ---- bad input ----


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("vision", {"dataset": "imagenet"}, "dataset"),
        ("vision", {"batch_size": 100}, r"batch_size: expected at most train_examples \(60\), found 100"),
        ("vision", {"batch_size": 0}, "batch_size"),
        ("vision", {"patch": 5}, "patch: expected a divisor of the image size 28, found 5"),
        ("vision", {"train_examples": None}, "expected numbers for 'mnist_5k'"),
        ("vision", {"train_examples": 4990}, "mnist_5k has 5,000 digits"),
        ("vision", {"precision": "float16"}, "precision"),
        ("vision", {"dropout": 1.5}, "dropout"),
        ("vision", {"epoch": 3}, "Did you mean 'epochs'"),
        ("language", {"max_length": 4}, "max_length: expected at least 8 tokens"),
        ("language", {"encoder": "bert-base-uncased"}, "encoder"),
        ("language", {"dataset": "multinli"}, "encoder"),
        ("language", {"encoder": {**LANGUAGE["encoder"], "heads": 3}}, "divisor of hidden"),
    ],
)
def test_bad_settings_are_refused_by_name(kind: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        experiment(kind, **changes)


def test_a_batch_larger_than_a_real_set() -> None:
    """The settings cannot know how large a whole real set is."""
    e = experiment()
    arrays = {name: array[:10] for name, array in generate(e, e.seed(0)).items()}
    with pytest.raises(UserError, match="batch_size: expected at most the 10 training examples, found 25"):
        train(e, e.optimizers["sgd"], {0: arrays}, Job())


def test_out_of_memory_is_one_line_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(checkpoint=tmp_path / "x.checkpoint")
    step, left = training._Training._step, [4]

    def starved(self: Any, index: torch.Tensor) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        step(self, index)

    monkeypatch.setattr(training._Training, "_step", starved)
    with pytest.raises(UserError, match=r"out of memory on the device cpu with batch_size 25 .*goes on"):
        run(experiment(), "sgd", job=job)
    assert (tmp_path / "x.checkpoint").is_file()
    left[0] = 100
    resumed = run(experiment(), "sgd", job=job)
    monkeypatch.undo()
    same(resumed, run(experiment(), "sgd"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(UserError, match="torch finds no GPU"):
        run(experiment(), "sgd", job=Job(device="cuda"))
    assert devices.choose("auto").type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_like_the_cpu() -> None:
    e = experiment(dropout=0.0, embedding_dropout=0.0)
    cpu, gpu = run(e, "sngd"), run(e, "sngd", job=Job(device="cuda"))
    np.testing.assert_allclose(cpu.trace["train_loss"].values, gpu.trace["train_loss"].values, rtol=1e-3)


# ---- metrics, claims, scales ----


def test_trailing_mean() -> None:
    curve = Curve((0,), np.arange(1, 8), np.array([[1.0, 2, 3, 4, np.nan, 6, 7]]))
    found = trailing_mean(curve, 2, 100)
    assert found.steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(found.values, [[1.0, 1.5, 2.5, 3.5, np.nan, np.nan, 6.5]])
    assert trailing_mean(curve, 2, 3).steps.tolist() == [1, 3, 7]
    np.testing.assert_array_equal(trailing_mean(curve, 100, 3).values, [[1.0, 2.0, np.nan]])


def language_metrics(sgd: float, sngd: float, sps: float) -> Metrics:
    traces = {}
    for label, last in (("sgd", sgd), ("sngd", sngd), ("sps", sps)):
        traces[label] = Trace((0, 1))
        traces[label].record("train_loss", [1, 2], [[3.0, last], [3.0, last]])
        if math.isnan(last):
            traces[label].record("diverged_at", 0, [2.0, math.nan])
    return Metrics({"bert_mnli": traces})


@pytest.mark.parametrize(
    ("losses", "measured"),
    [
        ((1.0, 0.5, 2.0), -0.5),
        ((1.0, 3.0, 2.0), 1.0),
        ((1.0, math.nan, 0.75), -0.25),
        ((math.nan, 2.0, 1.0), -math.inf),
    ],
)
def test_lang_faster(losses: tuple[float, float, float], measured: float) -> None:
    assert claims.CLAIMS["ib.fig1.lang_faster"](language_metrics(*losses), {}) == measured


def test_lang_faster_when_both_diverged() -> None:
    assert math.isnan(claims.CLAIMS["ib.fig1.lang_faster"](language_metrics(1.0, math.nan, math.nan), {}))


# What the YAML must say, word by word; the claims `row` hold the runs themselves against the paper's row.
SHAPES = {"patch": 4, "depth": 2, "heads": 8, "mlp": 128}


@pytest.mark.parametrize("overlay", [None, "paper.yaml"])
@pytest.mark.parametrize("figure", list(claims.FIGURES))
def test_both_scales_use_the_literal_row(overlay: str | None, figure: str) -> None:
    e, row = paper(overlay).experiment(claims.FIGURES[figure]), claims.ROWS[figure]
    expected = {"batch_size": row["batch_size"], "sngd.eta_max": row["eta_max"], "sps.eta_max": row["eta_max"]}
    expected |= {f"{rule}.lr": row[rule] for rule in ("sgd", "sngd", "adam")}
    expected |= SHAPES if e.kind == "vision" else {}
    given = dict(e.sourced())
    assert {key: given[key].value for key in expected} == expected
    assert {given[key].source for key in expected} == {"paper"}
    assert all(e.optimizers[label].rule == label for label in claims.COMPARED)


def test_paper_scale_is_whole_and_asks_for_a_gpu() -> None:
    full = paper("paper.yaml")
    for name in claims.FIGURES.values():
        settings = full.experiment(name).settings
        assert settings.needs().gpu == 1
        assert settings.needs().mem_mb > 10_000
        assert settings.train_examples is settings.test_examples is None
        assert settings.dataset in settings.downloads()
        assert all(setting.source != "user" for _, setting in full.experiment(name).sourced())


def test_laptop_scale_downloads_nothing() -> None:
    for name in claims.FIGURES.values():
        e = paper().experiment(name)
        assert e.settings.downloads() == ()
        assert e.seeds >= 3


REAL = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data, with the real files, is not here")
@pytest.mark.slow
def test_the_stages_on_real_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the official files to a finished run, through the commands that the rules call."""
    settings = {**VISION, "dataset": "mnist", "train_examples": None, "test_examples": None, "patch": 14, "dim": 4}
    settings |= {"batch_size": 500, "epochs": 1, "heads": 1, "dropout": 0.0, "embedding_dropout": 0.0}
    manifest, data = tmp_path / "mnist.json", tmp_path / "data.npz"
    assert main(["fetch", "--dataset", "mnist", "--folder", str(tmp_path / "mnist"), "--data-dir", str(REAL)]) == 0
    common = [*handed(tmp_path, "vision", settings), "--datasets", str(manifest)]
    assert main(["generate", *common, "--seeds", "0-1", "--data", str(data)]) == 0
    assert 50e6 < data.stat().st_size < 60e6  # both seeds share the one copy of 55 MB
    common[:-2] = handed(tmp_path, "vision", {**settings, "train_examples": 1000, "test_examples": 500})
    assert main(["generate", *common, "--seeds", "0-1", "--data", str(data)]) == 0
    out = ["--trace", str(tmp_path / "x.parquet"), "--parameters", str(tmp_path / "x.safetensors")]
    assert main(["train", *common, "--optimizer", "adam", "--seeds", "0-1", "--data", str(data), *out]) == 0
    assert "step" in capsys.readouterr().err  # the progress bar
    assert main(["generate", *common[:-2], "--seeds", "0", "--data", str(data)]) == 1
    assert "needs the manifest of the data set 'mnist'" in capsys.readouterr().err
