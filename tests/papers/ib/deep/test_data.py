"""The data of the deep nets: official formats, stand-ins, tokens, and every kind of bad file."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from workflow.lib import datasets, rooms
from workflow.lib.datasets import Sentences, cifar10, mnist, mnist_5k
from workflow.lib.errors import UserError
from workflow.lib.files import read_arrays, write_arrays
from workflow.lib.papers.ib.deep import standins, texts
from workflow.lib.papers.ib.deep.data import generate

REAL = ROOT.parent / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data, with the real files, is not here")


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, labels: list[int] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 5)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(rng.integers(0, 256, (count, 28, 28))))
        found = np.arange(count) % 10 if labels is None or part == "t10k" else np.array(labels)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(found))
    return folder


def write_cifar(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        batch = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 3], **changes}
        (folder / name).write_bytes(pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=4))
    return folder


# ---- official formats ----


def test_mnist(tmp_path: Path) -> None:
    found = datasets.load("mnist", write_mnist(tmp_path))
    assert found.train.shape == (12, 1, 28, 28)
    assert found.test_labels.tolist() == [0, 1, 2, 3, 4]
    assert found.train[0, 0, 0, 0] == np.random.default_rng(0).integers(0, 256, (12, 28, 28)).astype(np.uint8)[0, 0, 0]


def test_cifar10(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "cifar-10-batches-py")
    for place in (folder, tmp_path):  # the folder itself, or what the archive was unpacked into
        found = datasets.load("cifar10", place)
        assert found.train.shape == (20, 3, 32, 32)
        assert found.train_labels.tolist() == [0, 1, 2, 3] * 5


def test_multinli_in_both_layouts(tmp_path: Path) -> None:
    pairs = [("A man walks.", "A man moves.", 0), ("A man walks.", "Nobody walks.", 2)]
    official = tmp_path / "official" / "multinli_1.0"
    official.mkdir(parents=True)
    names = ("entailment", "neutral", "contradiction")
    lines = [{"gold_label": names[y], "sentence1": p, "sentence2": h} for p, h, y in pairs]
    lines.append({"gold_label": "-", "sentence1": "x", "sentence2": "y"})
    for part in ("train", "dev_matched"):
        (official / f"multinli_1.0_{part}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    glue = tmp_path / "glue"
    glue.mkdir()
    for part in ("train", "validation_matched"):
        pd.DataFrame(pairs, columns=["premise", "hypothesis", "label"]).to_parquet(glue / f"{part}.parquet")
    for folder in (official.parent, glue):
        found = datasets.load("multinli", folder)
        assert found.train.first == ["A man walks."] * 2
        assert found.test.second == ["A man moves.", "Nobody walks."]
        assert found.train.labels.tolist() == [0, 2]


def test_civil_comments_in_both_layouts(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["kind", "rude", "so-so"], "toxicity": [0.0, 0.9, 0.5]})
    for part in ("train", "test"):
        table.to_parquet(tmp_path / f"{part}.parquet")
    wilds = tmp_path / "wilds"
    wilds.mkdir()
    rows = table.rename(columns={"text": "comment_text"})
    official = pd.concat([rows.assign(split=split) for split in ("train", "val", "test")])
    official.to_csv(wilds / "all_data_with_identities.csv")
    for folder in (tmp_path, wilds):
        found = datasets.load("civil_comments", folder)
        assert found.train.first == ["kind", "rude", "so-so"]
        assert found.test.labels.tolist() == [0, 1, 1]
        assert found.train.second is None


@real
def test_real_mnist() -> None:
    found = datasets.load("mnist", REAL / "mnist")
    assert found.train.shape == (60_000, 1, 28, 28)
    assert found.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert found.train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    manifest = datasets.fetch("mnist", Path("unused"), data_dir=REAL)
    assert manifest["files"] == {remote.file: remote.sha256 for remote in datasets.source("mnist").remotes}


@real
@pytest.mark.slow
def test_real_cifar10(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(REAL / "unpack.py"), str(tmp_path), "--only", "cifar10"], check=True, capture_output=True
    )
    found = datasets.load("cifar10", tmp_path / "cifar-10-batches-py")
    assert np.bincount(found.train_labels).tolist() == [5000] * 10
    assert np.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert found.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert found.train.mean((0, 2, 3)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


@real
def test_real_texts() -> None:
    pairs = datasets.load("multinli", REAL / "multinli")
    assert np.bincount(pairs.train.labels).tolist() == [995, 995, 1010]
    assert len(pairs.test.first) == len(pairs.test.second) == 9169
    comments = datasets.load("civil_comments", REAL / "civil_comments")
    assert comments.train.labels.mean() == pytest.approx(0.70, abs=0.01)


# ---- bad files ----


def test_missing_files(tmp_path: Path) -> None:
    for name in ("mnist", "cifar10", "multinli", "civil_comments", "bert-base-uncased"):
        with pytest.raises(UserError, match=r"is missing.*https://"):
            datasets.load(name, tmp_path)


@pytest.mark.parametrize("keep", [10, 700])
def test_a_cut_file(tmp_path: Path, keep: int) -> None:
    folder = write_mnist(tmp_path)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train-images.*cut short"):
        datasets.load("mnist", folder)


def test_a_file_of_another_format(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(UserError, match="is not an IDX file"):
        datasets.load("mnist", folder)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(gzip.decompress(idx(np.arange(5)))[:-1]))
    with pytest.raises(UserError, match="its header says 5"):
        mnist.read_idx(folder / "t10k-labels-idx1-ubyte.gz")


def test_a_label_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the label of example 3 is 10; expected 0 to 9"):
        datasets.load("mnist", write_mnist(tmp_path, labels=[0, 1, 2, 10, *range(8)]))
    with pytest.raises(UserError, match="the label of example 0 is -1"):
        datasets.load("cifar10", write_cifar(tmp_path / "c", labels=[-1, 0, 0, 0]))


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit"):
        datasets.load("mnist", write_mnist(tmp_path, labels=[1, 2]))
    with pytest.raises(UserError, match="expected"):
        datasets.load("cifar10", write_cifar(tmp_path / "c", labels=[1, 2]))


class Runs:
    """Its pickle runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "c")
    trace = tmp_path / "ran"
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Runs(trace)}, protocol=4))
    with pytest.raises(UserError, match=r"data_batch_3: refused: it asks to call (posix|nt|os).system"):
        datasets.load("cifar10", folder)
    assert not trace.exists()


