"""What the rules share: wildcards, and the functions that look things up in the plan."""

import functools
import hashlib
import os

from workflow.lib import optim
from workflow.lib.configuration import to_json
from workflow.lib.errors import told
from workflow.lib.sources import modules

if config.get("container"):

    container: config["container"]


wildcard_constraints:
    paper="[a-z0-9]+",
    experiment="[a-z0-9_]+",
    optimizer="[a-z0-9_]+",
    seeds="[0-9]+(-[0-9]+)?",
    dataset="[a-z0-9_-]+",
    figure="[a-z0-9_]+",


def experiment_of(wildcards):
    """The planned experiment that a job's wildcards name."""
    with told():
        return plan.paper(wildcards.paper).experiment(wildcards.experiment)


def experiment_settings(wildcards):
    """The experiment as JSON, without sources: a reworded source reruns nothing."""
    return to_json(experiment_of(wildcards).plain())


def data_settings(wildcards):
    """The part of the experiment that its data depend on."""
    return to_json({**experiment_of(wildcards).plain(), "optimizers": {}})


def run_settings(wildcards):
    """The part of the experiment that one optimizer's runs depend on."""
    with told():
        return to_json(experiment_of(wildcards).plain(wildcards.optimizer))


def blocks(wildcards):
    """The blocks of seeds of an experiment."""
    return experiment_of(wildcards).blocks(plan.seeds_per_job)


def data_place(wildcards):
    """The option that names the folder of official files, where there is one."""
    return ["--data-dir", plan.data_dir] if plan.data_dir else []


def experiment_datasets(wildcards):
    """The manifests of the real data sets that an experiment reads."""
    return [f"results/datasets/{name}.json" for name in experiment_of(wildcards).checked.settings.downloads()]


def experiment_data(wildcards):
    """The data files of all blocks of an experiment."""
    return [f"results/{wildcards.paper}/data/{wildcards.experiment}/{block}.npz" for block in blocks(wildcards)]


def experiment_runs(wildcards):
    """The traces and parameters of all optimizers and blocks of an experiment."""
    return [
        f"results/{wildcards.paper}/runs/{wildcards.experiment}/{optimizer}/{block}.{kind}"
        for optimizer in experiment_of(wildcards).optimizers
        for block in blocks(wildcards)
        for kind in ("parquet", "safetensors")
    ]


def figure_section(wildcards):
    """The figure and its experiments as JSON, with the sources that its caption quotes."""
    return to_json(plan.paper(wildcards.paper).part(figures=[wildcards.figure]))


def claims_section(wildcards):
    """A paper's claims and experiments as JSON."""
    paper = plan.paper(wildcards.paper)
    return to_json(paper.part(claims=paper.claims))


def data_code(wildcards):
    """A digest of the library files behind the data of an experiment."""
    checked = experiment_of(wildcards).checked
    # Data sets are imported by name, which import statements do not show.
    read = [f"workflow.lib.datasets.{name.replace('-', '_')}" for name in checked.settings.downloads()]
    return code_digest(f"{checked.room}.data", *read)


def train_code(wildcards):
    """A digest of the library files behind one optimizer's runs."""
    checked = experiment_of(wildcards).checked
    with told():
        optimizer_rule = experiment_of(wildcards).rule(wildcards.optimizer)
    return code_digest(f"{checked.room}.training", f"{optim.__name__}.{optimizer_rule}")


def metrics_code(wildcards):
    """A digest of the library files behind the metrics of an experiment."""
    return code_digest(f"{experiment_of(wildcards).checked.room}.metrics")


def paper_code(module):
    """A parameter function: a digest of the library files behind one module of a paper's room."""

    def code(wildcards):
        return code_digest(f"workflow.lib.papers.{wildcards.paper}.{module}")

    return code


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


def project_file(path):
    """A file of this project, relative to the working directory where that is shorter."""
    return min((str(path), os.path.relpath(path)), key=len)


def caption_template(wildcards):
    """The text of a figure's caption."""
    return project_file(f"{workflow.basedir}/workflow/report/{wildcards.paper}/{wildcards.figure}.rst")


def figure_metrics(wildcards):
    """The metric tables that a figure draws."""
    with told():
        names = plan.paper(wildcards.paper).figure(wildcards.figure).experiments
    return [f"results/{wildcards.paper}/metrics/{name}.parquet" for name in names]


def paper_metrics(wildcards):
    """All metric tables of a paper."""
    with told():
        names = plan.paper(wildcards.paper).experiments
    return [f"results/{wildcards.paper}/metrics/{name}.parquet" for name in names]


def paper_figures(*papers):
    """All figure files of some papers."""
    return [
        f"results/{paper}/figures/{figure}.{kind}"
        for paper in papers
        for figure in plan.paper(paper).figures
        for kind in ("pdf", "png", "csv")
    ]


def training_device(wildcards):
    """The configured device for jobs that ask for a GPU, the CPU for all others."""
    return plan.device if experiment_of(wildcards).checked.settings.needs().gpu else "cpu"


def needs(what):
    """A resource function: what a training job of this experiment asks of the machine; a retry gets more memory."""

    def needed(wildcards, attempt):
        asked = getattr(experiment_of(wildcards).checked.settings.needs(), what)
        return asked * attempt if what == "mem_mb" else asked

    return needed


def gpu_runs():
    """A pattern that the paths of runs match, from the paper's name on, when their experiment asks for a GPU."""
    return (
        "|".join(
            f"{paper.name}/runs/{name}/"
            for paper in plan.papers.values()
            for name, experiment in paper.experiments.items()
            if experiment.checked.settings.needs().gpu
        )
        or "(?!)"
    )
