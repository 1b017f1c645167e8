"""The settings of the deep experiments."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from workflow.lib.settings import Count, Needs, Positive, Probability, Settings

# Name -> number of classes.
_IMAGES = {"mnist": 10, "mnist_5k": 10, "cifar10": 10, "cifar10_standin": 10}
_TEXTS = {"multinli": 3, "multinli_standin": 3, "civil_comments": 2, "civil_comments_standin": 2}
_FULL = ("mnist", "cifar10", "multinli", "civil_comments")
ENCODERS = ("bert-base-uncased",)


class Deep(Settings):
    """What the vision and the language runs have in common.

    dataset: by name; `_standin` sets are generated, `mnist_5k` are the real digits in a Python package.
    train_examples, test_examples: how many are drawn, a new draw for each seed; None for all.
    batch_size: examples per step; an epoch's last batch may be smaller.
    epochs: passes over the training examples.
    precision: of the forward and backward pass; parameters, gradients and steps are always float32, and
        bfloat16 needs no loss scaling, so that every optimizer sees the gradient it would see otherwise.
    smoothing: iterations in the trailing mean of the train loss.
    keep_weights: whether the results hold the final weights.
    """

    part: ClassVar[str] = "deep"
    dataset: str
    train_examples: Count | None
    test_examples: Count | None
    batch_size: Count
    epochs: Count
    precision: Literal["float32", "bfloat16"]
    smoothing: Count
    keep_weights: bool

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        counts = (self.train_examples, self.test_examples)
        if None in counts and self.dataset not in _FULL:
            raise ValueError(f"train_examples, test_examples: expected numbers for {self.dataset!r}, found {counts}")
        if self.dataset == "mnist_5k" and sum(filter(None, counts)) > 5000:
            raise ValueError(f"train_examples + test_examples: mnist_5k has 5,000 digits, found {counts}")
        if self.train_examples is not None and self.batch_size > self.train_examples:
            raise ValueError(
                f"batch_size: expected at most train_examples ({self.train_examples}), found {self.batch_size}"
            )
        return self

    @property
    def standin(self) -> bool:
        """Whether the data are generated in place of a real set."""
        return self.dataset.endswith("_standin")

    @property
    def classes(self) -> int:
        """The number of classes."""
        return {**_IMAGES, **_TEXTS}[self.dataset]

    def downloads(self) -> tuple[str, ...]:
        """The data sets that have to be fetched."""
        return (self.dataset,) if self.dataset in _FULL else ()

    def needs(self) -> Needs:
        """A GPU always; memory and time for the real sets or for the small ones."""
        return Needs(mem_mb=24000, runtime=2880, gpu=1) if self.downloads() else Needs(mem_mb=3000, runtime=30, gpu=1)


class Vision(Deep):
    """A small ViT that classifies images.

    patch: height and width of a patch; dim: embedding dimension; depth: blocks; heads: attention heads;
    dim_head: dimension per head; mlp: hidden width of the perceptrons; dropout: inside the blocks;
    embedding_dropout: after the positional embedding.
    """

    dataset: Literal["mnist", "mnist_5k", "cifar10", "cifar10_standin"]
    patch: Count
    dim: Count
    depth: Count
    heads: Count
    dim_head: Count
    mlp: Count
    dropout: Probability
    embedding_dropout: Probability

    @model_validator(mode="after")
    def _patches(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"patch: expected a divisor of the image size {self.size}, found {self.patch}")
        return self

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return 1 if self.dataset.startswith("mnist") else 3

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return 28 if self.dataset.startswith("mnist") else 32


class Scratch(Settings):
    """A small BERT trained from scratch: its sizes, and the standard deviation of its first weights."""

    hidden: Count
    layers: Count
    heads: Count
    mlp: Count
    initial_deviation: Positive

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"encoder.heads: expected a divisor of hidden ({self.hidden}), found {self.heads}")
        return self


class Language(Deep):
    """A BERT that classifies texts or pairs of texts.

    encoder: the name of a pre-trained encoder that can be fetched, the folder of one in the format of
        `transformers` (config.json, model.safetensors, tokenizer), or the sizes of one trained from scratch.
    max_length: longest input in tokens; longer ones are cut.
    dropout: None for the encoder's own.
    """

    dataset: Literal["multinli", "multinli_standin", "civil_comments", "civil_comments_standin"]
    encoder: str | Scratch
    max_length: Count
    dropout: Probability | None

    @model_validator(mode="after")
    def _words(self) -> Self:
        if self.max_length < 8:
            raise ValueError(f"max_length: expected at least 8 tokens, found {self.max_length}")
        if self.standin != isinstance(self.encoder, Scratch):
            raise ValueError(
                "encoder: a generated data set goes with an encoder from scratch, a real one with a pre-trained "
                f"encoder; found the data set {self.dataset!r} with the encoder {self.encoder!r}"
            )
        return self

    def downloads(self) -> tuple[str, ...]:
        """The data set, and the encoder where it is one that can be fetched."""
        return (*super().downloads(), *((self.encoder,) if self.encoder in ENCODERS else ()))  # type: ignore[arg-type]


KINDS: dict[str, type[Settings]] = {"vision": Vision, "language": Language}
