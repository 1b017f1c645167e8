"""Official data that are not what they should be: file, place, found and expected, in bounded memory, and never a class."""

# ruff: noqa: E501  (a table reads by its lines)

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import refused, taken_or_refused
from tests.papers.ib.deep.test_data import idx, write_cifar, write_mnist
from workflow.lib import captions, datasets, downloads
from workflow.lib.datasets import cifar10, mnist, multinli
from workflow.lib.downloads import Remote
from workflow.lib.page import texts

Write = Callable[[Path], object]
PAIR = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}


def lines(*found: Any) -> Write:
    """The official MultiNLI, its training file with some lines."""

    def write(folder: Path) -> None:
        text = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in found]
        (folder / "multinli_1.0_train.jsonl").write_bytes(b"\n".join(text))
        (folder / "multinli_1.0_dev_matched.jsonl").write_text(json.dumps(PAIR))

    return write


def glue(labels: Any, **changes: Any) -> Write:
    def write(folder: Path) -> None:
        columns = {"premise": ["a"] * len(labels), "hypothesis": ["b"] * len(labels), "label": labels, **changes}
        for part in ("train", "validation_matched"):
            pd.DataFrame({key: value for key, value in columns.items() if value is not None}).to_parquet(
                folder / f"{part}.parquet"
            )

    return write


def wilds(text: str | bytes) -> Write:
    whole = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "all_data_with_identities.csv").write_bytes(whole)


def comments(scores: Any, said: Any = None) -> Write:
    def write(folder: Path) -> None:
        for part in ("train", "test"):
            pd.DataFrame({"text": said or ["a"] * len(scores), "toxicity": scores}).to_parquet(
                folder / f"{part}.parquet"
            )

    return write


def cifar(**changes: Any) -> Write:
    return lambda folder: write_cifar(folder, **changes)


def cifar_bytes(content: bytes) -> Write:
    return lambda folder: (write_cifar(folder), (folder / "data_batch_2").write_bytes(content))


def digits(name: str, content: bytes) -> Write:
    return lambda folder: (write_mnist(folder), (folder / name).write_bytes(content))


HEAD = "comment_text,split,toxicity\n"
TRAIN_IMAGES, TEST_LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
CLAIMS_TERABYTES = gzip.compress(b"\0\0\x08\x03" + b"\xff\xff\xff\xff" * 3)
BOMB = gzip.compress(b"\0\0\x08\x01" + (5).to_bytes(4, "big") + bytes(50_000_000))

