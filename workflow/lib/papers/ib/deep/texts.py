"""From texts to the token arrays that a BERT reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow.lib.datasets import Sentences
from workflow.lib.errors import UserError
from workflow.lib.files import readable


class Tokens(NamedTuple):
    """Token ids (n, T) int32, padded with 0; segments (n, T) uint8; lengths (n,) int32."""

    ids: np.ndarray
    segments: np.ndarray
    lengths: np.ndarray


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNKNOWN, _CLS, _SEP, MASK = 1, 2, 3, 4


def vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Numbers for some words, after the special tokens."""
    return {word: number for number, word in enumerate([*SPECIAL, *words])}


def by_words(texts: Sentences, words: dict[str, int], max_length: int) -> Tokens:
    """One token a word: [CLS] first [SEP] or [CLS] first [SEP] second [SEP], cut at `max_length`."""
    rows, starts = [], []
    for at, first in enumerate(texts.first):
        row = [_CLS, *(words.get(word, _UNKNOWN) for word in first.split()), _SEP]
        starts.append(len(row))
        if texts.second is not None:
            row += [*(words.get(word, _UNKNOWN) for word in texts.second[at].split()), _SEP]
        rows.append(row[:max_length])
    return _padded(rows, starts)


def by_encoder(texts: Sentences, folder: Path, max_length: int) -> Tokens:
    """The tokens of a pre-trained encoder; of a pair the longer text is cut first.

    Raises:
        UserError: the folder has no tokenizer, or one that does not fit its encoder.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import BertTokenizer

    if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        raise UserError(f"encoder: {folder} has no tokenizer (vocab.txt or tokenizer.json)")
    try:
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        found = tokenizer(texts.first, texts.second, truncation=True, max_length=max_length)
    except Exception as error:  # transformers raises many kinds, all about the same folder
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"encoder: the tokenizer in {folder} cannot be read ({reason})") from error
    _check_sizes(folder, 1 + max(map(max, found["input_ids"])), max_length)
    starts = [len(segment) - sum(segment) for segment in found["token_type_ids"]]
    return _padded(found["input_ids"], starts)


def _check_sizes(folder: Path, tokens: int, length: int) -> None:
    """Refuse more tokens or longer texts than the encoder beside the tokenizer has rows for."""
    path = folder / "config.json"
    with readable(path, "replace it by the encoder's own"):
        config = json.loads(path.read_text(encoding="utf-8"))
        for key, needed, what in (
            ("vocab_size", tokens, "tokens of its tokenizer"),
            ("max_position_embeddings", length, "tokens in a text (max_length)"),
        ):
            if config.get(key, needed) < needed:
                raise UserError(f"{path}: {key} is {config[key]}, but there are {needed} {what}")


def _padded(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Tokens:
    """Rows of token ids, with the place where the second text starts."""
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
    place = np.arange(ids.shape[1])
    second = (place >= np.array(starts)[:, None]) & (place < lengths[:, None])
    return Tokens(ids, second.astype(np.uint8), lengths)
