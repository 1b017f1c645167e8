"""Every figure of every paper: config -> generate -> train -> measure -> draw -> judge -> page."""

import shlex
import sys

from snakemake.utils import min_version

# The library beside this file serves this process and every job, whatever else is installed or lies in the working
# folder. Snakemake's own prefix is repeated, because a prefix replaces it.
HERE = workflow.current_basedir.get_path_or_uri(secret_free=False)
if {"{", "}"} & set(HERE):
    sys.exit(f"error: {HERE}: snakemake takes braces for wildcards. Move the project to a path without them.")
sys.path.insert(0, HERE)
shell.prefix(f"set -euo pipefail; export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(HERE)}; ")

from workflow.lib.errors import exit_on_user_error
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan

min_version("9.0")

with exit_on_user_error():
    # Read once before snakemake does: its own message on a slip names neither file nor line.
    read_yaml(f"{HERE}/config/config.yaml")


configfile: f"{HERE}/config/config.yaml"


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
include: "workflow/rules/page.smk"
include: "workflow/rules/cluster.smk"


rule all:
    default_target: True
    input:
        paper_figures(*plan.papers),
        rules.claims.output,
        rules.page.output,


for _paper in plan.papers:

    rule:
        name:
            _paper
        input:
            paper_figures(_paper),
            f"results/{_paper}/claims.csv",
