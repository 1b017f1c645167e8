"""After a run that failed: what a job that was killed could not say itself."""

import pathlib
import sys


def told(job):
    """Whether a job that failed says why in its log."""
    logs = [pathlib.Path(path) for path in job.log]
    return any(
        "error: " in text.lower()
        for text in (log.read_text("utf-8", "replace") for log in logs if log.exists())
    )


onerror:
    for _failed in workflow.scheduler.failed if workflow.scheduler else ():
        for _job in _failed if _failed.is_group() else [_failed]:
            if not told(_job):
                print(
                    f"error: {_job.rule.name} ({', '.join(_job.wildcards_dict.values())}): ended without a word, as a "
                    "process does that the system kills for want of memory. Take a machine with more of it, fewer "
                    "seeds_per_job or a smaller setting, and run the same command again.",
                    file=sys.stderr,
                )
