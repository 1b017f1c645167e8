"""Generated stand-ins for CIFAR-10, MultiNLI and Civil Comments: same tensors and labels, no download.

They can be learned in some hundred steps, but not by one pixel or one word alone. They are no models of the
real sets: what is drawn from them says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from workflow.lib.datasets import Sentences

# ---- images ----


def images(rng: np.random.Generator, count: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Stripes on coloured ground, (count, 3, size, size) and labels (count,), both uint8; ten classes in random order.

    The class is the hue of the ground (label mod 5, steps of 72 degrees, off by 20 degrees on average) together with
    the direction of the stripes (label // 5, one diagonal or the other, off by 12 degrees): as in photographs, colour
    tells much at once and shape tells the rest. Saturation, wavelength, phase, contrast, a window that fades the
    stripes out, and noise are drawn anew for each image and say nothing of the class.
    """
    labels = rng.integers(0, 10, count)
    hue = np.deg2rad(72 * (labels % 5) + rng.normal(0, 25, count))
    ground = rng.uniform(0.1, 0.3, count)[:, None] * np.cos(hue[:, None] - np.deg2rad([0, 120, 240]))
    angle = np.deg2rad(np.where(labels < 5, 45, 135) + rng.normal(0, 15, count))
    wave = 2 * np.pi / (size * rng.uniform(0.375, 0.75, count))
    phase = rng.uniform(0, 2 * np.pi, count)
    contrast = rng.uniform(0.12, 0.35, count)
    centre = size * rng.uniform(0.25, 0.75, (2, count))
    y, x = (axis[None] for axis in np.indices((size, size)))
    across = x * _column(np.cos(angle)) + y * _column(np.sin(angle))
    stripes = _column(contrast) * np.sin(_column(wave) * across + _column(phase))
    distance = (x - _column(centre[0])) ** 2 + (y - _column(centre[1])) ** 2
    stripes = stripes * np.exp(-distance / (2 * (0.28 * size) ** 2))
    picture = 0.5 + ground[:, :, None, None] + stripes[:, None] + rng.normal(0, 0.08, (count, 3, size, size))
    return (255 * picture.clip(0, 1)).round().astype(np.uint8), labels.astype(np.uint8)


