"""What the rules share: wildcards, and the functions that look things up in the plan."""

import functools
import hashlib
import os
import pathlib
import re

from workflow.lib import optim, places, rooms
from workflow.lib.errors import exit_on_user_error
from workflow.lib.files import readable
from workflow.lib.plan import jobs
from workflow.lib.plan.model import GENERAL, block_name, block_seeds
from workflow.lib.sources import modules

if plan.container:

    container: plan.container

    # A container sees the folder of the run; the code and the official files may lie elsewhere.
    for _variable in ("APPTAINER_BIND", "SINGULARITY_BIND"):
        _bound = [
            os.environ.get(_variable),
            ROOT,
            *map(os.path.abspath, filter(None, [plan.data_dir, plan.rooms])),
        ]
        os.environ[_variable] = ",".join(
            dict.fromkeys(filter(None, ",".join(filter(None, _bound)).split(",")))
        )


wildcard_constraints:
    paper="[a-z0-9]+",
    experiment="[a-z0-9_.-]+",
    optimizer="[a-z0-9_.-]+",
    seeds="[0-9]+(-[0-9]+)?",
    dataset="[a-z0-9_-]+",
    figure="[a-z0-9_]+",


def planned(wildcards):
    """The planned experiment that a job's wildcards name, or their paper where they name none."""
    return entry_of(wildcards.paper, wildcards.get("experiment"))


@functools.cache
def entry_of(paper, experiment=None):
    """An experiment of the plan, or the paper where none is named."""
    with exit_on_user_error():
        return (
            plan.paper(paper).experiment(experiment)
            if experiment
            else plan.paper(paper)
        )


def handed(part, *names):
    """A parameter function: the file with what a job gets of the plan.

    `part` is the function of `jobs` that says what that is, `names` are further wildcards that it asks for.
    """

    # Where the prefix of a module puts what lies in results/.
    folder = workflow.modifier.path_modifier.replace_prefix("results/{paper}/plan")

    @functools.cache
    def hand(paper, experiment, *arguments):
        with exit_on_user_error():
            section = part(entry_of(paper, experiment), *arguments)
            name = "-".join(
                [
                    part.__name__.removeprefix("for_"),
                    *filter(None, [experiment, *arguments]),
                ]
            )
            return jobs.hand(folder.format(paper=paper), name, section)

    def path(wildcards):
        return hand(
            wildcards.paper,
            wildcards.get("experiment"),
            *(wildcards[name] for name in names),
        )

    return path


def blocks(wildcards):
    """The blocks of seeds of an experiment."""
    return planned(wildcards).blocks(plan.seeds_per_job)


def data_place(wildcards):
    """The option that names the folder of official files, where there is one."""
    return ["--data-dir", plan.data_dir] if plan.data_dir else []


def experiment_datasets(wildcards):
    """The manifests of the real data sets that an experiment reads."""
    return [
        f"results/datasets/{name}.json"
        for name in planned(wildcards).settings.downloads()
    ]


def experiment_data(wildcards):
    """The data files of all blocks of an experiment."""
    return [
        f"results/{wildcards.paper}/data/{wildcards.experiment}/{block}.npz"
        for block in blocks(wildcards)
    ]


def experiment_runs(wildcards):
    """The traces and parameters of all optimizers and blocks of an experiment."""
    return [
        f"results/{wildcards.paper}/runs/{wildcards.experiment}/{job}/{block}.{kind}"
        for job in planned(wildcards).jobs
        for block in blocks(wildcards)
        for kind in ("parquet", "safetensors")
    ]


def started_from(wildcards):
    """The parameters of the runs that a block of runs goes on from, or none."""
    with exit_on_user_error():
        experiment = planned(wildcards)
        before = experiment.before(experiment.job(wildcards.optimizer)[0])
    return [
        f"results/{wildcards.paper}/runs/{wildcards.experiment}/{label}/{wildcards.seeds}.safetensors"
        for label in before[-1:]
    ]


def metric_tables(wildcards):
    """The metric tables of the experiments that a figure draws, or of all that claims know where none is named."""
    with exit_on_user_error():
        paper = planned(wildcards)
        names = (
            paper.figure(wildcards.figure).experiments
            if "figure" in wildcards.keys()
            else paper.claimed
        )
    return [f"results/{wildcards.paper}/metrics/{name}.parquet" for name in names]


def all_seeds(wildcards):
    """All seeds of an experiment, as a block is called."""
    return block_name(0, planned(wildcards).seeds - 1)


def block_size(wildcards):
    """How many seeds a block has."""
    return plan.seeds_per_job or planned(wildcards).seeds_per_job


def data_folder(wildcards, input):
    """The folder with the data of all blocks: a command does not grow with their number."""
    return os.path.dirname(input.data[0])


def metrics_folder(wildcards, input):
    """The folder with the metric tables of a paper, or of nothing where it has no experiments."""
    return os.path.dirname(next(iter(input.metrics), ""))


def run_folder(wildcards, input):
    """The folder with one folder of runs for each optimizer."""
    return os.path.dirname(os.path.dirname(input.runs[0]))