# The set, what lies in its folder, and what the message names.
CASES: list[tuple[str, str, Write, list[str]]] = [
    ("multinli", "Latin-1", lines(b'{"gold_label": "neutral", "sentence1": "caf\xe9", "sentence2": "b"}'), ["train.jsonl", "line 1", "utf-8"]),
    ("multinli", "a broken line", lines(PAIR, b"{"), ["train.jsonl", "line 2"]),
    ("multinli", "an empty line", lines(PAIR, b"", PAIR), ["line 2"]),
    ("multinli", "a list", lines(PAIR, [1]), ["line 2", "gold_label"]),
    ("multinli", "a number", lines(3), ["line 1", "gold_label"]),
    ("multinli", "nested deep", lines(b"[" * 100_000), ["line 1"]),
    ("multinli", "an unknown label", lines({**PAIR, "gold_label": "maybe"}), ["line 1", "entailment, neutral, contradiction"]),
    ("multinli", "a label of null", lines({**PAIR, "gold_label": None}), ["line 1"]),
    ("multinli", "no label", lines({"sentence1": "a", "sentence2": "b"}), ["line 1", "gold_label"]),
    ("multinli", "no second text", lines({"gold_label": "neutral", "sentence1": "a"}), ["line 1", "sentence2"]),
    ("multinli", "a text that is a number", lines({**PAIR, "sentence1": 3}), ["train.jsonl", "example 0", "3"]),
    ("multinli", "a text of blanks", lines(PAIR, {**PAIR, "sentence2": " "}), ["example 1"]),
    ("multinli", "empty", lines(), ["train.jsonl"]),
    ("multinli", "no gold label at all", lines({**PAIR, "gold_label": "-"}), ["train.jsonl", "no labelled example"]),
    ("multinli", "GLUE: a label of null", glue([0, None]), ["train.parquet", "example 1", "0 to 2"]),
    ("multinli", "GLUE: NaN", glue([0.0, float("nan")]), ["train.parquet", "0 to 2"]),
    ("multinli", "GLUE: 1.5", glue([1.5]), ["example 0 is 1.5", "0 to 2"]),
    ("multinli", "GLUE: a text", glue(["neutral"]), ["'neutral'", "0 to 2"]),
    ("multinli", "GLUE: a digit as a text", glue(["1"]), ["'1'", "0 to 2"]),
    ("multinli", "GLUE: true", glue([True]), ["True", "0 to 2"]),
    ("multinli", "GLUE: -1, the label of its test set", glue([-1]), ["-1", "0 to 2"]),
    ("multinli", "GLUE: 3", glue([0, 3]), ["example 1 is 3"]),
    ("multinli", "GLUE: no rows", glue([]), ["train.parquet", "no labelled example"]),
    ("multinli", "GLUE: no labels", glue([0], label=None), ["train.parquet", "label"]),
    ("multinli", "GLUE: no hypotheses", glue([0], hypothesis=None), ["train.parquet", "hypothesis"]),
    ("multinli", "GLUE: numbers for texts", glue([0], premise=[5]), ["example 0", "5"]),
    ("civil_comments", "only a header", wilds(HEAD), ["all_data", "'train'"]),
    ("civil_comments", "only train", wilds(HEAD + "a,train,0\n"), ["'test'"]),
    ("civil_comments", "empty", wilds(""), ["all_data", "cannot be read"]),
    ("civil_comments", "no scores", wilds("comment_text,split\na,train\n"), ["toxicity"]),
    ("civil_comments", "a score that is a text", wilds(HEAD + "a,train,high\nb,test,0\n"), ["'high'", "0 to 1"]),
    ("civil_comments", "a score of nothing", wilds(HEAD + "a,train,\nb,test,0\n"), ["0 to 1"]),
    ("civil_comments", "a score of 7", wilds(HEAD + "a,train,7\nb,test,0\n"), ["'7'", "0 to 1"]),
    ("civil_comments", "a score of nan", wilds(HEAD + "a,train,nan\nb,test,0\n"), ["0 to 1"]),
    ("civil_comments", "Latin-1", wilds((HEAD + "caf\u00e9,train,0\n").encode("latin-1")), ["all_data", "Row #2", "UTF8"]),
    ("civil_comments", "a comma without quotes", wilds("id," + HEAD + "1,a,b,train,0\n2,c,test,0\n"), ["row 2", "5 columns", "4 of its head"]),
    ("civil_comments", "a column more in each row", wilds(HEAD + "a,train,0,9\nb,test,0,9\n"), ["row 2", "4 columns", "3 of its head"]),
    ("civil_comments", "a column less", wilds("id," + HEAD + "1,a,train,0\ntrain,0\n3,b,test,0\n"), ["row 3", "2 columns"]),
    ("civil_comments", "an open quote", wilds(HEAD + '"a,train,0\nb,test,0\n'), ["all_data"]),
    ("civil_comments", "Parquet: no rows", comments([]), ["train.parquet"]),
    ("civil_comments", "Parquet: null", comments([0.1, None]), ["example 1", "0 to 1"]),
    ("civil_comments", "Parquet: texts", comments(["high"]), ["'high'"]),
    ("civil_comments", "Parquet: 7.0", comments([7.0]), ["7.0"]),
    ("civil_comments", "Parquet: a text of null", comments([0.1], [None]), ["example 0"]),
    ("cifar10", "fewer labels", cifar(labels=[1, 2]), ["data_batch_1", "4 labels", "2"]),
    ("cifar10", "no list of labels", cifar(labels=3), ["data_batch_1", "4 labels", "int"]),
    ("cifar10", "labels of text", cifar(labels=["a", "b", "c", "d"]), ["example 0 is 'a'", "0 to 9"]),
    ("cifar10", "labels of digits as text", cifar(labels=["0", "1", "2", "3"]), ["example 0 is '0'", "0 to 9"]),
    ("cifar10", "labels of null", cifar(labels=[0, None, 1, 2]), ["example 1 is None"]),
    ("cifar10", "labels of NaN", cifar(labels=[0, 1, float("nan"), 2]), ["example 2 is nan"]),
    ("cifar10", "labels of 1.5", cifar(labels=[0, 1, 1.5, 2]), ["example 2 is 1.5"]),
    ("cifar10", "labels of lists", cifar(labels=[[0], 1, 2, 3]), ["example 0 is [0]"]),
    ("cifar10", "a label of 10", cifar(labels=[0, 1, 2, 10]), ["example 3 is 10"]),
    ("cifar10", "images that are a list", cifar(data=[[1, 2], [3]]), ["data_batch_1", "no array", "(n, 3072)"]),
    ("cifar10", "images of another size", cifar(data=np.zeros((4, 3071), np.uint8)), ["(4, 3071)", "(n, 3072)"]),
    ("cifar10", "images of numbers", cifar(data=np.zeros((4, 3072))), ["data_batch_1", "unsigned bytes"]),
    ("cifar10", "images by columns", cifar(data=np.asfortranarray(np.zeros((4, 3072), np.uint8))), ["row by row"]),
    ("cifar10", "images of objects", cifar(data=np.array([[1], [2]], dtype=object)), ["unsigned bytes"]),
    ("cifar10", "empty", cifar_bytes(b""), ["data_batch_2"]),
    ("cifar10", "text", cifar_bytes(b"hello"), ["data_batch_2"]),
    ("cifar10", "a list", cifar_bytes(pickle.dumps([1])), ["data_batch_2", "dict"]),
    ("cifar10", "without labels", cifar_bytes(pickle.dumps({b"data": 1})), ["data_batch_2", "data and labels"]),
    ("cifar10", "bytes that claim gigabytes", cifar_bytes(b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x."), ["data_batch_2"]),
    ("cifar10", "a place in the memo of billions", cifar_bytes(b"\x80\x02K\x01r\xff\xff\xff\x7f."), ["data_batch_2"]),
    ("cifar10", "a call", cifar_bytes(b"cos\nsystem\n(S'true'\ntR."), ["data_batch_2", "os.system"]),
    ("cifar10", "eval", cifar_bytes(b"cbuiltins\neval\n(S'1'\ntR."), ["data_batch_2", "eval"]),
    ("mnist", "text", digits(TRAIN_IMAGES, b"hello"), [TRAIN_IMAGES]),
    ("mnist", "empty", digits(TRAIN_IMAGES, b""), [TRAIN_IMAGES]),
    ("mnist", "not compressed", digits(TRAIN_IMAGES, gzip.decompress(idx(np.zeros((2, 28, 28))))), [TRAIN_IMAGES]),
    ("mnist", "another kind of values", digits(TRAIN_IMAGES, gzip.compress(b"\0\0\x0d\x01" + bytes(8))), ["unsigned bytes"]),
    ("mnist", "a header of terabytes", digits(TRAIN_IMAGES, CLAIMS_TERABYTES), [TRAIN_IMAGES, "more than MNIST has"]),
    ("mnist", "more values than it says", digits(TEST_LABELS, BOMB), [TEST_LABELS, "holds more values"]),
    ("mnist", "a header that is cut", digits(TEST_LABELS, gzip.compress(b"\0\0\x08\x03\0\0")), [TEST_LABELS]),
    ("mnist", "images of another size", digits(TRAIN_IMAGES, idx(np.zeros((12, 27, 28)))), [TRAIN_IMAGES, "28 x 28"]),
    ("mnist", "labels for images", digits(TRAIN_IMAGES, idx(np.zeros(12))), [TRAIN_IMAGES, "28 x 28"]),
    ("mnist", "no labels", digits(TEST_LABELS, idx(np.zeros(0))), [TEST_LABELS]),
    ("mnist", "a label of 10", digits(TEST_LABELS, idx(np.array([0, 1, 10, 3, 4]))), [TEST_LABELS, "example 2 is 10"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "write", "words"), [pytest.param(name, *rest, id=f"{name}: {what}") for name, what, *rest in CASES]
)
def test_official_data_that_are_none(tmp_path: Path, name: str, write: Write, words: list[str]) -> None:
    write(tmp_path)
    refused(lambda: datasets.load(name, tmp_path), str(tmp_path), *words, inside=tmp_path)


def test_an_archive_in_data_dir_is_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, ours = tmp_path / "mine", tmp_path / "ours"
    write_cifar(tmp_path / "cifar-10-batches-py")
    mine.mkdir()
    with tarfile.open(mine / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    refused(
        lambda: datasets.fetch("cifar10", ours, mine),
        "cifar-10-python.tar.gz",
        "not the official file",
        inside=tmp_path,
    )
    packed = datasets.Source(
        "cifar10", "cifar-10-batches-py", "", (Remote("https://x", "cifar-10-python.tar.gz", unpack="tar"),)
    )
    monkeypatch.setattr(cifar10, "SOURCE", packed)
    assert datasets.fetch("cifar10", ours, mine)["folder"] == str(ours)
    assert [path.name for path in mine.iterdir()] == ["cifar-10-python.tar.gz"]
    assert datasets.load("cifar10", ours).train.shape == (20, 3, 32, 32)


def test_where_data_dir_looks(tmp_path: Path) -> None:
    refused(
        lambda: datasets.fetch("cifar10", tmp_path / "ours", tmp_path),
        str(tmp_path / "cifar-10-batches-py"),
        "looked for",
    )


@pytest.mark.parametrize("name", ["../x", "/tmp/x-of-a-test", "a/../../x"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_keeps_inside_its_folder(tmp_path: Path, name: str, kind: Any) -> None:
    archive, folder = tmp_path / "a", tmp_path / "deep" / "in"
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(name, "x")
    taken_or_refused(lambda: downloads.unpack(archive, folder, kind), "cannot be unpacked")
    outside = [
        path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents and path != archive
    ]
    assert outside == []
    assert not Path("/tmp/x-of-a-test").exists()


def test_no_redirect_leaves_an_encrypted_connection() -> None:
    follow = downloads._Redirects().redirect_request
    asked = downloads.urllib.request.Request("https://a.example/file")
    refused(lambda: follow(asked, None, 302, "", {}, "http://b.example/file"), "https://a.example", "http://b.example")
    assert follow(asked, None, 302, "", {}, "https://b.example/file").full_url == "https://b.example/file"


HOSTILE = [
    ".. raw:: html\n\n   <script>alert(1)</script>",
    ".. include:: /etc/hostname",
    ".. csv-table::\n   :file: /etc/hostname",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "<script>alert(1)</script>",
    "`x <javascript:alert(1)>`_",
    "|x| \\ *y* ``z``",
    ".. image:: http://a.example/x.png",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_a_text(tmp_path: Path, text: str) -> None:
    template = tmp_path / "caption.rst"
    template.write_text("{{ about }}\n\nMore.")
    told = captions.text(template, {"about": text})
    shown = str(texts.caption(told, "x"))
    for sign in ("<script", "<img", 'javascript:alert(1)"', Path("/etc/hostname").read_text().strip() + "</"):
        assert sign not in shown, shown
    from docutils import nodes
    from docutils.core import publish_doctree

    settings = {"report_level": 5, "halt_level": 5}  # as the report reads it: nothing is turned off
    tree = publish_doctree(told, settings_overrides=settings)
    assert not list(tree.findall(lambda node: isinstance(node, nodes.raw | nodes.image | nodes.table)))
    links = [node.get("refuri", "") for node in tree.findall(nodes.reference)]
    assert all(link.startswith(("http://", "https://")) for link in links)


def test_a_template_runs_no_code(tmp_path: Path) -> None:
    template = tmp_path / "caption.rst"
    template.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    refused(lambda: captions.text(template, {}), "caption.rst")


@pytest.mark.parametrize(
    "content", [b"{{ missing }}", b"{% if %}", b"{{ 1 / 0 }}", b"\xff\xfe", b"{{ 'a' | nothing }}", b"{{ x.y.z }}"]
)
def test_a_template_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "caption.rst").write_bytes(content)
    refused(lambda: captions.text(tmp_path / "caption.rst", {}), "caption.rst")


QUIET = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ANY = st.binary(max_size=300)


@QUIET
@given(ANY | ANY.map(gzip.compress) | ANY.map(lambda rest: gzip.compress(b"\0\0\x08\x01" + rest)))
def test_any_bytes_are_digits_or_one_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _read(tmp_path_factory, content, mnist.read_idx)


@pytest.mark.slow
@QUIET
@given(
    ANY
    | ANY.map(lambda rest: b"\x80\x02}q" + rest)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(pickle.dumps)
)
def test_any_bytes_are_a_batch_or_one_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _read(tmp_path_factory, content, cifar10._batch)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["gold_label", "sentence1", "sentence2"]), inner)
    ),
    max_leaves=6,
)


@QUIET
@given(ANY | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_lines_are_pairs_or_one_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _read(tmp_path_factory, content, multinli._jsonl)


def _read(factory: pytest.TempPathFactory, content: bytes, read: Callable[[Path], object]) -> None:
    path = factory.getbasetemp() / "any"
    path.write_bytes(content)
    taken_or_refused(lambda: read(path), "any")
