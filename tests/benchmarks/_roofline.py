"""How near fast code comes to what the machine can do: its work against speeds measured in the same run.

Three bounds, each as the share of the measured time that the work would take at the machine's best: matrix products at
the speed of a large one, bytes at the speed of copying as many as are touched, and operations of torch at the time of
one on some dozen numbers. The largest says what limits the code.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_SMALLEST, _LARGEST = 1 << 18, 1 << 27  # bytes that are copied: within a core's cache, and beyond all caches
_LIMITS = {
    "arithmetic": "the peak of matrix products",
    "memory": "the bandwidth of caches and memory",
    "calls": "the interpreter and torch's calls",
}
_NEAR = 0.25  # of the time: below it in all three, the code is limited by something else


@cache
def product(kind: torch.dtype) -> float:
    """Flop a second of a large matrix product."""
    square = torch.ones(512, 512, dtype=kind)
    out = torch.empty_like(square)
    return 2 * 512**3 / fastest(lambda: torch.mm(square, square, out=out), 20)


def copy(touched: float) -> float:
    """Bytes a second, read and written, of a copy that touches about so many."""
    return _copy(1 << math.ceil(math.log2(min(max(touched, _SMALLEST), _LARGEST))))


@cache
def _copy(touched: int) -> float:
    source, target = np.ones((2, touched // 2), np.uint8)
    often = max(_LARGEST // 16 // touched, 1)
    return often * touched / fastest(lambda: [np.copyto(target, source) for _ in range(often)], 10)


@cache
def call() -> float:
    """Seconds of an operation of torch on 64 numbers, the mean of some kinds."""
    one, other = torch.ones(8, 8), torch.ones(8, 8)
    matrix, out = torch.ones(1, 8, 8), torch.empty(8, 8)

    def some() -> None:
        for _ in range(100):
            one * other
            one.sum(1)
            torch.bmm(matrix, matrix)
            torch.sub(one, other, out=out)

    return fastest(some, 20) / 400


def machine() -> Iterator[str]:
    """What this machine was found to do, and how it is used."""
    single, double = (product(kind) / 1e9 for kind in (torch.float32, torch.float64))
    near, far = copy(_SMALLEST) / 1e9, copy(_LARGEST) / 1e9
    yield f"a product of 512 x 512 numbers: {single:.0f} GFLOP/s, in float64 {double:.0f}"
    yield f"a copy, read and written: {near:.0f} GB/s within the cache, {far:.0f} in memory"
    yield f"an operation of torch on 64 numbers: {1e6 * call():.1f} us"
    yield "under each ratio: the share of the fast side's time that its work would take at these speeds"


class Work(NamedTuple):
    """What is done.

    flop: by type; in torch, those of matrix products. moved: bytes that operations read and write. touched: how many
    different ones. calls: operations of torch, views among them.
    """

    flop: Mapping[torch.dtype, float]
    moved: float
    touched: float
    calls: float = 0

    @classmethod
    def of(cls, run: Callable[[], object]) -> Work:
        """What a call does in torch."""
        with _Counting() as found:
            run()
        return cls(found.flop, found.moved, sum(found.storages.values()), found.calls)

    def times(self, units: float) -> Work:
        """The same work for so many units, in the same memory."""
        flop = {kind: flop * units for kind, flop in self.flop.items()}
        return Work(flop, self.moved * units, self.touched, self.calls * units)

    def line(self, seconds: float) -> str:
        """The share of some CPU seconds that it would take at the machine's best, and so what limits it."""
        shares = {
            "arithmetic": sum(flop / product(kind) for kind, flop in self.flop.items()) / seconds,
            "memory": self.moved / copy(self.touched) / seconds,
            "calls": self.calls * call() / seconds,
        }
        most = max(shares, key=lambda name: shares[name])
        limit = (
            _LIMITS[most]
            if shares[most] > _NEAR
            else "none of these alone: loops over entries (exponentials, sums), Python"
        )
        flop, moved, touched = (number / 1e6 for number in (sum(self.flop.values()), self.moved, self.touched))
        return (
            f"{', '.join(f'{name} {share:.0%}' for name, share in shares.items())}: limited by {limit} "
            f"({flop:.3g} Mflop, {moved:.3g} MB moved among {touched:.2g}, {self.calls:.0f} operations)"
        )


class _Counting(TorchDispatchMode):
    """Counts while it is entered; views cost a call and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.flop: Counter[torch.dtype] = Counter()
        self.moved = self.calls = 0
        self.storages: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        found = operation(*given, **(named or {}))
        self.calls += 1
        if operation.is_view:
            return found
        results = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        tensors = [leaf for leaf in tree_leaves((given, named)) if isinstance(leaf, torch.Tensor)] + results
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.moved += min(tensor.numel() * tensor.element_size(), storage.nbytes())
            self.storages[storage.data_ptr()] = max(storage.nbytes(), self.storages.get(storage.data_ptr(), 0))
        count = flop_registry.get(operation.overloadpacket)
        if count is not None:
            self.flop[results[0].dtype] += count(*given, **(named or {}), out_val=found)
        return found


def fastest(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of some repetitions."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)
