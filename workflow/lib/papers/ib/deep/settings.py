"""The settings of the deep experiments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from workflow.lib import grids
from workflow.lib.errors import UserError
from workflow.lib.number_types import Count, Positive, Probability
from workflow.lib.plan.optimizer import Optimizer, Options
from workflow.lib.plan.settings import Disk, Needs, Settings, Side


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set before it is read.

    title: in figures; classes: how many; origin: where it comes from; examples: how many a set that is fetched has,
    for training and test together, as its makers say.
    """

    title: str
    classes: int
    origin: Literal["fetched", "packaged", "generated"]
    examples: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageSet(DataSet):
    """What is known of images besides: colour channels, and height and width in pixels."""

    channels: int
    size: int


IMAGES = {
    "mnist": ImageSet(title="MNIST", classes=10, origin="fetched", examples=70_000, channels=1, size=28),
    "mnist_5k": ImageSet(title="MNIST, 5,000 digits", classes=10, origin="packaged", channels=1, size=28),
    "cifar10": ImageSet(title="CIFAR-10", classes=10, origin="fetched", examples=60_000, channels=3, size=32),
    "cifar10_standin": ImageSet(
        title="generated stand-in, not CIFAR-10", classes=10, origin="generated", channels=3, size=32
    ),
}
TEXTS = {
    "multinli": DataSet(title="MultiNLI", classes=3, origin="fetched", examples=402_702),
    "multinli_standin": DataSet(title="generated stand-in, not MNLI", classes=3, origin="generated"),
    "civil_comments": DataSet(title="Civil Comments", classes=2, origin="fetched", examples=402_820),
    "civil_comments_standin": DataSet(title="generated stand-in, not Civil Comments", classes=2, origin="generated"),
}
ENCODERS = {"bert-base-uncased": 440_449_768}  # with the size of their weights in bytes
_FLOAT32 = 3.4e38
FEW_TOKENS = 20  # up to here the attention of `stacked` is worth its memory


class Deep(Settings):
    """What the vision and the language runs have in common.

    dataset: by name; what is known of it is its `facts`.
    train_examples, test_examples: how many are drawn, a new draw for each seed; None for all.
    batch_size: examples per step; an epoch's last batch may be smaller.
    epochs: passes over the training examples.
    precision: of the forward and backward pass; parameters, gradients and steps are always float32, and
        bfloat16 needs no loss scaling, so that every optimizer sees the gradient it would see otherwise.
    evaluations: how many times the test set is looked at after the start, evenly in the logarithm of the epoch; every
        epoch where there are no more.
    smoothing: iterations in the trailing mean of the train loss.
    keep_weights: whether the results hold the final weights.
    """

    family: ClassVar[str] = "deep"
    objectives: ClassVar[Mapping[str, Side]] = {"test_accuracy": "above", "test_loss": "below", "train_loss": "below"}

    dataset: str
    train_examples: Count | None
    test_examples: Count | None
    batch_size: Count
    epochs: Count
    precision: Literal["float32", "bfloat16"]
    evaluations: Count
    smoothing: Count
    keep_weights: bool

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        counts = (self.train_examples, self.test_examples)
        if None in counts and self.facts.origin != "fetched":
            raise ValueError(f"train_examples, test_examples: expected numbers for {self.dataset!r}, found {counts}")
        if self.dataset == "mnist_5k" and sum(filter(None, counts)) > 5000:
            raise ValueError(f"train_examples + test_examples: mnist_5k has 5,000 digits, found {counts}")
        if self.train_examples is not None and self.batch_size > self.train_examples:
            raise ValueError(
                f"batch_size: expected at most train_examples ({self.train_examples}), found {self.batch_size}"
            )
        return self

    @property
    def facts(self) -> DataSet:
        """What is known of the data set."""
        return {**IMAGES, **TEXTS}[self.dataset]

    @property
    def standin(self) -> bool:
        """Whether the data are generated in place of a real set."""
        return self.facts.origin == "generated"

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.facts.classes

    @property
    def stackable(self) -> bool:
        """Whether the runs of several seeds train together: small nets, float32, and nothing drawn during training."""
        return False

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The kinds of tensors that a net of this kind has, with shapes of as many dimensions."""
        return {"matrices": (3, 2), "biases": (3,)}

    def route(self, optimizer: Optimizer) -> Literal["fast", "plain"]:
        """`fast` where all weights of a run may lie in one tensor, `plain` where a rule tells tensors apart."""
        for name, value in optimizer.hyperparameters.items():
            if isinstance(value, float) and abs(value) > _FLOAT32:
                raise UserError(
                    f"{name}: expected a number that float32 can hold, in which these nets are; found {value:g}"
                )
        traits = optimizer.traits
        if traits.entrywise or traits.one_norm:
            optimizer.try_step({"all weights in one tensor": (6,)})
            return "fast"
        optimizer.try_step(self.tensors)
        return "plain"

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The epochs after which the test set is looked at, from 0."""
        if self.evaluations >= self.epochs:
            return tuple(range(self.epochs + 1))
        return tuple(grids.geometric(self.epochs, self.evaluations))

    def downloads(self) -> tuple[str, ...]:
        """The data sets that have to be fetched."""
        return (self.dataset,) if self.facts.origin == "fetched" else ()

    def needs(self) -> Needs:
        """A GPU always; memory and time for the real sets or for the small ones."""
        return (
            Needs(mem_mb=24000, runtime=2880, gpu=1)
            if self.downloads()
            else Needs(mem_mb=420, seed_mb=65, runtime=30, gpu=1)
        )

    def disk(self, seeds: int) -> Disk:
        """The prepared examples of a real set; checkpoints of weights with two more numbers for each, as Adam has."""
        if not self.downloads():
            return Disk()
        parts = (self.train_examples, self.test_examples)
        count = self.facts.examples if None in parts else min(self.facts.examples, sum(filter(None, parts)))
        copies = 1 if parts == (None, None) else seeds  # seeds share a whole set
        weights = seeds * self.weight_bytes
        return Disk(
            data=copies * count * self.example_bytes,
            results=weights if self.keep_weights else 0,
            checkpoint=2 * 3 * weights,  # a new one is written beside the last one
        )

    @property
    def example_bytes(self) -> int:
        """What one prepared example takes on disk."""
        raise NotImplementedError

    @property
    def weight_bytes(self) -> int:
        """What the weights of one run take; nothing, where that is little."""
        return 0


