"""The model of an experiment, and its examples as batches of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep.data import encoder_folder
from workflow.lib.papers.ib.deep.settings import Language, Scratch, Vision
from workflow.lib.papers.ib.deep.vit import ViT
from workflow.lib.plan.model import Experiment


def build(experiment: Experiment[Vision | Language], arrays: Arrays, start: Arrays | None = None) -> nn.Module:
    """The model with its first weights, drawn from torch's global generator; the encoder from `start` if given.

    Its call takes the inputs of a batch and `with_attention`, and returns logits (B, classes) and, if wanted, the
    attention of the class token (layers, B, heads, tokens).
    """
    settings = experiment.settings
    if isinstance(settings, Vision):
        return ViT(
            channels=settings.channels,
            size=settings.size,
            classes=settings.classes,
            patch=settings.patch,
            dim=settings.dim,
            depth=settings.depth,
            heads=settings.heads,
            dim_head=settings.dim_head,
            mlp=settings.mlp,
            dropout=settings.dropout,
            embedding_dropout=settings.embedding_dropout,
        )
    from workflow.lib.papers.ib.deep import bert  # transformers takes three seconds to import

    if isinstance(settings.encoder, Scratch):
        vocabulary = int(arrays["vocabulary"])
        sizes = (settings.encoder, vocabulary, settings.max_length, settings.classes)
        return bert.from_scratch(*sizes, settings.dropout, start)
    return bert.pretrained(encoder_folder(experiment, settings.encoder), settings.classes, settings.dropout)


def scaled(images: Tensor) -> Tensor:
    """Bytes to -1 .. 1: mean 0.5 and standard deviation 0.5 on the scale 0 .. 1."""
    return images.float().div_(127.5).sub_(1)


class Examples:
    """The training or the test examples, on a device."""

    def __init__(self, arrays: Arrays, part: str, device: torch.device) -> None:
        names = ("images",) if f"{part}_images" in arrays else ("ids", "segments", "lengths")
        self._arrays = [torch.from_numpy(arrays[f"{part}_{name}"]).to(device) for name in names]
        self._labels = torch.from_numpy(arrays[f"{part}_labels"]).to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, index: Tensor) -> tuple[Any, Tensor]:
        """The inputs of some examples, as the model takes them, and their labels (B,)."""
        found = [array[index] for array in self._arrays]
        labels = self._labels[index].long()
        if len(found) == 1:
            return scaled(found[0]), labels
        ids, segments, lengths = found
        longest = int(lengths.max())
        return (ids[:, :longest].long(), segments[:, :longest].long(), lengths), labels
