"""Before anything runs: what the jobs need is held against the machine or the Slurm cluster; a dry run tells the cost."""

import atexit
import shlex
import sys

from workflow.lib import cluster, forks, guards, preflight, watching
from workflow.lib.errors import UserError, exit_on_user_error


def requests(jobs):
    """What jobs ask for."""
    return [
        cluster.Request(
            job.rule.name,
            {**dict(job.resources.items()), "threads": job.threads},
            job.wildcards_dict,
        )
        for job in jobs
    ]


def needed():
    """What all jobs that are to run need together."""
    bounds = [
        workflow.global_resources.get(name) for name in ("gpu", "_cores", "_nodes")
    ]
    values = [
        bound.value for bound in bounds if bound is not None and bound.value is not None
    ]
    return preflight.demand(
        plan,
        requests(workflow.dag.needrun_jobs(exclude_finished=False)),
        min(values, default=1),
    )


def print_cost():
    """After the list of jobs of a dry run, what they need and cost."""
    if workflow.dryrun and workflow.dag is not None:
        demand = needed()
        print(demand, end="\n" if str(demand) else "")
        try:
            preflight.check_disk(demand)
        except UserError as error:
            print(f"The run itself would stop here. {error}")


if workflow.modifier.is_main_snakefile():
    atexit.register(print_cost)  # there is no hook that a dry run calls


onstart:
    guards.without_timers(workflow.scheduler)
    with exit_on_user_error():
        if workflow.executor_plugin.name == "slurm":
            settings = workflow.executor_settings
            submitted = requests(
                job for job in workflow.dag.needrun_jobs() if not job.is_local
            )
            cluster.check(
                submitted,
                settings.partition_config,
                settings.status_command,
                plan.device,
            )
        if (
            not workflow.touch
        ):  # which declares what lies there up to date, and makes nothing
            demand = needed()
            preflight.check_writable()
            preflight.check_disk(demand)
            if workflow.local_exec:
                if workflow.global_resources["_cores"].value == 0:
                    raise UserError(
                        "--cores 0: expected at least 1; with none, no job would ever start"
                    )
                elsewhere = bool(workflow.deployment_settings.deployment_method)
                preflight.check_device(plan.device, demand, elsewhere)
                if plan.tensorboard and not elsewhere:
                    watching.check()
                if not elsewhere:
                    forks.begin(f"{variables()} {shlex.quote(sys.executable)}")
            print(demand, end="\n" if str(demand) else "", file=sys.stderr)
