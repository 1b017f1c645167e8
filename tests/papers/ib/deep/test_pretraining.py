"""Runs that start from masked words; checkpoints that no longer fit; a loss that is lost at once."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.papers.ib.deep.test_training import (
    LANGUAGE,
    OPTIMIZERS,
    StopError,
    experiment,
    rename,
    run,
    same,
    stops_after,
)
from workflow.lib import stages
from workflow.lib.contract import Job
from workflow.lib.errors import UserError, from_os_error
from workflow.lib.papers.ib.deep import checkpoint, claims, engines, figures, pretraining, training
from workflow.lib.papers.ib.deep.data import generate, unlabelled
from workflow.lib.papers.ib.deep.metrics import measure
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import Metrics
from workflow.lib.tables import read_traces

MASKED = {"rule": "adam", "lr": 0.01, "masked": 0.3, "texts": 200, "steps": 12, "warm_up": 4}
TUNED = {label: {**given, "start_from": "before"} for label, given in OPTIMIZERS.items()}
STACKED_VIT: dict[str, Any] = {"pixels": 8, "patch": 4, "dropout": 0.0, "embedding_dropout": 0.0}


def texts(before: Any = MASKED, tuned: Any = TUNED, **changes: Any) -> Experiment:
    return experiment("language", optimizers={**tuned, "before": before}, dropout=0.0, **changes)


def test_one_net_for_all_seeds_and_blocks() -> None:
    e = texts()
    together, alone = run(e, "before", seeds=(0, 1)), run(e, "before", seeds=(5,))
    loss = together.trace["masked_loss"].values
    assert loss.shape == (2, 12)
    assert np.array_equal(loss[:1], alone.trace["masked_loss"].values)
    assert np.array_equal(loss[0], loss[1])
    assert loss[0, -3:].mean() < loss[0, :3].mean()
    for name, array in together.parameters.items():
        assert np.array_equal(array[1], alone.parameters[name][0])
    assert not np.array_equal(loss[0], run(e.model_copy(update={"stream": 1}), "before").trace["masked_loss"].values[0])


def test_texts_before_are_not_those_after() -> None:
    e = texts()
    before, after = unlabelled(e.settings, e.seed(0), 60), generate(e, e.seed(0))
    width = min(before["ids"].shape[1], after["train_ids"].shape[1])
    assert not np.array_equal(before["ids"][:, :width], after["train_ids"][:, :width])
    assert before["vocabulary"] == after["vocabulary"]


def test_what_is_fine_tuned_is_what_was_trained_before() -> None:
    e = texts()
    start = run(e, "before", seeds=(0, 1)).parameters
    data = generate(e, e.seed(1))
    own = {name: array[1] for name, array in start.items()}
    with_start, without = (
        engines.first_model(e, engines.First(e.seed(1), data, given)).bert.state_dict() for given in (own, None)
    )
    for name, tensor in with_start.items():
        part = name.removeprefix("bert.")
        new = "pooler" in name or name.startswith("classifier")
        assert torch.equal(tensor, without[name] if new else torch.from_numpy(own[part])), name
    found = run(e, "sgd", seeds=(0, 1), job=Job(start=start))
    assert not np.array_equal(found.trace["train_loss"].values, run(e, "sgd", seeds=(0, 1)).trace["train_loss"].values)


def test_an_interrupted_pretraining_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SAVED_EVERY", 5)
    e, job, left = texts(), Job(checkpoint=tmp_path / "x.checkpoint"), [7]
    whole, step = run(e, "before"), pretraining.Pretraining._step

    def interrupted(self: Any, number: int) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise StopError
        return step(self, number)

    monkeypatch.setattr(pretraining.Pretraining, "_step", interrupted)
    with pytest.raises(StopError):
        run(e, "before", job=job)
    left[0] = 7  # from step 5 on
    again = run(e, "before", job=job)
    assert np.array_equal(again.trace["masked_loss"].values, whole.trace["masked_loss"].values)
    assert all(np.array_equal(again.parameters[n], whole.parameters[n]) for n in whole.parameters)


@pytest.mark.slow
def test_the_start_is_no_rival_in_pictures() -> None:
    e = texts()
    data = {seed: generate(e, e.seed(seed)) for seed in (0, 1)}
    start = training.train(e, e.optimizers["before"], data, Job())
    runs = {label: training.train(e, e.optimizers[label], data, Job(start=start.parameters)) for label in TUNED}
    metrics = Metrics({"bert_mnli": measure(e, data, {"before": start, **runs})})
    drawing = figures.FIGURES["fig1"](metrics, rename(e, "bert_mnli"))
    series = set(drawing.table["series"])
    assert {"sgd", "sngd", "sps", "adam"} <= series
    assert "before" not in series
    assert drawing.facts["masked"]["steps"] == 12
    assert "then fine-tuned" in str(drawing.facts["model"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"before": {"rule": "adam", "lr": 0.01, "masked": 0.3}},
            "masked, texts, steps, warm_up: expected all of them",
        ),
        ({"before": {**MASKED, "masked": 1.5}}, "before.masked"),
        ({"before": {**MASKED, "warm_up": 13}}, "warm_up: expected at most steps = 12, found 13"),
        ({"before": {"rule": "adam", "lr": 0.01}}, "start_from: expected an entry with `masked`; 'before' learns"),
        (
            {"tuned": {"sgd": {**MASKED, "rule": "sgd", "start_from": "before"}}},
            "sgd.start_from: a run with `masked` starts on its own",
        ),
        ({"dataset": "multinli", "encoder": "bert-base-uncased"}, "masked: expected an encoder given by its sizes"),
    ],
)
def test_bad_starts_are_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        texts(**changes)


def test_a_rule_without_a_rate_is_refused() -> None:
    e = texts()
    without = e.optimizers["before"].model_copy(update={"hyperparameters": {}})
    with pytest.raises(UserError, match="masked: expected a rule with `lr`, which rises and falls; found 'adam'"):
        e.settings.route(without)


def test_images_have_no_masked_words() -> None:
    with pytest.raises(UserError, match="unknown hyper-parameter 'masked'"):
        experiment("vision", optimizers={"before": MASKED})


# ---- checkpoints that do not fit, or cannot be written ----


def begun(path: Path, monkeypatch: pytest.MonkeyPatch, e: Experiment, **job: Any) -> None:
    """A run that was stopped at its third step, with a checkpoint after each."""
    with monkeypatch.context() as patch:
        stops_after(3, patch)
        with pytest.raises(StopError):
            run(e, "sgd", job=Job(checkpoint=path, **job))


def test_another_start_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    e, path = texts(), tmp_path / "x.checkpoint"
    start = run(e, "before").parameters
    other = {name: 2 * array for name, array in start.items()}
    begun(path, monkeypatch, e, start=start)
    same(run(e, "sgd", job=Job(checkpoint=path, start=other)), run(e, "sgd", job=Job(start=other)))
    assert "of other settings, data or code; beginning anew" in capsys.readouterr().err
    begun(path, monkeypatch, e, start=start)
    same(run(e, "sgd", job=Job(checkpoint=path, start=start)), run(e, "sgd", job=Job(start=start)))
    assert "going on from the checkpoint" in capsys.readouterr().err


def test_edited_code_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed half-way, then a file of the model is edited: nothing of the old code's numbers is kept."""
    e, path, code = experiment(), tmp_path / "x.checkpoint", tmp_path / "vit.py"
    known = checkpoint.sources.modules
    assert any(found.name == "vit.py" for found in known("workflow.lib.papers.ib.deep.training"))
    monkeypatch.setattr(
        checkpoint.sources, "modules", lambda *roots: [code if f.name == "vit.py" else f for f in known(*roots)]
    )
    code.write_text("old")
    begun(path, monkeypatch, e)
    code.write_text("new")
    same(run(e, "sgd", job=Job(checkpoint=path)), run(e, "sgd"))
    assert "of other settings, data or code; beginning anew" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: float
) -> None:
    e, path = experiment(), tmp_path / "x.checkpoint"
    begun(path, monkeypatch, e)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    same(run(e, "sgd", job=Job(checkpoint=path)), run(e, "sgd"))
    told = capsys.readouterr().err
    assert re.search(r"x\.checkpoint: was cut short .* It is \S*x\.checkpoint\.broken now; beginning anew\n", told)
    assert "weights_only" not in told
    assert Path(f"{path}.broken").stat().st_size == int(kept * len(whole))


