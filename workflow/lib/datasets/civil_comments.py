"""Civil Comments: comments on news, labelled toxic (1) where at least half of the raters found them so, else 0.

Read from the table of CivilComments-WILDS 1.0 (the comments with identity annotations and an official split), or
from Parquet files with the columns of `google/civil_comments`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workflow.lib.datasets import REPLACE, Sentences, Source, Texts, check_labels, check_texts, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError, shortened
from workflow.lib.files import readable

_WILDS = "all_data_with_identities.csv"
_HUB = ("train.parquet", "test.parquet")
SOURCE = Source(
    name="civil_comments",
    folder="civil_comments",
    licence="CC0 1.0",
    remotes=(
        # Nobody published a sum of this archive. The size that WILDS gives is one of whole disk blocks, as are those of
        # its other archives, so that it is no test; what is in the archive is checked when it is read.
        Remote(
            "https://worksheets.codalab.org/rest/bundles/0x8cd3de0634154aeaad2ee6eb96723c6e/contents/blob/",
            "civilcomments_v1.0.tar.gz",
            about=90_644_480,
            unpack="tar",
            unpacked=5 * 90_644_480,  # its size is not known to us; text is compressed four- to fivefold
        ),
    ),
)


def check(folder: Path) -> None:
    """Raise UserError unless the files of one of both layouts are there."""
    if not all((folder / file).is_file() for file in _HUB):
        require(folder, (_WILDS,), SOURCE)


def load(folder: Path) -> Texts:
    """Comments and whether they are toxic; of the official table, empty comments are left out."""
    if all((folder / file).is_file() for file in _HUB):
        return Texts(*(_parquet(folder / file) for file in _HUB))
    return _wilds(folder / _WILDS)


def _wilds(path: Path) -> Texts:
    import pyarrow as pa
    from pyarrow import csv

    columns = ["comment_text", "split", "toxicity"]
    broken: list[str] = []

    def tell(row: csv.InvalidRow) -> str:
        broken.append(
            f"row {row.number} has {row.actual_columns} columns; expected the {row.expected_columns} of its head"
        )
        return "error"

    with readable(path, REPLACE):
        try:
            table = csv.read_csv(
                path,
                csv.ReadOptions(use_threads=False),  # so that rows are counted
                csv.ParseOptions(newlines_in_values=True, invalid_row_handler=tell),
                csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
            ).to_pandas()
        except pa.ArrowInvalid as error:
            raise ValueError(*broken[:1] or error.args) from None
    table = table[table["comment_text"].str.strip() != ""]
    parts = []
    for split in ("train", "test"):
        part = table[table["split"] == split]
        if part.empty:
            raise UserError(f"{path}: holds no comment of the split {split!r}")
        parts.append(_labelled(part["comment_text"], part["toxicity"], path))
    return Texts(*parts)


def _parquet(path: Path) -> Sentences:
    import pyarrow.parquet as pq

    with readable(path, REPLACE):
        table = pq.read_table(path, columns=["text", "toxicity"])
        texts, scores = (table[name].to_pylist() for name in ("text", "toxicity"))
    return _labelled(texts, scores, path)


def _labelled(texts: Iterable[object], scores: Iterable[object], path: Path) -> Sentences:
    import pandas as pd

    found = list(scores)
    shares = pd.to_numeric(pd.Series(found, dtype=object), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~((shares >= 0) & (shares <= 1)))
    if wrong.size:
        told = shortened(found[int(wrong[0])])
        raise UserError(f"{path}: the toxicity of example {wrong[0]} is {told}; expected a share from 0 to 1")
    return Sentences(check_texts(texts, path), None, check_labels((shares >= 0.5).astype(np.uint8), 2, path))
