"""Packages of Debian's for the tests that may install them: one process at a time, with no daemon started."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")  # asked before a package starts its daemons


def install(*packages: str) -> str:
    """Install packages; why it cannot be done, or nothing."""
    if os.geteuid() != 0:
        return "installing packages needs root"
    if shutil.which("apt-get") is None:
        return "no apt-get: packages are Debian's"
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with Path(tempfile.gettempdir(), "tests-apt-get.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # apt-get itself does not wait for another one
        own_policy = not POLICY.exists()
        if own_policy:
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
        try:
            for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
                done = subprocess.run(["apt-get", *command], env=quiet, capture_output=True, text=True)
                if done.returncode != 0:
                    return f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}"
        finally:
            if own_policy:
                POLICY.unlink()
    return ""
