"""The data of the deep experiments: arrays for training and test, from real sets or stand-ins."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from workflow.lib import datasets
from workflow.lib.datasets import Images, Texts, mnist_5k
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep import standins, texts
from workflow.lib.papers.ib.deep.settings import ENCODERS, Deep, Language, Scratch, Vision
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed


def generate(experiment: Experiment[Vision | Language], seed: Seed) -> Arrays:
    """The data of one seed.

    Returns:
        For `part` in train, test: `{part}_labels` (n,) uint8, and for images `{part}_images`
        (n, channels, height, width) uint8, for texts `{part}_ids`, `{part}_segments`, `{part}_lengths`
        (see `texts.Tokens`) and `vocabulary`, the number of tokens.
        Where a whole set is used, all seeds share the arrays.
    """
    settings = experiment.settings
    if isinstance(settings, Vision):
        return _images(experiment, settings, seed)
    return _texts(experiment, settings, seed)


def encoder_folder(experiment: Experiment, encoder: str) -> Path:
    """The folder of a pre-trained encoder."""
    if encoder in ENCODERS:
        return experiment.folder(encoder)
    folder = Path(encoder).expanduser()
    if not folder.is_dir():
        raise UserError(f"encoder: expected {' or '.join(ENCODERS)}, or a folder with an encoder; found {encoder!r}")
    return folder


def _images(experiment: Experiment, settings: Vision, seed: Seed) -> Arrays:
    if settings.standin:
        counts = _counts(settings)
        made = [
            standins.images(seed.generator(part), count, settings.size)
            for part, count in zip(_PARTS, counts, strict=True)
        ]
        return _named(Images(*made[0], *made[1]))
    if settings.dataset == "mnist_5k":
        digits, labels = _digits(settings.pixels)
        counts = _counts(settings)
        order = seed.generator("split").permutation(len(labels))[: sum(counts)]
        first, second = np.split(order, [counts[0]])
        found = Images(digits[first], labels[first], digits[second], labels[second])
    else:
        found = _pictures(settings.dataset, experiment.folder(settings.dataset), settings.pixels)
    train = _chosen(seed, "train", settings.train_examples, found.train_labels)
    test = _chosen(seed, "test", settings.test_examples, found.test_labels)
    return _named(
        Images(
            _take(found.train, train),
            _take(found.train_labels, train),
            _take(found.test, test),
            _take(found.test_labels, test),
        )
    )


def _named(images: Images) -> Arrays:
    return dict(zip(("train_images", "train_labels", "test_images", "test_labels"), images, strict=True))


def averaged(images: np.ndarray, pixels: int) -> np.ndarray:
    """Images of 28 or 32 pixels, padded to 32 x 32 and averaged down: (n, C, h, w) -> (n, C, pixels, pixels) uint8."""
    margin = (32 - images.shape[-1]) // 2
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    blocks = padded.reshape(*images.shape[:2], pixels, 32 // pixels, pixels, 32 // pixels)
    return blocks.mean((3, 5), dtype=np.float32).round().astype(np.uint8)


def _texts(experiment: Experiment, settings: Language, seed: Seed) -> Arrays:
    arrays: Arrays = {}
    if isinstance(settings.encoder, Scratch):
        labels, tokens = {}, {}
        for part, number in zip(_PARTS, _counts(settings), strict=True):
            labels[part], tokens[part] = _made(settings, seed.generator(part), number)
        arrays["vocabulary"] = np.array(len(_words()))
    else:
        source, encoder = experiment.folder(settings.dataset), encoder_folder(experiment, settings.encoder)
        found = _load(settings.dataset, source)
        assert isinstance(found, Texts)
        labels = {"train": found.train.labels, "test": found.test.labels}
        tokens = {part: _encoded(settings.dataset, source, part, encoder, settings.max_length) for part in _PARTS}
    for part, count in zip(_PARTS, (settings.train_examples, settings.test_examples), strict=True):
        chosen = _chosen(seed, part, count, labels[part])
        arrays[f"{part}_labels"] = _take(labels[part], chosen)
        for name, array in tokens[part]._asdict().items():
            arrays[f"{part}_{name}"] = _take(array, chosen)
    return arrays


def unlabelled(settings: Language, seed: Seed, count: int) -> Arrays:
    """Generated texts without their labels: `ids`, `segments`, `lengths` (see `texts.Tokens`) and `vocabulary`."""
    _, tokens = _made(settings, seed.generator("texts without labels"), count)
    return {**tokens._asdict(), "vocabulary": np.array(len(_words()))}


def _made(settings: Language, rng: np.random.Generator, count: int) -> tuple[np.ndarray, texts.Tokens]:
    """The labels and tokens of generated texts."""
    make = standins.premises if settings.dataset == "multinli_standin" else standins.comments
    found = make(rng, count)
    return found.labels, texts.by_words(found, _words(), settings.max_length)


@cache
def _words() -> dict[str, int]:
    return texts.vocabulary(standins.words())


_PARTS = ("train", "test")


def _counts(settings: Deep) -> tuple[int, int]:
    """How many examples to generate."""
    assert settings.train_examples is not None
    assert settings.test_examples is not None  # the settings check both
    return settings.train_examples, settings.test_examples


def _chosen(seed: Seed, part: str, count: int | None, labels: np.ndarray) -> np.ndarray | None:
    """Which examples this seed uses; None for all, in their order."""
    if count is None or count == len(labels):
        return None
    if count > len(labels):
        raise UserError(f"{part}_examples: the set has {len(labels):,}, found {count:,}")
    return np.sort(seed.generator(f"{part} subset").permutation(len(labels))[:count])


def _take(array: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
    return array if chosen is None else array[chosen]


@cache
def _digits(pixels: int | None) -> tuple[np.ndarray, np.ndarray]:
    digits, labels = mnist_5k.load()
    return digits if pixels is None else averaged(digits, pixels), labels


# The seeds of a block share one copy of a real set, in memory and on disk.
_load = cache(datasets.load)


@cache
def _pictures(dataset: str, source: Path, pixels: int | None) -> Images:
    found = _load(dataset, source)
    assert isinstance(found, Images)
    if pixels is None:
        return found
    return found._replace(train=averaged(found.train, pixels), test=averaged(found.test, pixels))


@cache
def _encoded(dataset: str, source: Path, part: str, encoder: Path, max_length: int) -> texts.Tokens:
    return texts.by_encoder(getattr(_load(dataset, source), part), encoder, max_length)
