"""BERT-base, uncased: the pre-trained encoder's weights, configuration and vocabulary, at a pinned revision."""

from __future__ import annotations

from pathlib import Path

from workflow.lib.datasets import Source, require
from workflow.lib.downloads import Remote

# The revision is the hub's; sum and size of the weights are those of its pointer file, as public records of it quote
# them. They were never held against a download here; the sum of the vocabulary was (docs/papers/ib.md, section 3.2). A
# wrong one ends in a clear message, not in wrong weights.
_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"
_ADDRESS = f"https://huggingface.co/google-bert/bert-base-uncased/resolve/{_REVISION}/"
_FILES = {  # with their sizes in bytes
    "config.json": (None, None),  # small, and fixed by the revision
    "vocab.txt": ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
    "model.safetensors": ("68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3", 440_449_768),
}
SOURCE = Source(
    name="bert-base-uncased",
    folder="bert-base-uncased",
    licence="Apache-2.0",
    remotes=tuple(Remote(_ADDRESS + file, file, sha256, size) for file, (sha256, size) in _FILES.items()),
)


def check(folder: Path) -> None:
    """Raise UserError unless all files are there."""
    require(folder, _FILES, SOURCE)


def load(folder: Path) -> Path:
    """The folder, from which `transformers` reads."""
    return folder
