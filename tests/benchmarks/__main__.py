"""`python -m tests.benchmarks [--quick]`: print the table of ratios; exit 1 when one is below its floor."""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import torch

import tests.benchmarks
from tests.benchmarks._roofline import machine
from workflow.lib import startup


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, under 60 s in all")
    parser.add_argument("--only", nargs="*", default=None, metavar="MODULE", help="such as ntp")
    options = parser.parse_args()
    torch.set_num_threads(1)
    startup.begin_training()  # the fast side runs as in a training job
    names = [m.name for m in pkgutil.iter_modules(tests.benchmarks.__path__) if not m.name.startswith("_")]
    modules = [
        importlib.import_module(f"tests.benchmarks.{n}") for n in names if options.only is None or n in options.only
    ]
    print("\n".join(machine()))
    print(f"{'experiment':<58} {'plain':>9} {'fast':>9} {'ratio':>8} {'floor':>6}   (CPU seconds per unit)")
    below, ratios = [], []
    for module in modules:
        for benchmark in module.benchmarks(options.quick):
            plain, fast = benchmark.run()
            ratio = plain / fast
            ratios.append(ratio)
            if ratio < benchmark.floor:
                below.append(benchmark.experiment)
            print(
                f"{benchmark.experiment:<58} {plain:>9.3g} {fast:>9.3g} {ratio:>7.1f}x {benchmark.floor:>5.1f}x",
                flush=True,
            )
            if limit := benchmark.limit(fast):
                print(f"  {limit}", flush=True)
    for module in modules:
        for line in getattr(module, "tables", lambda quick: ())(options.quick):
            print(line, flush=True)
    verdict = f"below the floor: {', '.join(below)}" if below else "all at or above their floors"
    if ratios:
        print(f"bench: {len(ratios)} ratios, smallest {min(ratios):.1f}x, {verdict}")
    return 1 if below else 0


if __name__ == "__main__":
    raise SystemExit(main())