class Vision(Deep):
    """A small ViT that classifies images.

    pixels: height and width to which images are averaged down (MNIST after padding to 32 x 32), or at which a stand-in
        is generated; None for their own size.
    patch: height and width of a patch; dim: embedding dimension; depth: blocks; heads: attention heads;
    dim_head: dimension per head; mlp: hidden width of the perceptrons; dropout: inside the blocks;
    embedding_dropout: after the positional embedding.
    """

    dataset: Literal[*IMAGES]  # type: ignore[valid-type]
    pixels: Count | None
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
        if self.pixels is not None and 32 % self.pixels:
            raise ValueError(f"pixels: expected a divisor of 32, found {self.pixels}")
        if self.size % self.patch:
            raise ValueError(f"patch: expected a divisor of the image size {self.size}, found {self.patch}")
        return self

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return IMAGES[self.dataset].channels

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return self.pixels or IMAGES[self.dataset].size

    @property
    def example_bytes(self) -> int:
        """Pixels and a label, a byte each."""
        return self.channels * self.size**2 + 1

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """A ViT has a class token and positions, and a temperature in each block, too."""
        return {**super().tensors, "positions (1 x tokens x dim)": (1, 3, 2), "scalars": ()}

    @property
    def stackable(self) -> bool:
        """Whether the runs of several seeds train together."""
        few = (self.size // self.patch) ** 2 < FEW_TOKENS
        return few and self.precision == "float32" and not self.dropout and not self.embedding_dropout


class Scratch(Settings):
    """A small BERT that is not read from files: its sizes, and the standard deviation of its first weights."""

    hidden: Count
    layers: Count
    heads: Count
    mlp: Count
    initial_deviation: Positive

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"heads: expected a divisor of hidden ({self.hidden}), found {self.heads}")
        return self


