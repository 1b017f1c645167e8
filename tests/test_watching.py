"""What is seen of a training while it runs: the bar, and events for TensorBoard that change nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.papers.ib.deep.test_pretraining import texts
from tests.papers.ib.deep.test_stacked import STACKED
from tests.papers.ib.deep.test_training import StopError, experiment, run, same, stops_after
from workflow.lib import watching
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.papers.ib.deep import unfinished
from workflow.lib.tables import write_traces


def events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of every scalar, in the order of writing."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the record, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


@pytest.mark.parametrize("kind", ["vision", "language"])
def test_events_are_what_the_run_records_and_change_nothing(tmp_path: Path, kind: str) -> None:
    e = experiment(kind, **STACKED[kind])
    watched = run(e, "adam", seeds=(0, 2), job=Job(events=tmp_path / "events"))
    same(watched, run(e, "adam", seeds=(0, 2)))
    found = list(events(tmp_path / "events"))
    by_step = {(tag, step): value for tag, step, value in found}
    assert len(by_step) == len(found)
    for row, seed in enumerate((0, 2)):
        loss, accuracy = (watched.trace[name].values[row] for name in ("train_loss", "test_accuracy"))
        assert by_step[f"train_loss/seed_{seed}", 1] == pytest.approx(loss[0])
        assert [by_step[f"test_accuracy/seed_{seed}", step] for step in (0, 3, 6)] == pytest.approx(accuracy)


def test_masked_words_are_watched_too(tmp_path: Path) -> None:
    found = run(texts(), "before", job=Job(events=tmp_path))
    (first,) = events(tmp_path)
    assert first == ("masked_loss/seed_0", 1, pytest.approx(found.trace["masked_loss"].values[0, 0]))


def test_a_training_anew_replaces_its_events_and_nothing_else(tmp_path: Path) -> None:
    """`--events` by hand may name any folder, the one that it is called from among them."""
    other = tmp_path / "notes"
    other.write_text("mine")
    for _ in range(2):
        run(experiment(**STACKED["vision"]), "sgd", job=Job(events=tmp_path))
    assert other.read_text() == "mine"
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_large_nets_have_a_folder_for_each_seed(tmp_path: Path) -> None:
    run(experiment(), "sgd", seeds=(0, 1), job=Job(events=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed 0", "seed 1"]


def test_a_run_that_goes_on_adds_to_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e, job = experiment(**STACKED["vision"]), Job(checkpoint=tmp_path / "x", events=tmp_path / "events")
    with monkeypatch.context() as patch:
        stops_after(4, patch)
        with pytest.raises(StopError):
            run(e, "sgd", job=job)
    run(e, "sgd", job=job)
    steps = [step for tag, step, _ in events(tmp_path / "events") if tag.startswith("test_accuracy")]
    assert steps == [0, 3, 6]
    (tmp_path / "x").unlink()
    run(e, "sgd", job=job)  # anew: nothing of before is left
    assert [step for tag, step, _ in events(tmp_path / "events") if tag.startswith("test_accuracy")] == [0, 3, 6]


def test_the_bar_tells_loss_and_device_from_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with watching.Watch("a net", 10, 0, "cpu", (0, 1), None) as watch:
        watch._bar.mininterval = 0
        watch.stepped("loss", {"loss": np.array([1.0, 3.0])})
        first = capsys.readouterr().err
        watch.stepped("loss", {"loss": np.array([4.0, 4.0])})
    assert "a net" in first
    assert "1/10" in first
    assert "loss 2, cpu" in first
    assert "<" in first  # the time that is left


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watching, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard: expected the package tensorboardX.*pip install"):
        run(experiment(), "sgd", job=Job(events=tmp_path / "events"))


def test_runs_that_still_train_are_drawn_as_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = experiment(**STACKED["vision"])
    whole = run(e, "sgd", seeds=(0, 1))
    for label, steps in (("sgd", 4), ("mine", 0)):
        (tmp_path / label).mkdir()
        with monkeypatch.context() as patch:
            stops_after(steps, patch)
            with pytest.raises(StopError):
                run(e, "sgd", seeds=(0, 1), job=Job(checkpoint=tmp_path / label / "0-1.checkpoint"))
    (begun,) = unfinished.read(tmp_path)  # the other one has no checkpoint yet
    assert (begun.label, begun.done, begun.steps) == ("sgd", 4, 6)
    np.testing.assert_array_equal(begun.loss.values, whole.trace["train_loss"].values[:, :4])
    np.testing.assert_array_equal(begun.accuracy.values, whole.trace["test_accuracy"].values[:, :2])
    write_traces(tmp_path / "mine" / "0-1.parquet", "ib", "x", {"mine": whole.trace})
    drawing = unfinished.draw(unfinished.read(tmp_path), "x")
    (legend,) = drawing.figure.legends
    assert legend.get_title().get_text() == "x: NOT FINISHED, 1 of 2 still train"
    assert {text.get_text() for text in legend.get_texts()} == {"SGD, 4 of 6 steps", "mine, 6 of 6 steps"}
    (tmp_path / "sgd" / "0-1.checkpoint").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"0-1\.checkpoint: this checkpoint is cut short"):
        unfinished.read(tmp_path)


def test_a_folder_where_nothing_has_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run of a deep net has begun here"):
        unfinished.read(tmp_path)
