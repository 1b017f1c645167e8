"""The stages: each reads its input files, calls one function of a paper's room, and writes whole files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workflow.lib import costs, identity, optim, rooms, startup
from workflow.lib.contract import Drawing, Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays, atomic, read_arrays, read_parameters, write_arrays, write_parameters, write_text
from workflow.lib.plan.model import GENERAL, Experiment, Paper, block_seeds
from workflow.lib.runs import DATA, Trace


def generate(experiment: Experiment, seeds: Sequence[int], data: Path) -> None:
    """Make the data of a block of seeds."""
    make = rooms.generate(experiment)
    costs.work_begins()
    arrays = {number: make(experiment, experiment.seed(number)) for number in seeds}
    write_arrays(data, arrays, identity.of_data(experiment, seeds))


def train(
    experiment: Experiment,
    optimizer: str,
    seeds: Sequence[int],
    data: Path,
    trace: Path,
    parameters: Path,
    device: str = "cpu",
    start: Path | None = None,
    events: Path | None = None,
) -> None:
    """Run one optimizer on a block of seeds; write the trace, the final parameters and snapshots.

    Points of a sweep that share a job run one after another, each as it would alone, and lie in the same files: their
    parameters under `{label}/{name}`.

    Args:
        experiment: the optimizer's.
        optimizer: its label, or the name of the job that points of a sweep share (`Experiment.jobs`).
        seeds: those of the block.
        data: the data of the block.
        trace: the table to write.
        parameters: the file to write.
        device: cpu, cuda or auto.
        start: the parameters of the same block's runs that these go on from, where they do.
        events: a folder for what TensorBoard shows meanwhile, where that is wanted.
    """
    from workflow.lib.tables import write_traces

    entries = [experiment.optimizers[label] for label in experiment.job(optimizer)]
    start_from = entries[0].start_from  # common to all, because it cannot be swept
    if (start_from is None) != (start is None):
        wanted = f"the parameters of {start_from!r}" if start_from else "nothing"
        raise UserError(f"--start: runs of {optimizer!r} start from {wanted}; found {start or 'nothing'}")
    arrays = read_arrays(data, identity.of_data(experiment, seeds))
    before = None
    if start is not None and start_from is not None:
        before = read_parameters(start, identity.of_run(experiment, start_from, seeds))
    startup.begin_training()
    training = rooms.train(experiment)
    costs.work_begins()
    traces: dict[str, Trace] = {}
    kept: Arrays = {}
    checkpoints = []
    for entry in entries:
        alone = len(entries) == 1
        checkpoints.append(parameters.with_suffix(".checkpoint" if alone else f".{entry.label}.checkpoint"))
        own_events = events if alone or events is None else events / entry.label
        optim.begin(entry.rule, experiment.seed(seeds[0]))
        with optim.explained(entry.rule):
            run = training(experiment, entry, arrays, Job(device, checkpoints[-1], before, own_events))
        traces[entry.label] = run.trace
        kept |= {_parameter(experiment, entry.label, name): array for name, array in run.parameters.items()}
    what = identity.of_run(experiment, optimizer, seeds)
    write_parameters(parameters, kept, what)
    write_traces(trace, experiment.paper, experiment.name, traces, what, _swept(experiment, traces))
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def _parameter(experiment: Experiment, label: str, name: str) -> str:
    """What a run's array is called in its job's file."""
    return name if label in experiment.jobs else f"{label}/{name}"


def _swept(experiment: Experiment, labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The swept values of runs by label, for the files that hold them; empty where nothing is swept."""
    return {label: values for label in labels if label != DATA and (values := experiment.swept(label))}


def measure(experiment: Experiment, data: Sequence[Path], folder: Path, blocks: Sequence[str], metrics: Path) -> None:
    """Join the runs of all optimizers and seeds and measure them.

    Args:
        experiment: all its optimizers are measured.
        data: the data files of all blocks.
        folder: holds `{optimizer}/{block}.parquet` and `.safetensors`, or the shared job's name in place of the
            optimizer's (`Experiment.jobs`).
        blocks: the names of the blocks.
        metrics: the table to write.
    """
    from workflow.lib.tables import read_traces, write_traces

    measuring = rooms.measure(experiment)
    costs.work_begins()
    seeds = [block_seeds(block) for block in blocks]
    joined: dict[int, Arrays] = {}
    for path, numbers in zip(data, seeds, strict=True):
        joined.update(read_arrays(path, identity.of_data(experiment, numbers)))
    runs = {}
    for job, labels in experiment.jobs.items():
        stems = [folder / job / block for block in blocks]
        asked = [identity.of_run(experiment, job, numbers) for numbers in seeds]
        traces = read_traces(*(stem.with_suffix(".parquet") for stem in stems), identities=asked)
        parts = [
            read_parameters(stem.with_suffix(".safetensors"), what) for stem, what in zip(stems, asked, strict=True)
        ]
        parameters = _joined(parts)
        for label in labels:
            prefix = _parameter(experiment, label, "")
            own = {name.removeprefix(prefix): array for name, array in parameters.items() if name.startswith(prefix)}
            runs[label] = Run(traces[label], own)
    runs = {label: runs[label] for label in experiment.optimizers}
    measured = measuring(experiment, joined, runs)
    what = identity.of_metrics(experiment, sorted(joined))
    write_traces(metrics, experiment.paper, experiment.name, measured, what, _swept(experiment, measured))


