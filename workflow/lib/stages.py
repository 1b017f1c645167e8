"""The stages: each reads its input files, calls one function of a paper's room, and writes whole files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from workflow.lib import costs, identity, rooms, startup
from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays, atomic, read_arrays, read_parameters, write_arrays, write_parameters, write_text
from workflow.lib.plan.model import Experiment, Paper, block_seeds


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
) -> None:
    """Run one optimizer on a block of seeds; write the trace, the final parameters and snapshots.

    Args:
        experiment: the optimizer's.
        optimizer: its label.
        seeds: those of the block.
        data: the data of the block.
        trace: the table to write.
        parameters: the file to write.
        device: cpu, cuda or auto.
        start: the parameters of the same block's runs that these go on from, where they do.
    """
    from workflow.lib.tables import write_traces

    entry = experiment.optimizer(optimizer)
    if (entry.start_from is None) != (start is None):
        wanted = f"the parameters of {entry.start_from!r}" if entry.start_from else "nothing"
        raise UserError(f"--start: runs of {optimizer!r} start from {wanted}; found {start or 'nothing'}")
    arrays = read_arrays(data, identity.of_data(experiment, seeds))
    before = None
    if start is not None and entry.start_from is not None:
        before = read_parameters(start, identity.of_run(experiment, entry.start_from, seeds))
    checkpoint = parameters.with_suffix(".checkpoint")
    startup.begin_training()
    with startup.without_shapes_alone(entry.rule, device):
        training = rooms.train(experiment)
    costs.work_begins()
    run = training(experiment, entry, arrays, Job(device, checkpoint, before))
    what = identity.of_run(experiment, optimizer, seeds)
    write_parameters(parameters, run.parameters, what)
    write_traces(trace, experiment.paper, experiment.name, {optimizer: run.trace}, what)
    checkpoint.unlink(missing_ok=True)


def measure(experiment: Experiment, data: Sequence[Path], folder: Path, blocks: Sequence[str], metrics: Path) -> None:
    """Join the runs of all optimizers and seeds and measure them.

    Args:
        experiment: all its optimizers are measured.
        data: the data files of all blocks.
        folder: holds `{optimizer}/{block}.parquet` and `.safetensors`.
        blocks: the names of the blocks.
        metrics: the table to write.
    """
    from workflow.lib.tables import read_traces, write_traces

    measuring = rooms.measure(experiment)
    costs.work_begins()
    seeds = [block_seeds(block) for block in blocks]
    if len(data) != len(blocks):
        raise UserError(f"--data: expected one file for each of the blocks {', '.join(blocks)}; found {len(data)}")
    joined: dict[int, Arrays] = {}
    for path, numbers in zip(data, seeds, strict=True):
        joined.update(read_arrays(path, identity.of_data(experiment, numbers)))
    runs = {}
    for label in experiment.optimizers:
        stems = [folder / label / block for block in blocks]
        asked = [identity.of_run(experiment, label, numbers) for numbers in seeds]
        trace = read_traces(*(stem.with_suffix(".parquet") for stem in stems), identities=asked)[label]
        parts = [
            read_parameters(stem.with_suffix(".safetensors"), what) for stem, what in zip(stems, asked, strict=True)
        ]
        runs[label] = Run(trace, _joined(parts))
    measured = measuring(experiment, joined, runs)
    what = identity.of_metrics(experiment, sorted(joined))
    write_traces(metrics, experiment.paper, experiment.name, measured, what)


def _joined(blocks: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def draw(paper: Paper, figure: str, metrics: Mapping[str, Path], template: Path, outputs: Mapping[str, Path]) -> None:
    """Draw one figure: `.pdf`, `.png`, the `.csv` of the numbers drawn, its caption as `.rst`.

    Where `outputs` names a `description`, it gets everything else that a reader of the numbers has to know: how they
    are drawn, the caption's text, and every setting with its evidence.
    """
    from workflow.lib import captions, plotting
    from workflow.lib.runs import NotRecordedError
    from workflow.lib.tables import read_metrics

    entry = paper.figure(figure)
    experiments = [paper.experiment(name) for name in entry.experiments]
    drawn = rooms.figures(paper.name)[entry.drawing]
    costs.work_begins()
    with plotting.look():
        try:
            loaded = read_metrics(metrics, {e.name: identity.of_metrics(e) for e in experiments})
            drawing = drawn(loaded, *experiments)
        except NotRecordedError as error:
            raise UserError(f"{paper.name}.figures.{figure}: the runs are too short to draw it: {error}") from None
        description = plotting.finished(drawing.figure)
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", None)):
            with atomic(outputs[kind]) as temporary:
                drawing.figure.savefig(temporary, metadata=metadata)
            drawing.figure.set_layout_engine("none")  # laid out once, for both files
    drawing.table.write_csv(outputs["csv"])
    text = captions.text(template, drawing.facts)
    write_text(outputs["caption"], captions.render(text, paper, figure))
    if "description" in outputs:
        described = {**captions.described(text, paper, figure), **description}
        write_text(outputs["description"], json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def judge(paper: Paper, metrics: Mapping[str, Path], table: Path) -> None:
    """Measure every claim of a paper and hold it against its band; a claim that fails is a line like any other."""
    from workflow.lib import judging
    from workflow.lib.tables import read_metrics

    known = rooms.claims(paper.name)
    costs.work_begins()
    loaded = read_metrics(metrics, {name: identity.of_metrics(paper.experiment(name)) for name in metrics})
    judging.write_csv(
        table, [judging.judged(paper, claim, known[claim.name], loaded) for claim in paper.claims.values()]
    )


def gather(tables: Sequence[Path], titles: Mapping[str, str], csv: Path, markdown: Path, html: Path) -> None:
    """Join the claims of all papers into one table, for programs, for reading and for the report."""
    from workflow.lib import judging, page

    joined = judging.read_csv(tables)
    with atomic(csv) as temporary:
        joined.to_csv(temporary, index=False)
    judging.write_markdown(markdown, joined, titles)
    page.write_claims(html, tables, titles)
