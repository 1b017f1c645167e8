"""On a Slurm cluster: the rules of seconds stay on the submitting machine, and the set-up is checked before jobs go."""

from workflow.lib import cluster
from workflow.lib.errors import exit_on_user_error


onstart:
    if workflow.executor_plugin.name == "slurm":
        settings = workflow.executor_settings
        requests = [
            cluster.Request(job.rule.name, {**dict(job.resources.items()), "threads": job.threads})
            for job in workflow.dag.needrun_jobs()
            if not job.is_local
        ]
        with exit_on_user_error():
            cluster.check(requests, settings.partition_config, settings.status_command, plan.device)