def _joined(blocks: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def points(paper: Paper, figure: str, table: Path) -> None:
    """Write which values the points have that a sweep's figure draws: a line for each, to be joined on the labels.

    The columns are `experiment` and `optimizer`, as in the metric tables, and the swept values by name.
    """
    import csv

    lines = []
    for name in paper.figure(figure).experiments:
        experiment = paper.experiment(name)
        if experiment.sweep is None:
            raise UserError(f"{paper.name}.figures.{figure}: {name!r} holds no points of a sweep")
        for label in experiment.sweep.points or experiment.optimizers:
            lines.append({"experiment": name, "optimizer": label, **experiment.swept(label)})
    with atomic(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def draw(paper: Paper, figure: str, metrics: Mapping[str, Path], template: Path, outputs: Mapping[str, Path]) -> None:
    """Draw one figure: `.pdf`, `.png`, the `.csv` of the numbers drawn, its caption as `.rst`.

    Where `outputs` names a `description`, it gets everything else that a reader of the numbers has to know: how they
    are drawn, the caption's text, and every setting with its evidence. Where runs diverged or are too short for the
    figure, the picture says so and shows how far they came.
    """
    from workflow.lib import plotting

    with plotting.look():
        write_drawing(drawn(paper, figure, metrics), paper, figure, template, outputs)


def write_drawing(drawing: Drawing, paper: Paper, figure: str, template: Path, outputs: Mapping[str, Path]) -> None:
    """Write the files of a figure that was drawn, in `plotting.look()`; see `draw`."""
    from workflow.lib import captions, plotting

    description = plotting.finished(drawing.figure)
    with plotting.laid_out(drawing.figure):
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", None)):
            whole = io.BytesIO()  # written by Python, so that a full disk is the OSError it is everywhere else
            drawing.figure.savefig(whole, format=kind, metadata=metadata)
            with atomic(outputs[kind]) as temporary:
                temporary.write_bytes(whole.getbuffer())
    drawing.table.write_csv(outputs["csv"])
    own = captions.changed(paper, figure)
    text = captions.text(drawing.template or template, drawing.facts, drawing.diverged, own)
    write_text(outputs["caption"], captions.render(text, paper, figure))
    if "description" in outputs:
        described = {**captions.described(text, paper, figure), **description}
        write_text(outputs["description"], json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def drawn(paper: Paper, figure: str, metrics: Mapping[str, Path]) -> Drawing:
    """One figure, or what stands in its place, from the metric tables of its experiments; in `plotting.look()`."""
    from workflow.lib import undrawn
    from workflow.lib.runs import NotRecordedError
    from workflow.lib.tables import read_metrics

    entry = paper.figure(figure)
    experiments = [paper.experiment(name) for name in entry.experiments]
    drawing = rooms.drawing(paper.name, entry.drawing)
    costs.work_begins()
    loaded = read_metrics(metrics, {e.name: identity.of_metrics(e) for e in experiments})
    try:
        found = drawing(loaded, *experiments)
        if not len(found.table):
            raise NotRecordedError("no run recorded anything that it shows")
    except NotRecordedError as error:
        found = undrawn.drawing(loaded, experiments, str(error))
    series = set(found.table["series"])
    lost = [
        loaded.divergence(e.name, label)
        for e in experiments
        for label in loaded.optimizers(e.name)
        if label in series or entry.drawing in GENERAL or not loaded.ends(e.name, label).any()
    ]  # a figure leaves out what would have a line in it; what was lost at the start has none
    return replace(found, diverged=tuple(filter(None, lost)))


def judge(paper: Paper, metrics: Mapping[str, Path], table: Path, markdown: Path | None = None) -> None:
    """Measure every claim of a paper and hold it against its band; a claim that fails is a line like any other.

    Args:
        paper: its claims are judged.
        metrics: the metric table of each experiment.
        table: to write, for programs.
        markdown: the same for reading, if wanted.
    """
    from workflow.lib import judging
    from workflow.lib.tables import read_metrics

    known = rooms.claims(paper.name)
    costs.work_begins()
    loaded = read_metrics(metrics, {name: identity.of_metrics(paper.experiment(name)) for name in metrics})
    judging.write_csv(
        table, [judging.judged(paper, claim, known[claim.name], loaded) for claim in paper.claims.values()]
    )
    if markdown is not None:
        judging.write_markdown(markdown, [table], {paper.name: paper.title})


def gather(tables: Sequence[Path], titles: Mapping[str, str], csv: Path, markdown: Path, html: Path) -> None:
    """Join the claims of all papers into one table, for programs, for reading and for the report."""
    from workflow.lib import judging, page

    costs.work_begins()
    judging.write_joined(csv, tables)
    judging.write_markdown(markdown, tables, titles)
    page.write_claims(html, tables, titles)
