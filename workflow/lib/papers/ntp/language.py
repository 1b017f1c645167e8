"""Collocations and query-wise orders: the languages that the paper's data sets are written in (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from workflow.lib.errors import UserError
from workflow.lib.files import Arrays

# Roles of a token for one query (Definition 1 and the four types after it).
NON_COMPARABLE, OPTIMAL, NON_OPTIMAL, CONFUSED = 0, 1, 2, 3

# The kinds of unseen sentences that Theorem 3 speaks of.
UNSEEN = ("new_token", "optimal_token")

_PATIENCE = 20_000


@dataclass(frozen=True)
class DataSet:
    """A training set of sentences with their next tokens.

    Attributes:
        collocation: shape (V,); the token that follows the one-token sentence [x].
        sentences: shape (N, L); each row one sentence of at least two tokens, padded by -1 on the right. The
            one-token sentences are the collocation.
        next_token: shape (N,).
    """

    collocation: np.ndarray
    sentences: np.ndarray
    next_token: np.ndarray

    @property
    def vocabulary_size(self) -> int:
        """The number V of tokens."""
        return self.collocation.size

    @property
    def last(self) -> np.ndarray:
        """The query of each sentence, its last token, shape (N,)."""
        lengths = (self.sentences >= 0).sum(axis=1)
        return self.sentences[np.arange(len(self.sentences)), lengths - 1]

    def arrays(self) -> Arrays:
        """As named arrays, for a file."""
        return {"collocation": self.collocation, "sentences": self.sentences, "next_token": self.next_token}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> DataSet:
        """From what `arrays` returned."""
        return cls(arrays["collocation"], arrays["sentences"], arrays["next_token"])


def from_strings(strings: Sequence[str]) -> tuple[DataSet, str]:
    """The data set of all proper prefixes of some strings, and its alphabet in order of first appearance.

    Raises:
        UserError: a token is followed by nothing or by two things, or a prefix by two different tokens.
    """
    alphabet = "".join(dict.fromkeys("".join(strings)))
    follows: dict[str, str] = {}
    for string in strings:
        for length in range(1, len(string)):
            prefix, token = string[:length], string[length]
            if follows.setdefault(prefix, token) != token:
                raise UserError(f"strings: {prefix!r} is followed by {follows[prefix]!r} and by {token!r}")
    missing = [token for token in alphabet if token not in follows]
    if missing:
        raise UserError(f"strings: no string starts with {missing[0]!r}, so its collocation is unknown")
    collocation = np.array([alphabet.index(follows[token]) for token in alphabet])
    longer = [prefix + token for prefix, token in follows.items() if len(prefix) > 1]
    return DataSet(collocation, *encode(longer, alphabet)), alphabet


def encode(strings: Sequence[str], alphabet: str) -> tuple[np.ndarray, np.ndarray]:
    """Strings as sentences (n, L), padded by -1, and their last letters as next tokens (n,).

    Raises:
        UserError: a letter is not in the alphabet.
    """
    for string in strings:
        for token in string:
            if token not in alphabet:
                raise UserError(f"probes: {string!r} holds {token!r}, expected letters of {alphabet!r}")
    sentences = np.full((len(strings), max(map(len, strings), default=2) - 1), -1)
    for row, string in enumerate(strings):
        sentences[row, : len(string) - 1] = [alphabet.index(token) for token in string[:-1]]
    return sentences, np.array([alphabet.index(string[-1]) for string in strings], dtype=np.int64)


def random_sentences(
    vocabulary_size: int, sentences: int, lengths: Sequence[int], generator: np.random.Generator
) -> DataSet:
    """A random realizable data set (docs/papers/ntp.md, section 3; a choice of ours).

    The collocation is a random permutation. Sentences of distinct tokens are drawn with a uniform length and a
    uniform optimal token; one that would contradict an order or make a token confused is drawn again.

    Raises:
        UserError: that many sentences cannot be placed without contradiction.
    """
    collocation = generator.permutation(vocabulary_size)
    roles = np.full((vocabulary_size, vocabulary_size), NON_COMPARABLE)
    rows: dict[tuple[int, ...], int] = {}
    rejected = 0
    while len(rows) < sentences:
        length = int(generator.choice(np.asarray(lengths)))
        tokens = generator.choice(vocabulary_size, size=length, replace=False)
        optimal = int(tokens[generator.integers(length)])
        others = tokens[tokens != optimal]
        role = roles[tokens[-1]]
        if tuple(tokens) in rows or role[optimal] == NON_OPTIMAL or (role[others] == OPTIMAL).any():
            rejected += 1
            if rejected > _PATIENCE:
                raise UserError(
                    f"sentences: found {sentences}, but after {len(rows)} of them {_PATIENCE} draws in a row "
                    "contradicted an order; expected fewer sentences or a larger vocabulary_size"
                )
            continue
        rejected = 0
        rows[tuple(tokens.tolist())] = collocation[optimal]
        role[optimal] = OPTIMAL
        role[others] = NON_OPTIMAL
    padded = np.full((sentences, max(lengths)), -1)
    for index, tokens_of_row in enumerate(rows):
        padded[index, : len(tokens_of_row)] = tokens_of_row
    return DataSet(collocation, padded, np.array(list(rows.values())))


def orders(data: DataSet) -> np.ndarray:
    """The query-wise orders (Definition 1), shape (V, V, V): [q, x, x'] is true when x >_q x'.

    x >_q x' when a training sentence with last token q contains both, and its next token is n(x) and not n(x').
    """
    inside = data.sentences >= 0
    explains = inside & (data.collocation[data.sentences] == data.next_token[:, None])
    sentence, best, other = np.nonzero(explains[:, :, None] & (inside & ~explains)[:, None, :])
    above = np.zeros((data.vocabulary_size,) * 3, dtype=bool)
    above[data.last[sentence], data.sentences[sentence, best], data.sentences[sentence, other]] = True
    return above


def roles(above: np.ndarray) -> np.ndarray:
    """The role of each token for each query, shape (V, V) as [q, x], from the orders."""
    over, under = above.any(axis=2), above.any(axis=1)
    return np.select([over & under, over, under], [CONFUSED, OPTIMAL, NON_OPTIMAL], NON_COMPARABLE)


def optimal_tokens(data: DataSet) -> np.ndarray:
    """The optimal token of each sentence for its query, shape (N,).

    Raises:
        ValueError: a sentence has none, or several.
    """
    role = roles(orders(data))[data.last[:, None], data.sentences]
    found = (role == OPTIMAL) & (data.sentences >= 0)
    if not (found.sum(axis=1) >= 1).all():
        raise ValueError("a sentence has no optimal token")
    tokens = np.where(found, data.sentences, -1).max(axis=1)
    if (found & (data.sentences != tokens[:, None])).any():
        raise ValueError("a sentence has two optimal tokens")
    return tokens


def violations(data: DataSet) -> list[str]:
    """What breaks Assumption 1 (realizable) or Assumption 3 (the optimal token is frequent); empty when nothing."""
    found = []
    if np.unique(data.collocation).size != data.vocabulary_size:
        found.append("the collocation is not injective")
    if (roles(orders(data)) == CONFUSED).any():
        found.append("a token is confused: above one token and below another for the same query")
    try:
        optimal = optimal_tokens(data)
    except ValueError as error:
        return [*found, str(error)]
    if (data.collocation[optimal] != data.next_token).any():
        found.append("a next token is not the collocation of the optimal token")
    counts = (data.sentences[:, :, None] == data.sentences[:, None, :]).sum(axis=2)
    optimal_count = (data.sentences == optimal[:, None]).sum(axis=1)
    role = roles(orders(data))[data.last[:, None], data.sentences]
    if ((role == NON_OPTIMAL) & (data.sentences >= 0) & (counts > optimal_count[:, None])).any():
        found.append("a non-optimal token occurs more often than the optimal one (Assumption 3)")
    return found


def unseen_sentences(data: DataSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All unseen sentences of 2 or 3 distinct tokens of the two kinds of Theorem 3, with what should follow.

    Returns:
        `new_token`: one non-comparable token among non-optimal ones, continued by its collocation;
        `optimal_token`: one optimal token among non-comparable ones, continued by its collocation. Each as
        sentences (n, 3), padded by -1, and next tokens (n,).
    """
    sentences, lasts = _sets_with_query(data.vocabulary_size)
    # Attention does not see positions before the last, so a sentence is known by its tokens and its query.
    short = (data.sentences >= 0).sum(axis=1) <= 3
    seen = _codes(data.sentences[short], data.last[short], data.vocabulary_size)
    unseen = ~np.isin(_codes(sentences, lasts, data.vocabulary_size), seen)
    sentences, lasts = sentences[unseen], lasts[unseen]
    role = np.where(sentences >= 0, roles(orders(data))[lasts[:, None], sentences], -1)

    def of_kind(one: int, others: int) -> tuple[np.ndarray, np.ndarray]:
        length = (sentences >= 0).sum(axis=1)
        chosen = ((role == one).sum(axis=1) == 1) & ((role == others).sum(axis=1) == length - 1)
        token = np.where(role[chosen] == one, sentences[chosen], -1).max(axis=1)
        return sentences[chosen], data.collocation[token]

    return {
        "new_token": of_kind(NON_COMPARABLE, NON_OPTIMAL),
        "optimal_token": of_kind(OPTIMAL, NON_COMPARABLE),
    }


@cache
def _sets_with_query(size: int) -> tuple[np.ndarray, np.ndarray]:
    """All sentences of 2 or 3 distinct tokens, up to the order before the query (n, 3), and their queries (n,)."""
    three = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    three = three[(three[:, 0] < three[:, 1]) & (three[:, 0] != three[:, 2]) & (three[:, 1] != three[:, 2])]
    two = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    two = np.column_stack([two[two[:, 0] != two[:, 1]], np.full(size * (size - 1), -1)])
    sentences = np.concatenate([two, three])
    return sentences, np.where(sentences[:, 2] >= 0, sentences[:, 2], sentences[:, 1])


def _codes(sentences: np.ndarray, queries: np.ndarray, size: int) -> np.ndarray:
    """One number for each sentence (n, L) of at most 3 tokens and its query (n,), whatever the tokens' order; (n,)."""
    tokens = np.sort(np.column_stack([np.full((len(sentences), 3), -1), sentences]), axis=1)[:, -3:]
    return np.column_stack([tokens + 1, queries]) @ (size + 1) ** np.arange(4)
