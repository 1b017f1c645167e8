"""BERT sequence classifiers through `transformers`, from a pre-trained folder or from scratch.

Letters in shapes: B texts, T tokens ([CLS] first), H heads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every file was fetched before; nothing may be looked up in a run

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.utils import logging

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep import tiny_bert
from workflow.lib.papers.ib.deep.settings import Scratch

logging.set_verbosity_error()  # type: ignore[no-untyped-call]
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


# First parts of the names of weights that a pre-trained folder may hold beside its encoder.
_HEADS = ("cls.", "classifier.")


class Classifier(nn.Module):
    """A BERT with a classification head on its pooled [CLS] token."""

    def __init__(self, bert: BertForSequenceClassification) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, inputs: tuple[Tensor, Tensor, Tensor], with_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and the attention of [CLS].

        Args:
            inputs: token ids (B, T), segment ids (B, T) and lengths (B,) of the texts.
            with_attention: whether the second result is wanted.

        Returns:
            Logits (B, classes) and weights (layers, B, H, T), or None.
        """
        tokens, segments, lengths = inputs
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        # Fused attention kernels do not return their weights.
        self.bert.set_attn_implementation("eager" if with_attention else "sdpa")
        found = self.bert(tokens, mask.long(), segments, output_attentions=with_attention)
        rows = torch.stack([layer[:, :, 0] for layer in found.attentions]) if with_attention else None
        return found.logits, rows


def from_scratch(
    sizes: Scratch,
    vocabulary: int,
    max_length: int,
    classes: int,
    dropout: float | None,
    start: Arrays | None = None,
) -> Classifier:
    """A small BERT with the weights of `tiny_bert.classifier`."""
    weights = tiny_bert.classifier(sizes, vocabulary, max_length, classes, start)
    config = BertConfig(  # type: ignore[call-arg]
        vocab_size=vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.mlp,
        max_position_embeddings=max_length,
        num_labels=classes,
        **_dropouts(dropout),
    )
    model = BertForSequenceClassification(config)
    model.load_state_dict(weights)
    return Classifier(model)


def pretrained(folder: Path, classes: int, dropout: float | None) -> Classifier:
    """A pre-trained encoder with a fresh head.

    Raises:
        UserError: the folder holds no configuration, or not exactly the weights of a BERT (model.safetensors).
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(
                f"encoder: {folder} has no {name}. Expected a folder in the format of transformers, with config.json, "
                "model.safetensors and a tokenizer."
            )
    try:
        config = BertConfig.from_pretrained(folder, num_labels=classes, **_dropouts(dropout))
        bert = BertForSequenceClassification(config)
        # The encoder alone: a head in the folder may be of another task.
        loaded: Any = BertModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        bert.bert, found = loaded
    except Exception as error:  # transformers raises many kinds, all about the same folder
        raise UserError(f"encoder: {folder} cannot be read ({(str(error) or repr(error)).splitlines()[0]})") from error
    # What is missing would be drawn at random; what is left over is of another model, but for heads.
    surplus = {name for name in found["unexpected_keys"] if not name.startswith(_HEADS)}
    for told, names in (("has no", found["missing_keys"]), ("has the unknown", surplus)):
        if names:
            raise UserError(
                f"encoder: {folder / 'model.safetensors'} {told} {min(names)} ({len(names)} such names); expected the "
                f"weights of a BERT with {config.num_hidden_layers} layers, as config.json says"
            )
    return Classifier(bert)


def _dropouts(dropout: float | None) -> dict[str, Any]:
    return {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
