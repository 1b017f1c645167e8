"""Every figure of every paper: config -> generate -> train -> measure -> draw -> judge -> report."""

import os

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from workflow.lib.configuration import make_plan
from workflow.lib.errors import UserError

min_version("9.0")


configfile: f"{workflow.basedir}/config/config.yaml"


try:
    plan = make_plan(config)
except UserError as error:
    raise WorkflowError(str(error))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"


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
