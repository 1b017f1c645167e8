"""BERT through `transformers`: its padding, and folders of pre-trained weights. Nothing else is tested in this file, as
`transformers` takes two seconds to import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workflow.lib.errors import UserError
from workflow.lib.papers.ib.deep import bert
from workflow.lib.papers.ib.deep.settings import Scratch


def small_bert() -> bert.Classifier:
    torch.manual_seed(0)
    sizes = Scratch(hidden=8, layers=2, heads=2, mlp=8, initial_deviation=0.2)
    return bert.from_scratch(sizes, vocabulary=20, max_length=16, classes=3, dropout=0.0).eval()


def test_bert_does_not_see_the_padding() -> None:
    model = small_bert()
    ids = torch.randint(4, 20, (2, 9))
    lengths = torch.tensor([9, 5])
    padded = torch.cat([torch.where(torch.arange(9) < lengths[:, None], ids, 7), torch.full((2, 3), 11)], dim=1)
    segments = torch.zeros_like(ids)
    with torch.no_grad():
        short, rows = model((ids, segments, lengths), with_attention=True)
        long, _ = model((padded, torch.zeros_like(padded), lengths))
    torch.testing.assert_close(short, long)  # also: fused attention gives what the plain one gives
    assert rows.shape == (2, 2, 2, 9)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 2))
    assert rows[:, 1, :, 5:].abs().max() < 1e-6


def test_a_pretrained_folder(tmp_path: Path) -> None:
    small_bert().bert.save_pretrained(tmp_path)
    torch.manual_seed(1)
    model = bert.pretrained(tmp_path, classes=2, dropout=None)
    assert model.bert.classifier.weight.shape == (2, 8)
    words = model.bert.bert.embeddings.word_embeddings.weight
    assert torch.equal(words, small_bert().bert.bert.embeddings.word_embeddings.weight)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        bert.pretrained(tmp_path, 2, None)
    small_bert().bert.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        bert.pretrained(tmp_path, 2, None)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read"):
        bert.pretrained(tmp_path, 2, None)