def test_a_full_disk_during_a_checkpoint_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e, path = experiment(), tmp_path / "x.checkpoint"
    begun(path, monkeypatch, e)
    before = path.read_bytes()

    def full(self: Path, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as told:
            run(e, "sgd", job=Job(checkpoint=path))
    assert str(from_os_error(told.value)).startswith(f"{path}: No space left on device. Free some space")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["x.checkpoint"]
    same(run(e, "sgd", job=Job(checkpoint=path)), run(e, "sgd"))


def test_runs_of_one_job_keep_a_checkpoint_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in its second run, a job does not train the first one again."""
    e = experiment(**STACKED_VIT)
    e = e.model_copy(update={"together": {"both": ("sgd", "adam")}})
    data, trace, parameters = (tmp_path / name for name in ("0.npz", "0.parquet", "0.safetensors"))
    stages.generate(e, [0], data)
    with monkeypatch.context() as patch:
        stops_after(6 + 4, patch)
        with pytest.raises(StopError):
            stages.train(e, "both", [0], data, trace, parameters)
    assert {path.name for path in tmp_path.glob("*.checkpoint")} == {"0.sgd.checkpoint", "0.adam.checkpoint"}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stops_after(2, patch)  # no more than are missing
        stages.train(e, "both", [0], data, trace, parameters)
    assert "of other settings" not in capsys.readouterr().err
    assert not list(tmp_path.glob("*.checkpoint"))
    found = read_traces(trace)
    for label in ("sgd", "adam"):
        np.testing.assert_allclose(
            found[label]["train_loss"].values, run(e, label).trace["train_loss"].values, rtol=1e-12
        )


# ---- a loss that is lost at once ----


@pytest.mark.parametrize("settings", [{}, STACKED_VIT])
def test_divergence_in_the_first_step_is_a_picture(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    e = experiment(**settings)
    kind = engines.StackOfViTs if settings else engines.Single
    losses = kind.losses
    monkeypatch.setattr(kind, "losses", lambda self, index: losses(self, index) * torch.nan)
    data = {seed: generate(e, e.seed(seed)) for seed in (0, 1)}
    runs = {rule: training.train(e, e.optimizers[rule], data, Job()) for rule in OPTIMIZERS}
    said = capsys.readouterr().err
    assert said.count("seed 0 diverged: no loss at iteration 1") == len(OPTIMIZERS)
    assert (runs["sgd"].trace["diverged_at"].values == 1).all()
    metrics = Metrics({"vit_mnist": measure(e, data, runs)})
    drawing = figures.FIGURES["fig6"](metrics, rename(e, "vit_mnist"))
    assert (drawing.table["series"][drawing.table["part"] == "lost"] == "sgd").sum() == 2
    assert np.isnan(claims.CLAIMS["ib.fig6.leaves_chance"](metrics, {})).all()


def test_sizes_that_do_not_fit_are_told() -> None:
    e = texts()
    wider = texts(encoder={**LANGUAGE["encoder"], "hidden": 10})
    start = run(wider, "before").parameters
    with pytest.raises(UserError, match=r"start_from: the pre-trained net does not fit: .*shape \(.*10\), expected"):
        run(e, "sgd", job=Job(start=start))