def _column(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


# ---- texts ----

_PEOPLE = ["doctor", "teacher", "farmer", "pilot", "singer", "lawyer", "student", "painter", "baker", "sailor"]
_ANIMALS = ["dog", "horse", "cat", "parrot", "donkey"]
_KINDS = dict.fromkeys(_PEOPLE, "person") | dict.fromkeys(_ANIMALS, "animal")
_VERBS = {
    "found": "lost",
    "bought": "sold",
    "opened": "closed",
    "loved": "hated",
    "built": "destroyed",
    "praised": "blamed",
}
_OPPOSITE = _VERBS | {value: key for key, value in _VERBS.items()}
_THINGS = ["house", "boat", "letter", "lamp", "bridge", "wagon", "violin", "garden", "ticket", "basket"]
_ADJECTIVES = ["old", "young", "tall", "quiet", "clever", "tired", "famous", "cheerful"]
_PLACES = ["in the city", "near the river", "at the market", "behind the church", "on the island"]
_DETAILS = ["for his sister", "because of the rain", "after a long quarrel", "to win a prize", "for the first time"]


def premises(rng: np.random.Generator, count: int) -> Sentences:
    """Pairs of sentences: entailment (0), neutral (1) or contradiction (2), in equal shares.

    Entailed hypotheses leave something out or name the kind (doctor: person); neutral ones add a detail;
    contradictions negate or turn the verb round. Half of the contradictions carry no telltale word, as does a
    third of the neutral ones, and one label in twenty is drawn at random.
    """
    labels = rng.integers(0, 3, count)
    pairs = [_pair(rng, int(label)) for label in labels]
    noisy = rng.random(count) < 0.05
    labels = np.where(noisy, rng.integers(0, 3, count), labels)
    return Sentences([p for p, _ in pairs], [h for _, h in pairs], labels.astype(np.uint8))


def _pair(rng: np.random.Generator, label: int) -> tuple[str, str]:
    def one(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    subject, verb, thing = one([*_KINDS]), one([*_OPPOSITE]), one(_THINGS)
    adjective, place = one(_ADJECTIVES), one(_PLACES)
    premise = f"the {adjective} {subject} {verb} the {thing} {place}"
    how = rng.random()
    if label == 0:
        who = f"the {subject}" if how < 0.5 else f"a {_KINDS[subject]}"
        return premise, f"{who} {verb} the {thing}" + (f" {place}" if rng.random() < 0.5 else "")
    if label == 1:
        if how < 0.33:
            return premise, f"the {one(_ADJECTIVES)} {_KINDS[subject]} {verb} the {thing} {one(_PLACES)}"
        return premise, f"the {subject} {verb} the {thing} {one(_DETAILS)}"
    if how < 0.5:
        return premise, f"the {subject} {one(['never', 'hardly', 'not'])} {verb} the {thing}"
    return premise, f"the {subject} {_OPPOSITE[verb]} the {thing}"


_INSULTS = ["idiot", "liar", "fool", "coward", "clown", "crook"]
_RUDE = ["stupid", "pathetic", "disgusting", "dumb", "shameful"]
_TOPICS = ["tax", "school", "road", "budget", "council", "election", "pipeline", "hospital", "teacher", "mayor"]
_VIEWS = ["plan", "vote", "idea", "report", "decision", "speech", "policy", "proposal"]
_POLITE = ["sensible", "useful", "costly", "late", "fair", "open", "careful", "unclear"]
_FILLERS = ["today", "again", "frankly", "indeed", "perhaps", "anyway", "honestly", "still"]


def comments(rng: np.random.Generator, count: int) -> Sentences:
    """Comments on news, toxic (1) or not (0), in equal shares.

    Toxic ones call someone names or call a view rude words. The same words stand in harmless comments too,
    quoted or negated ("nobody is a liar here"), and one label in twenty is drawn at random.
    """
    toxic = rng.random(count) < 0.5
    texts = [_comment(rng, bool(is_toxic)) for is_toxic in toxic]
    noisy = rng.random(count) < 0.05
    labels = np.where(noisy, rng.random(count) < 0.5, toxic)
    return Sentences(texts, None, labels.astype(np.uint8))


def _comment(rng: np.random.Generator, toxic: bool) -> str:
    def one(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    opening = f"the {one(_TOPICS)} {one(_VIEWS)} is {one(_POLITE)} {one(_FILLERS)}"
    closing = f"{one(_FILLERS)} the {one(_VIEWS)} on the {one(_TOPICS)} is {one(_POLITE)}"
    if toxic:
        point = one(
            [
                f"the mayor is a {one(_INSULTS)}",
                f"what a {one(_RUDE)} {one(_VIEWS)}",
                f"you {one(_RUDE)} {one(_INSULTS)}",
            ]
        )
    elif rng.random() < 0.4:
        point = one(
            [
                f"nobody is a {one(_INSULTS)} here",
                f"it is not {one(_RUDE)} at all",
                f"who said {one(_RUDE)} {one(_INSULTS)}",
            ]
        )
    else:
        point = f"what a {one(_POLITE)} {one(_VIEWS)}"
    return f"{opening} {point} {closing}" if rng.random() < 0.5 else f"{point} {closing}"


_GRAMMAR = "the a never hardly not is on what you nobody here it at all who said mayor"


def words() -> tuple[str, ...]:
    """Every word that `premises` and `comments` may use, in alphabetical order."""
    lists: list[Iterable[str]] = [_KINDS, _KINDS.values(), _OPPOSITE, _THINGS, _ADJECTIVES, _PLACES, _DETAILS]
    lists += [_INSULTS, _RUDE, _TOPICS, _VIEWS, _POLITE, _FILLERS, [_GRAMMAR]]
    return tuple(sorted({word for texts in lists for text in texts for word in text.split()}))