def report_labels(wildcards, file):
    """What the report lists a figure by. It sorts by the text, so that "Figure 1" comes before "Further"."""
    with exit_on_user_error():
        title = planned(wildcards).figure(wildcards.figure).title
    number = wildcards.figure.removeprefix("fig")
    further = wildcards.figure.removeprefix("extra_").replace("_", " ")
    name = f"Figure {number}" if number.isdigit() else f"Further: {further}"
    return {"figure": name, "title": title, "file": file}


def picture_labels(wildcards):
    """The labels of a drawing; the report opens with what sorts first."""
    return report_labels(wildcards, "drawing")


def numbers_labels(wildcards):
    """The labels of the numbers in it."""
    return report_labels(wildcards, "numbers")


def paper_figures(*papers):
    """All figure files of some papers, and the tables of the points that sweeps draw."""
    figures = [
        (paper, figure)
        for paper in papers
        for figure in plan.paper(paper).figures.values()
    ]
    drawn = [
        f"results/{paper}/figures/{f.name}.{kind}"
        for paper, f in figures
        for kind in ("pdf", "png", "csv", "json")
    ]
    return drawn + [
        f"results/{paper}/metrics/{f.name}.csv"
        for paper, f in figures
        if f.drawing in GENERAL
    ]


def page_code():
    """A digest of the files that make pages."""
    digest = hashlib.sha256()
    for path in sorted((pathlib.Path(rooms.__file__).parent / "page").rglob("*.*")):
        if path.suffix in (".py", ".html", ".css", ".js"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def data_code(wildcards):
    """A digest of the library files behind the data of an experiment."""
    experiment = planned(wildcards)
    # Data sets are imported by name, which import statements do not show.
    read = [
        f"workflow.lib.datasets.{name.replace('-', '_')}"
        for name in experiment.settings.downloads()
    ]
    return code_digest(f"{rooms.package(experiment)}.data", *read)


def train_code(wildcards):
    """A digest of the files behind one optimizer's runs, the library's and those of a rule from elsewhere."""
    experiment = planned(wildcards)
    with exit_on_user_error():
        optimizer = experiment.optimizer(experiment.job(wildcards.optimizer)[0])
        brought = optim.files(optimizer.rule)  # which may be the user's own
    return code_digest(f"{rooms.package(experiment)}.training", *brought)


def metrics_code(wildcards):
    """A digest of the library files behind the metrics of an experiment."""
    return code_digest(f"{rooms.package(planned(wildcards))}.metrics")


def figures_code(wildcards):
    """A digest of the library files behind a figure, and of the text of its caption."""
    with exit_on_user_error():
        drawing = planned(wildcards).figure(wildcards.figure).drawing
        code = code_digest(rooms.drawing_module(wildcards.paper, drawing))
        path = rooms.caption(wildcards.paper, drawing)
        with readable(path):
            return hashlib.sha256(code.encode() + path.read_bytes()).hexdigest()[:16]


def claims_code(wildcards):
    """A digest of the library files behind a paper's claims."""
    return code_digest(f"workflow.lib.papers.{wildcards.paper}.claims")


@functools.cache
def code_digest(*roots):
    """A digest of the files of some modules and of all they import.

    Snakemake does not see imports, so a change of code reaches a job as a change of this parameter. Listing the files
    as inputs would do the same, but doubles the time to plan thousands of jobs, and reruns on a mere touch.
    """
    digest = hashlib.sha256()
    for path in modules(*roots):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def training_device(wildcards):
    """The configured device for jobs that ask for a GPU, the CPU for all others."""
    return plan.device if planned(wildcards).settings.needs().gpu else "cpu"


def events(wildcards, threads):
    """The folder for what TensorBoard shows of a training, where that is wanted.

    It asks for `threads` so that no finished job runs again to be watched (see `python`).
    """
    parts = (
        wildcards.paper,
        wildcards.experiment,
        wildcards.optimizer,
        wildcards.seeds,
    )
    return ["results/events/" + "/".join(parts)] if plan.tensorboard else []


def needs(what):
    """A resource function: what a training job of this experiment asks of the machine; a retry gets more memory."""

    def needed(wildcards, attempt):
        experiment = planned(wildcards)
        asked = experiment.settings.needs()
        if what == "mem_mb":
            labels = experiment.job(wildcards.optimizer)
            return attempt * experiment.settings.memory(
                [experiment.optimizer(label).rule for label in labels],
                len(block_seeds(wildcards.seeds)),
                training_device(wildcards),
            )
        if (
            what == "runtime"
        ):  # points of a sweep that share a job run one after another
            return asked.runtime * len(experiment.job(wildcards.optimizer))
        return getattr(asked, what)

    return needed


def gpus(wildcards):
    """GPUs that a training job occupies: none on a machine where it trains on the CPU. A cluster checks the device."""
    asked = planned(wildcards).settings.needs().gpu
    return 0 if plan.device == "cpu" and workflow.local_exec else asked


def gpu_runs():
    """A pattern that the paths of runs match, from the paper's name on, when their experiment asks for a GPU."""
    return (
        "|".join(
            f"{paper.name}/runs/{re.escape(name)}/"
            for paper in plan.papers.values()
            for name, experiment in paper.experiments.items()
            if experiment.settings.needs().gpu
        )
        or "(?!)"
    )
