"""The first weights of a tiny BERT, by the names of `transformers`, which takes three seconds to import.

Maps and tables are drawn from N(0, initial_deviation^2), biases are 0, normalisations do nothing, and the word that
pads is 0: as `transformers` begins. All is drawn from torch's global generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep.settings import Scratch

Weights = dict[str, Tensor]
SEGMENTS = 2


def classifier(sizes: Scratch, vocabulary: int, max_length: int, classes: int, start: Arrays | None = None) -> Weights:
    """The weights of `transformers.BertForSequenceClassification`.

    Args:
        sizes: of the encoder.
        vocabulary: number of tokens.
        max_length: number of positions.
        classes: number of classes.
        start: the encoder of a pre-trained net by the names of `transformers.BertModel`, of one run; pooler and head
            then still are what they would be without it.

    Raises:
        UserError: a tensor of the start is missing, or has another shape.
    """
    encoder = _encoder(sizes, vocabulary, max_length)
    for name in encoder if start is not None else ():
        encoder[name] = _given(start or {}, name, tuple(encoder[name].shape))
    encoder |= _linear(sizes, "pooler.dense", sizes.hidden, sizes.hidden)
    return {**_under("bert", encoder), **_linear(sizes, "classifier", sizes.hidden, classes)}


def filling_in(sizes: Scratch, vocabulary: int, max_length: int) -> Weights:
    """The weights of `transformers.BertForMaskedLM`, whose last map is the table of words once more."""
    head = {
        **_linear(sizes, "transform.dense", sizes.hidden, sizes.hidden),
        **_norm("transform.LayerNorm", sizes.hidden),
        "bias": torch.zeros(vocabulary),
    }
    return {**_under("bert", _encoder(sizes, vocabulary, max_length)), **_under("cls.predictions", head)}


def _encoder(sizes: Scratch, vocabulary: int, max_length: int) -> Weights:
    """By the names of `transformers.BertModel`, without a pooler."""
    width = sizes.hidden
    tables = {"word": vocabulary, "position": max_length, "token_type": SEGMENTS}
    found = {f"embeddings.{kind}_embeddings.weight": _drawn(sizes, rows, width) for kind, rows in tables.items()}
    found["embeddings.word_embeddings.weight"][0] = 0
    found |= _norm("embeddings.LayerNorm", width)
    for number in range(sizes.layers):
        layer: Weights = {}
        for kind in ("self.query", "self.key", "self.value", "output.dense"):
            layer |= _linear(sizes, f"attention.{kind}", width, width)
        layer |= _linear(sizes, "intermediate.dense", width, sizes.mlp)
        layer |= _linear(sizes, "output.dense", sizes.mlp, width)
        layer |= {**_norm("attention.output.LayerNorm", width), **_norm("output.LayerNorm", width)}
        found |= _under(f"encoder.layer.{number}", layer)
    return found


def _given(start: Arrays, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a pre-trained net."""
    if name not in start or start[name].shape != shape:
        found = start[name].shape if name in start else "nothing"
        raise UserError(
            f"start_from: the pre-trained net does not fit: {name} has the shape {found}, expected {shape}. Both "
            "experiments need the same encoder, max_length and texts."
        )
    return torch.from_numpy(start[name])


def _drawn(sizes: Scratch, *shape: int) -> Tensor:
    return torch.randn(shape) * sizes.initial_deviation


def _linear(sizes: Scratch, name: str, inputs: int, outputs: int) -> Weights:
    return {f"{name}.weight": _drawn(sizes, outputs, inputs), f"{name}.bias": torch.zeros(outputs)}


def _norm(name: str, width: int) -> Weights:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _under(place: str, weights: Weights) -> Weights:
    return {f"{place}.{name}": weight for name, weight in weights.items()}
