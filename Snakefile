"""Every figure of every paper: config -> generate -> train -> measure -> draw -> judge -> report."""

from snakemake.utils import min_version

from workflow.lib.errors import exit_on_user_error
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan

min_version("9.0")

with exit_on_user_error():
    # Read once before snakemake does: its own message on a slip names neither file nor line.
    read_yaml(f"{workflow.basedir}/config/config.yaml")


configfile: f"{workflow.basedir}/config/config.yaml"


with exit_on_user_error():
    plan = make_plan(config)


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/robustness.smk"
include: "workflow/rules/cluster.smk"


rule all:
    default_target: True
    input:
        paper_figures(*plan.papers),
        rules.claims.output,


for _paper in plan.papers:

    rule:
        name:
            _paper
        input:
            paper_figures(_paper),
            f"results/{_paper}/claims.csv",