class Masked(Options):
    """Of an entry whose runs learn to fill in masked words, for others to start from (`start_from`); all or none.

    One net is trained for all seeds, as there is one BERT; its texts are drawn apart from those of the seeds.

    masked: share of the words that are to be found; texts: how many are drawn; steps: of the optimizer, whose rate
    rises to `lr` over `warm_up` of them and then falls to 0 along a line.
    """

    masked: Annotated[Positive, Field(le=1)] | None = None
    texts: Count | None = None
    steps: Count | None = None
    warm_up: Count | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = [name for name in Masked.model_fields if getattr(self, name) is not None]
        if given and len(given) < len(Masked.model_fields):
            raise ValueError(f"{', '.join(Masked.model_fields)}: expected all of them or none, found {given}")
        if self.steps is not None and self.warm_up is not None and self.warm_up > self.steps:
            raise ValueError(f"warm_up: expected at most steps = {self.steps}, found {self.warm_up}")
        return self


class Language(Deep):
    """A BERT that classifies texts or pairs of texts.

    encoder: the name of a pre-trained encoder that can be fetched, the folder of one in the format of
        `transformers` (config.json, model.safetensors, tokenizer), or the sizes of one that is trained here.
    max_length: longest input in tokens; longer ones are cut.
    dropout: None for the encoder's own.
    """

    options: ClassVar[type[Options]] = Masked

    dataset: Literal[*TEXTS]  # type: ignore[valid-type]
    encoder: str | Scratch
    max_length: Count
    dropout: Probability | None

    @model_validator(mode="after")
    def _words(self) -> Self:
        if self.max_length < 8:
            raise ValueError(f"max_length: expected at least 8 tokens, found {self.max_length}")
        if self.standin != isinstance(self.encoder, Scratch):
            raise ValueError(
                "encoder: a generated data set goes with the sizes of an encoder, a real one with a pre-trained "
                f"encoder; found the data set {self.dataset!r} with the encoder {self.encoder!r}"
            )
        return self

    @property
    def example_bytes(self) -> int:
        """Four bytes for each token, one for its segment, and length and label; the longest text counts for all."""
        return 5 * self.max_length + 5

    @property
    def weight_bytes(self) -> int:
        """What the weights of the encoder take."""
        if isinstance(self.encoder, Scratch):
            return 0
        file = Path(self.encoder).expanduser() / "model.safetensors"
        return ENCODERS.get(self.encoder) or (file.stat().st_size if file.is_file() else 0)

    @property
    def stackable(self) -> bool:
        """Whether the runs of several seeds train together."""
        return isinstance(self.encoder, Scratch) and self.precision == "float32" and self.dropout == 0

    def route(self, optimizer: Optimizer) -> Literal["fast", "plain"]:
        """As all; and runs that learn masked words need a tiny BERT and a rate that can rise and fall."""
        if pretrains(optimizer):
            if not isinstance(self.encoder, Scratch):
                raise UserError(f"masked: expected an encoder given by its sizes; {self.encoder!r} is pre-trained")
            if "lr" not in optimizer.hyperparameters:
                raise UserError(f"masked: expected a rule with `lr`, which rises and falls; found {optimizer.rule!r}")
        return super().route(optimizer)

    def check_start(self, optimizer: Optimizer, start: Optimizer) -> None:
        """Runs go on from masked words to the classes of the data set, once."""
        if not pretrains(start):
            raise UserError(f"expected an entry with `masked`; {start.label!r} learns the classes itself")
        if pretrains(optimizer):
            raise UserError("a run with `masked` starts on its own")

    def compared(self, optimizer: Optimizer) -> bool:
        """All runs that learn the classes."""
        return not pretrains(optimizer)

    def downloads(self) -> tuple[str, ...]:
        """The data set, and the encoder where it is one that can be fetched."""
        return (*super().downloads(), *((self.encoder,) if self.encoder in ENCODERS else ()))  # type: ignore[arg-type]


def pretrains(optimizer: Optimizer) -> bool:
    """Whether the runs of an entry learn to fill in masked words; they are the start of others and no rival."""
    return isinstance(optimizer.options, Masked) and optimizer.options.masked is not None


KINDS: dict[str, type[Settings]] = {"vision": Vision, "language": Language}
DRAWINGS: dict[str, tuple[Any, ...]] = {
    "fig1": (Language,),
    "fig4": (Language,),
    "fig6": (Vision,),
    "fig7": (Vision,),
    "extra_vision_sensitivity": (Vision,),
}