@pytest.mark.parametrize("payload", [b"", b"\x80\x02}q", b"hello", pickle.dumps([1, 2])])
def test_a_damaged_pickle(tmp_path: Path, payload: bytes) -> None:
    folder = write_cifar(tmp_path)
    (folder / "data_batch_1").write_bytes(payload)
    with pytest.raises(UserError, match="data_batch_1"):
        cifar10.load(folder)


@pytest.mark.parametrize("text", ["", "   ", None])
def test_an_empty_text(tmp_path: Path, text: str | None) -> None:
    for part in ("train", "validation_matched"):
        rows = {"premise": ["a", "b"], "hypothesis": ["c", text], "label": [0, 1]}
        pd.DataFrame(rows).to_parquet(tmp_path / f"{part}.parquet")
    with pytest.raises(UserError, match="the text of example 1 is empty"):
        datasets.load("multinli", tmp_path)


def test_a_bad_line_and_a_bad_score(tmp_path: Path) -> None:
    for part in ("train", "dev_matched"):
        (tmp_path / f"multinli_1.0_{part}.jsonl").write_text(
            '{"gold_label": "maybe", "sentence1": "a", "sentence2": "b"}'
        )
    with pytest.raises(UserError, match="line 1 is not a labelled pair"):
        datasets.load("multinli", tmp_path)
    for part in ("train", "test"):
        pd.DataFrame({"text": ["a", "b"], "toxicity": [0.1, 7.0]}).to_parquet(tmp_path / f"{part}.parquet")
    with pytest.raises(UserError, match=r"the toxicity of example 1 is 7.0"):
        datasets.load("civil_comments", tmp_path)


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_bytes(b"PAR1" + b"\0" * 20)
    with pytest.raises(UserError, match="cannot be read"):
        datasets.load("civil_comments", tmp_path)


# ---- laptop scale ----


