"""`python -m tests.budget [results]`: where the CPU seconds of a run went, by rule and paper, as its jobs' logs say.

Also how much memory each training held against what its settings ask for. Jobs that ran again are counted once.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from workflow.lib import rooms
from workflow.lib.costs import Cost
from workflow.lib.plan.model import block_seeds


def costs(results: Path) -> dict[Path, Cost]:
    """What each job of a run cost, by its log."""
    found = {path: Cost.read(path.read_text(errors="replace")) for path in sorted(results.rglob("logs/**/*.log"))}
    return {path: cost for path, cost in found.items() if cost is not None}


def budget(jobs: Mapping[Path, Cost], results: Path, snakemake: float | None = None) -> Iterator[str]:
    """The table's lines: stage and paper, jobs, CPU seconds, the share of them that went into starting, memory.

    Args:
        jobs: see `costs`.
        results: the folder that their logs lie in.
        snakemake: CPU seconds of the whole run beyond those of its jobs, where they are known.
    """
    parts: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for path, cost in jobs.items():
        parts[cost.stage, path.relative_to(results).parts[0].replace("logs", "all")].append(cost)
    yield f"{'stage':<10} {'paper':<6} {'jobs':>5} {'CPU s':>8} {'each':>7} {'starting':>9} {'most MB':>8}"
    order = sorted(parts, key=lambda part: -sum(cost.seconds for cost in parts[part]))
    for stage, paper in order:
        yield _line(stage, paper, parts[stage, paper])
    if jobs:
        yield _line("jobs", "all", list(jobs.values()))
    if snakemake is not None:
        yield f"{'snakemake':<10} {'all':<6} {'':>5} {snakemake:>8.1f}  (with the shells of its jobs)"
        yield f"{'in all':<17} {len(jobs):>5} {sum(cost.seconds for cost in jobs.values()) + snakemake:>8.1f}"


def _line(stage: str, paper: str, costs: list[Cost]) -> str:
    seconds, starting = sum(cost.seconds for cost in costs), sum(cost.starting for cost in costs)
    most = max(cost.memory for cost in costs)
    each = seconds / len(costs)
    return f"{stage:<10} {paper:<6} {len(costs):>5} {seconds:>8.1f} {each:>7.2f} {starting / seconds:>9.0%} {most:>8}"


def memory(jobs: Mapping[Path, Cost], results: Path) -> Iterator[tuple[str, int, int]]:
    """Of every kind of training: its name, the most MB that a job of it held, and what that job asks for on a CPU."""
    most: dict[str, tuple[int, int]] = {}
    papers = {paper: rooms.load_paper(paper) for paper in rooms.papers()}
    for path, cost in jobs.items():
        paper, experiment = path.relative_to(results).parts[0], path.parts[-3]
        if cost.stage == "train" and experiment in papers[paper].experiments:
            planned = papers[paper].experiment(experiment)
            rules = [planned.optimizer(label).rule for label in planned.job(path.parts[-2])]
            asked = planned.settings.memory(rules, len(block_seeds(path.stem)))
            name = f"{paper} {planned.kind}"
            most[name] = max(most.get(name, (0, 0)), (cost.memory, asked))
    for name, (held, asked) in most.items():
        yield name, held, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    results = parser.parse_args().results
    jobs = costs(results)
    print("\n".join(budget(jobs, results)))
    print("\nmemory of trainings in MB: held at most, asked for")
    for name, held, asked in memory(jobs, results):
        print(f"  {name:<28} {held:>6} {asked:>6}{'' if held <= asked <= 2 * held else '  not between once and twice'}")


if __name__ == "__main__":
    main()
