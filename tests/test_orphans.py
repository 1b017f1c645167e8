"""Jobs do not outlive the snakemake that started them."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.conftest import ROOT, environment

JOB = """
import sys, time
from workflow.lib import orphans
orphans.end_with(int(sys.argv[1]))
print("begun", flush=True)
time.sleep(60)
"""


def test_a_job_ends_after_the_snakemake_that_started_it() -> None:
    started_it = subprocess.Popen(["sleep", "60"])
    command = [sys.executable, "-c", JOB, str(started_it.pid)]
    job = subprocess.Popen(
        command, env=environment(ROOT), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        started_it.kill()
        started_it.wait()
        _, told = job.communicate(timeout=30)
    finally:
        started_it.kill()
        job.kill()
    assert job.returncode == -signal.SIGTERM
    assert "snakemake was killed" in told