def test_the_packaged_digits() -> None:
    images, labels = mnist_5k.load()
    assert images.shape == (5000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    assert images.max() == 255


@pytest.mark.parametrize("name", ["vit_mnist", "vit_cifar10", "bert_mnli", "bert_civil_comments"])
def test_data_are_a_function_of_the_seed(name: str) -> None:
    experiment = rooms.load_paper("ib").experiment(name)
    first, again, other = (generate(experiment, experiment.seed(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    key = "train_images" if "train_images" in first else "train_ids"
    assert not np.array_equal(first[key], other[key])
    assert len(first["train_labels"]) == experiment.settings.train_examples
    assert len(first["test_labels"]) == experiment.settings.test_examples
    assert set(np.unique(first["train_labels"])) == set(range(experiment.settings.classes))


def test_packaged_digits_are_split_without_overlap() -> None:
    experiment = rooms.load_paper("ib").experiment("vit_mnist")
    whole = experiment.settings.model_copy(update={"train_examples": 4500, "test_examples": 500})
    found = generate(experiment.model_copy(update={"settings": whole}), experiment.seed(0))
    assert np.bincount(np.concatenate([found["train_labels"], found["test_labels"]])).tolist() == [500] * 10


def nearest_mean(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    means = np.stack([train[labels == k].mean(0) for k in range(labels.max() + 1)])
    return np.argmin(((test[:, None] - means) ** 2).sum(-1), axis=1)


@pytest.mark.slow
def test_the_image_standin_is_no_matter_of_mean_pictures() -> None:
    """A rule that knows only the mean picture of each class stays far below what the ViT learns."""
    images, labels = standins.images(np.random.default_rng(0), 1500)
    assert images.shape == (1500, 3, 32, 32)
    assert images.dtype == labels.dtype == np.uint8
    flat = images.reshape(1500, -1).astype(np.float32)
    right = nearest_mean(flat[:1000], labels[:1000], flat[1000:]) == labels[1000:]
    assert right.mean() < 0.5


def test_the_text_standins_are_no_matter_of_single_words() -> None:
    pairs = standins.premises(np.random.default_rng(0), 3000)
    assert np.bincount(pairs.labels).min() > 800
    comments = standins.comments(np.random.default_rng(0), 3000)
    assert 0.45 < comments.labels.mean() < 0.55
    for words in ("stupid", "liar"):
        holds = np.array([words in text.split() for text in comments.first])
        assert 0.2 < comments.labels[holds].mean() < 0.85  # rude words stand in harmless comments too


def test_tokens_by_words() -> None:
    pairs = Sentences(["a b", "c"], ["b", "a b c d"], np.zeros(2, np.uint8))
    words = texts.vocabulary("abcd")
    assert words == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "b": 6, "c": 7, "d": 8}
    tokens = texts.by_words(pairs, {k: v for k, v in words.items() if k != "d"}, max_length=7)
    assert tokens.ids.tolist() == [[2, 5, 6, 3, 6, 3, 0], [2, 7, 3, 5, 6, 7, 1]]
    assert tokens.segments.tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert tokens.lengths.tolist() == [6, 7]


def test_tokens_of_a_bert_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "walk", "##s", "he"]))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    pair = Sentences(["He walks"], ["walk"], np.zeros(1, np.uint8))
    tokens = texts.by_encoder(pair, tmp_path, max_length=16)
    assert tokens.ids.tolist() == [[2, 7, 5, 6, 3, 5, 3]]
    assert tokens.segments.tolist() == [[0, 0, 0, 0, 0, 1, 1]]
    with pytest.raises(UserError, match="has no tokenizer"):
        texts.by_encoder(pair, tmp_path / "empty", max_length=16)


def test_shared_arrays_are_stored_once(tmp_path: Path) -> None:
    common, path = np.arange(1000), tmp_path / "x.npz"
    write_arrays(path, {0: {"a": common, "b": np.ones(2)}, 1: {"a": common, "b": np.zeros(2)}})
    found = read_arrays(path)
    assert found[0]["a"] is found[1]["a"]
    assert found[1]["b"].tolist() == [0, 0]
    with np.load(path) as stored:
        assert sorted(stored.files) == ["0,1/a", "0/b", "1/b"]
