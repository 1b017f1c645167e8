"""Random streams: every draw comes from a generator keyed by (paper, stream, seed, purpose).

An experiment's name is no part of the key, so that two experiments with equal data settings see the same data and
comparisons are paired.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seed:
    """One seed of a paper's experiments; the source of its random streams.

    Streams of different purposes are independent, so drawing more of one never shifts another.
    """

    paper: str
    stream: int
    number: int

    def sequence(self, purpose: str) -> np.random.SeedSequence:
        """The seed sequence of one purpose."""
        key = hashlib.sha256(f"{self.paper}/{self.stream}/{purpose}".encode()).digest()
        return np.random.SeedSequence([self.number, *np.frombuffer(key, np.uint32).tolist()])

    def generator(self, purpose: str) -> np.random.Generator:
        """A NumPy generator for one purpose, such as "data" or "init"."""
        return np.random.default_rng(self.sequence(purpose))
