"""MultiNLI: pairs of sentences, labelled entailment (0), neutral (1) or contradiction (2).

Read from the official archive, or from Parquet files with the columns of GLUE's `mnli`; the matched
development set is the test set, because the labels of the official one are not public.
"""

from __future__ import annotations

import json
from pathlib import Path

from workflow.lib.datasets import REPLACE, Sentences, Source, Texts, check_labels, check_texts, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError
from workflow.lib.files import readable

LABELS = ("entailment", "neutral", "contradiction")
_ARCHIVE = "multinli_1.0"
_OFFICIAL = (f"{_ARCHIVE}_train.jsonl", f"{_ARCHIVE}_dev_matched.jsonl")
_GLUE = ("train.parquet", "validation_matched.parquet")
SOURCE = Source(
    name="multinli",
    folder="multinli",
    licence="OANC, CC BY 3.0, CC BY-SA 3.0 (see the paper of Williams, Nangia and Bowman)",
    remotes=(
        Remote(
            "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
            "multinli_1.0.zip",
            "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
            about=226_850_000,  # 216.34 MiB in the catalogue of TensorFlow Datasets
            unpack="zip",
            unpacked=5 * 226_850_000,  # its size is not known to us; text is compressed four- to fivefold
        ),
    ),
)


def check(folder: Path) -> None:
    """Raise UserError unless the files of one of both layouts are there."""
    if not all((folder / file).is_file() for file in _GLUE):
        require(_place(folder), _OFFICIAL, SOURCE)


def load(folder: Path) -> Texts:
    """Premises, hypotheses and labels; pairs without a gold label are left out."""
    if all((folder / file).is_file() for file in _GLUE):
        return Texts(*(_parquet(folder / file) for file in _GLUE))
    return Texts(*(_jsonl(_place(folder) / file) for file in _OFFICIAL))


def _place(folder: Path) -> Path:
    """The official archive puts its files into a folder of its own."""
    return folder / _ARCHIVE if (folder / _ARCHIVE).is_dir() else folder


def _jsonl(path: Path) -> Sentences:
    pairs = []
    with readable(path, REPLACE), open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                pair = json.loads(line.decode())
                label = pair["gold_label"]
                if label == "-":
                    continue
                pairs.append((pair["sentence1"], pair["sentence2"], LABELS.index(label)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                told = f"no {error}" if isinstance(error, KeyError) else error
                raise UserError(
                    f"{path}: line {number} is not a labelled pair ({told}); expected a JSON object with sentence1, "
                    f"sentence2 and gold_label, one of {', '.join(LABELS)}, -"
                ) from error
    first, second, labels = ([pair[part] for pair in pairs] for part in range(3))
    return Sentences(check_texts(first, path), check_texts(second, path), check_labels(labels, len(LABELS), path))


def _parquet(path: Path) -> Sentences:
    import pyarrow.parquet as pq

    with readable(path, REPLACE):
        table = pq.read_table(path, columns=["premise", "hypothesis", "label"])
        first, second, labels = (table[name].to_pylist() for name in ("premise", "hypothesis", "label"))
    return Sentences(check_texts(first, path), check_texts(second, path), check_labels(labels, len(LABELS), path))
