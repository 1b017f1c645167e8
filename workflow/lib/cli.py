"""The command line of the stages: `python -m workflow.lib <stage> --help`.

The rules call these commands, and so may you. Whatever of an experiment is not said on the command line is read
from `config/papers/<paper>.yaml`.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from workflow.lib import costs, datasets, rooms, stages, startup
from workflow.lib.errors import UserError, from_os_error
from workflow.lib.files import write_text
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Experiment, Paper, block_seeds, blocks
from workflow.lib.plan.reading import ROOT, read_yaml, shipped

_OUT_OF_MEMORY = "out of memory: choose a smaller setting or fewer seeds_per_job, or a machine with more memory."
# What `draw` writes.
_DRAWN = ("pdf", "png", "csv", "caption", "description")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; 0 on success, 1 with one message on stderr for a mistake that is the user's to mend."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail(_OUT_OF_MEMORY)
    except ImportError as error:
        if "failed to map segment" not in str(error):
            raise
        return _fail(_OUT_OF_MEMORY)  # a library that does not fit
    except OSError as error:
        return _fail(_OUT_OF_MEMORY if error.errno == errno.ENOMEM else str(from_os_error(error)))
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _fetch(options: argparse.Namespace) -> None:
    manifest = datasets.fetch(options.dataset, options.folder, options.data_dir)
    datasets.write_manifest(options.manifest or options.folder.with_suffix(".json"), manifest)


def _generate(options: argparse.Namespace) -> None:
    stages.generate(_experiment(options), block_seeds(options.seeds), options.data)


def _train(options: argparse.Namespace) -> None:
    _use_threads(options.threads)
    startup.begin_training()  # before the plan is read, which builds a rule from elsewhere to check it
    if options.device == "cuda":
        from workflow.lib import devices

        devices.choose(options.device)  # before anything is read: of a cluster's node it is known here only
    stages.train(
        _experiment(options),
        options.optimizer,
        block_seeds(options.seeds),
        options.data,
        options.trace,
        options.parameters,
        options.device,
        options.start,
        options.events,
    )


def _measure(options: argparse.Namespace) -> None:
    names = blocks(len(block_seeds(options.seeds)), options.block)
    data = [options.data / f"{name}.npz" for name in names]
    stages.measure(_experiment(options), data, options.runs, names, options.metrics)


def _points(options: argparse.Namespace) -> None:
    stages.points(_paper(options), options.figure, options.table)


def _draw(options: argparse.Namespace) -> None:
    os.environ["MPLBACKEND"] = "agg"  # no window is opened, whatever a notebook or a profile has set
    startup.begin_drawing()
    paper = _paper(options)
    figure = paper.figure(options.figure)
    stages.draw(
        paper,
        options.figure,
        _tables(options.metrics, figure.experiments),
        options.template or rooms.caption(paper.name, figure.drawing),
        {kind: path for kind in _DRAWN if (path := getattr(options, kind))},
    )


def _judge(options: argparse.Namespace) -> None:
    paper = _paper(options)
    stages.judge(paper, _tables(options.metrics, paper.experiments), options.claims, options.markdown)


def _gather(options: argparse.Namespace) -> None:
    titles = {paper: str(shipped(paper)["title"]) for paper in rooms.papers()}
    stages.gather(options.tables, titles, options.csv, options.markdown, options.html)


def _robustness(options: argparse.Namespace) -> None:
    from workflow.lib import robustness

    for done in robustness.run(options.paper, options.seeds, options.stream, options.experiments, options.folder):
        print(f"{options.paper}: {done}", file=sys.stderr)


def _race(options: argparse.Namespace) -> None:
    _use_threads(options.threads)
    startup.begin_training()
    from workflow.lib import identity
    from workflow.lib.plan import race
    from workflow.lib.race import running

    pair = race.take(options.plan)
    (problem,), (rule,) = pair.problems.values(), pair.rules
    running.write(options.output, running.run(problem, rule, pair.rule(rule)), identity.of_pair(pair))


def _standings(options: argparse.Namespace) -> None:
    os.environ["MPLBACKEND"] = "agg"
    startup.begin_drawing()
    from workflow.lib.plan import race
    from workflow.lib.race import writing

    writing.results(race.take(options.plan), options.runs, options.folder)


def _leaderboard(options: argparse.Namespace) -> None:
    from workflow.lib.race import writing

    writing.document(options.race, options.page)


def _page(options: argparse.Namespace) -> None:
    from workflow.lib import page

    costs.work_begins()
    page.write(options.results, options.output or options.results / page.PAGE, options.papers)


def _compare(options: argparse.Namespace) -> None:
    from workflow.lib import page

    page.write_comparison(options.ours, options.theirs, options.output)


def _schemas(options: argparse.Namespace) -> None:
    from workflow.lib.plan import schema

    written = {name: schema.paper_schema(rooms.room(name)) for name in rooms.papers()}
    written |= {"claims": schema.claims_schema(), "config": schema.config_schema(rooms.papers())}
    written |= {"race": schema.race_schema()}
    for name, content in written.items():
        write_text(options.folder / f"{name}.schema.json", json.dumps(schema.standard(content), indent=1) + "\n")


def _matrix(options: argparse.Namespace) -> None:
    from workflow.lib.plan import matrix

    print(matrix.markdown(rooms.load_paper(paper) for paper in options.papers), end="")


def _keys(options: argparse.Namespace) -> None:
    from workflow.lib.plan import keys

    papers = [(rooms.room(name), rooms.load_paper(name)) for name in rooms.papers()]
    print(keys.markdown(read_yaml(ROOT / "config" / "config.yaml"), papers), end="")


def _paper(options: argparse.Namespace) -> Paper:
    if options.plan is None:
        return rooms.load_paper(options.paper)
    return jobs.take(options.plan, rooms.room(options.paper))


def _experiment(options: argparse.Namespace) -> Experiment:
    found = _paper(options).experiment(options.experiment)
    return found.model_copy(update={"folders": datasets.read_manifests(getattr(options, "datasets", ()))})


def _tables(folder: Path, experiments: Collection[str]) -> dict[str, Path]:
    """The metric table of each experiment."""
    return {name: folder / f"{name}.parquet" for name in experiments}


def _use_threads(count: int) -> None:
    """Bound the threads of torch, which reads these variables when it is imported; not every training needs it."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflow.lib", description=__doc__)
    stage_parsers = parser.add_subparsers(metavar="<stage>", required=True)

    def stage(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = stage_parsers.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def one_paper(added: argparse.ArgumentParser) -> None:
        added.add_argument("--paper", required=True, help="short name, such as ntp")
        added.add_argument("--plan", type=Path, metavar="JSON", help="laid out as the paper's YAML, in its place")

    def one_experiment(added: argparse.ArgumentParser) -> None:
        one_paper(added)
        added.add_argument("--experiment", required=True, help="name under 'experiments' of the paper's YAML")

    def real_data(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--datasets",
            type=Path,
            nargs="*",
            default=[],
            metavar="JSON",
            help="manifests of the real data sets it reads",
        )

    fetched = stage("fetch", _fetch, "download a real data set, or check the files that are there")
    fetched.add_argument("--dataset", required=True, help="name, such as mnist")
    fetched.add_argument("--folder", type=Path, required=True, help="where to download to")
    fetched.add_argument("--data-dir", type=Path, help="folder that already holds the official files: no download")
    fetched.add_argument("--manifest", type=Path, metavar="JSON", help="file to write; default: beside the folder")

    made = stage("generate", _generate, "make the data of a block of seeds")
    one_experiment(made)
    real_data(made)
    made.add_argument("--seeds", required=True, help="a block such as 0-9, or one seed")
    made.add_argument("--data", type=Path, required=True, metavar="NPZ", help="file to write")

    trained = stage("train", _train, "run one optimizer on a block of seeds")
    one_experiment(trained)
    real_data(trained)
    trained.add_argument("--seeds", required=True, help="of the block, such as 0-9, or one seed")
    trained.add_argument(
        "--optimizer", required=True, help="label under 'optimizers' of the experiment, or the job of a sweep's points"
    )
    trained.add_argument("--data", type=Path, required=True, metavar="NPZ", help="data of the block")
    trained.add_argument(
        "--start", type=Path, nargs="?", metavar="SAFETENSORS", help="of the block's runs that these go on from"
    )
    trained.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"], help="default: cpu")
    trained.add_argument("--events", type=Path, nargs="?", metavar="FOLDER", help="for TensorBoard, if it is to be")
    trained.add_argument("--threads", type=int, default=1, help="threads of torch; default: 1")
    trained.add_argument("--trace", type=Path, required=True, metavar="PARQUET", help="table to write")
    trained.add_argument("--parameters", type=Path, required=True, metavar="SAFETENSORS", help="file to write")

    measured = stage("measure", _measure, "measure the finished runs of an experiment")
    one_experiment(measured)
    measured.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds {block}.npz")
    measured.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="holds {optimizer}/{block}.*")
    measured.add_argument("--seeds", required=True, help="all of them, such as 0-99")
    measured.add_argument("--block", type=int, default=10, help="how many seeds a block has; default: 10")
    measured.add_argument("--metrics", type=Path, required=True, metavar="PARQUET", help="table to write")

    listed = stage("points", _points, "list the points that a sweep's figure draws, with their values")
    one_paper(listed)
    listed.add_argument(
        "--figure", required=True, help="name of the sweep's figure, such as extra_sweep_two_stage_ngd_lr"
    )
    listed.add_argument("--table", type=Path, required=True, metavar="CSV", help="table to write")

    drawn = stage("draw", _draw, "draw one figure")
    one_paper(drawn)
    drawn.add_argument("--figure", required=True, help="name under 'figures' of the paper's YAML")
    drawn.add_argument("--metrics", type=Path, required=True, metavar="FOLDER", help="holds {experiment}.parquet")
    drawn.add_argument("--template", type=Path, metavar="RST", help="caption text; default: the paper's own")
    for kind in _DRAWN:
        drawn.add_argument(f"--{kind}", type=Path, required=kind != "description", help="file to write")

    judged = stage("judge", _judge, "hold a paper's claims against their bands")
    one_paper(judged)
    judged.add_argument("--metrics", type=Path, required=True, metavar="FOLDER", help="holds {experiment}.parquet")
    judged.add_argument("--claims", type=Path, required=True, metavar="CSV", help="table to write")
    judged.add_argument("--markdown", type=Path, metavar="MD", help="the same to write for reading")

    robust = stage("robustness", _robustness, "judge a paper's claims on fresh seeds")
    robust.add_argument("--paper", required=True, help="short name, such as ntp")
    robust.add_argument("--seeds", type=int, default=100, help="how many; default: 100")
    robust.add_argument("--stream", type=int, default=1, help="of random numbers; 0 has the seeds that are drawn")
    robust.add_argument("--experiments", nargs="*", default=[], help="default: all that need no GPU")
    robust.add_argument("--folder", type=Path, required=True, help="for the files of all stages, and robustness.csv")

    raced = stage("race", _race, "tune and judge one optimizer on one problem of the race")
    raced.add_argument("--plan", type=Path, required=True, metavar="JSON", help="the pair, as the workflow hands it")
    raced.add_argument("--threads", type=int, default=1, help="threads of torch; default: 1")
    raced.add_argument("--output", type=Path, required=True, metavar="JSON", help="file to write")

    stood = stage("standings", _standings, "write the table and the pictures of the race")
    stood.add_argument("--plan", type=Path, required=True, metavar="JSON", help="the race, as the workflow hands it")
    stood.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="holds {problem}/{rule}.json")
    stood.add_argument("--folder", type=Path, required=True, help="where to write")

    board = stage("leaderboard", _leaderboard, "put the leaderboard of a race into the documentation")
    board.add_argument(
        "--race", type=Path, default=Path("results/race"), metavar="FOLDER", help="default: results/race"
    )
    board.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "race.md", metavar="MD", help="default: docs/race.md"
    )

    schemas = stage("schemas", _schemas, "write the JSON schemas that editors check the YAML files with")
    schemas.add_argument("--folder", type=Path, default=ROOT / "workflow" / "schemas", help="where to write them")

    stage("keys", _keys, "print what a configuration may say, as markdown")

    routes = stage("matrix", _matrix, "print how every optimizer runs on every kind of experiment, as markdown")
    routes.add_argument("--papers", nargs="+", choices=rooms.papers(), default=rooms.papers(), help="default: all")

    gathered = stage("gather", _gather, "join the claims of all papers")
    gathered.add_argument("--tables", type=Path, nargs="+", required=True, metavar="CSV", help="claims of each paper")
    for kind in ("csv", "markdown", "html"):
        gathered.add_argument(f"--{kind}", type=Path, required=True, help="file to write")

    paged = stage("page", _page, "show everything that lies in a results folder on one page")
    paged.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    paged.add_argument("--output", type=Path, metavar="HTML", help="file to write; default: index.html in the folder")
    paged.add_argument("--papers", nargs="*", default=[], metavar="PAPER", help="their order; others follow")

    compared = stage("compare", _compare, "show what differs between two results folders")
    compared.add_argument("ours", type=Path, metavar="A", help="a results folder, drawn solid")
    compared.add_argument("theirs", type=Path, metavar="B", help="another one, drawn dashed")
    compared.add_argument(
        "--output", type=Path, default=Path("compare.html"), metavar="HTML", help="default: compare.html"
    )
    return parser
