"""A real Slurm on one machine, for tests: a controller, a CPU node, a GPU node with two pretend V100s, all on loopback.

Everything lives in one folder that the caller gives: configuration, keys, logs, pid files, database. Nothing is
written to /etc. As a command: `python -m tests.slurm install|start|stop|env` (see `--help`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import debian

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
DAEMONS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd")
ACCOUNT = "lab"
FOLDER = "trial-slurm"  # tells this module's daemons from those of another Slurm


class Unavailable(Exception):  # noqa: N818  (a state of the machine, no error)
    """This machine cannot hold the trial cluster, or must not."""


def refuse_foreign_slurm() -> None:
    """Raise Unavailable on a machine that has, or is part of, a Slurm of its own."""
    if "SLURM_JOB_ID" in os.environ or "SLURM_CONF" in os.environ:
        raise Unavailable("this shell belongs to a Slurm cluster (SLURM_JOB_ID or SLURM_CONF is set)")
    for found in map(Path, ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf")):
        if found.exists():
            raise Unavailable(f"this machine has a Slurm of its own ({found})")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text().strip()
            running = (process / "cmdline").read_bytes() != b""  # empty for one that has ended
            trial = f"/{FOLDER}/".encode() in (process / "environ").read_bytes()
            if name in ("slurmctld", "slurmd", "slurmdbd") and running and not trial:
                raise Unavailable(f"this machine runs a Slurm of its own ({name}, process {process.name})")


def install() -> None:
    """Install Debian's packages, with no daemon started; Unavailable says why it cannot be done."""
    refuse_foreign_slurm()
    if not missing_programs(accounting=True):
        return
    if reason := debian.install(*PACKAGES, *ACCOUNTING_PACKAGES):
        raise Unavailable(reason)


def missing_programs(accounting: bool) -> list[str]:
    """The programs that the trial cluster needs and this machine lacks."""
    needed = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol"]
    if accounting:
        needed += ["slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr"]
    return [name for name in needed if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@dataclass
class TrialCluster:
    """A Slurm in `folder`; `start` and `stop` it, or use it as a context manager.

    As a context manager it ends with this process, even when that is killed.
    `accounting` adds slurmdbd with a database, so that sacct works.
    """

    folder: Path
    accounting: bool = False

    def __enter__(self) -> TrialCluster:
        command = [sys.executable, "-m", "tests.slurm", "stop", str(self.folder.resolve()), "--after", str(os.getpid())]
        self._guard = subprocess.Popen(command, start_new_session=True, cwd=Path(__file__).parents[2])
        try:
            self.start()
        except BaseException:
            self._guard.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._guard.kill()
        self._guard.wait()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make Slurm's commands talk to this cluster."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**kept, "SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def run(self, *command: str, check: bool = True) -> str:
        """Standard output of a Slurm command on this cluster."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self) -> None:
        """Start every daemon and wait until both nodes are idle; Unavailable names what is in the way."""
        refuse_foreign_slurm()
        if os.geteuid() != 0:
            raise Unavailable("the trial cluster needs root (device nodes, munge)")
        if missing := missing_programs(self.accounting):
            raise Unavailable(f"not installed: {', '.join(missing)} (python -m tests.slurm install)")
        self.folder = self.folder.resolve() / FOLDER
        self.folder.mkdir(parents=True)
        try:
            self._configure()
            self._start_daemons()
            _wait(self._idle, 60, "the nodes to be idle", self._tail)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel what runs and end the daemons named in the pid files, nothing else."""
        with contextlib.suppress(Exception):
            self.run("scancel", "--user", "root", check=False)
            _wait(lambda: not self.run("squeue", "-h", check=False).strip(), 20, "jobs to end", str)
        # the database's clients first
        for name in ("slurmd-cpu01", "slurmd-gpu01", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            _end(self.folder / f"{name}.pid")

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        controller, cpu, gpu, dbd, self._database_port = _free_ports(5)
        self._write("munge.key", secrets.token_bytes(1024), 0o400)
        for card in (0, 1):
            # Slurm wants a character device for each card; this one is another /dev/null
            os.mknod(self.folder / f"card{card}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        storage = [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={dbd}",
            f"AccountingStoragePass=socket={self.folder}/munge.socket",
            "AccountingStorageTRES=gres/gpu,gres/gpu:v100",
            "AccountingStoreFlags=job_comment",
        ]
        node = "CPUs=16 RealMemory=200000 State=UNKNOWN NodeAddr=127.0.0.1 NodeHostname="
        self._write(
            "slurm.conf",
            [
                "ClusterName=trial",
                f"SlurmctldHost={host}(127.0.0.1)",
                f"SlurmctldPort={controller}",
                "SlurmUser=root",
                "SlurmdUser=root",
                f"AuthInfo=socket={self.folder}/munge.socket",
                "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
                f"StateSaveLocation={self.folder}/state",
                f"SlurmdSpoolDir={self.folder}/spool-%n",
                f"SlurmctldPidFile={self.folder}/slurmctld.pid",
                f"SlurmdPidFile={self.folder}/slurmd-%n.pid",
                f"SlurmctldLogFile={self.folder}/slurmctld.log",
                f"SlurmdLogFile={self.folder}/slurmd-%n.log",
                "ProctrackType=proctrack/linuxproc",
                "TaskPlugin=task/none",
                "JobAcctGatherType=jobacct_gather/none",
                "MpiDefault=none",
                "SwitchType=switch/none",
                "SelectType=select/cons_tres",
                "SelectTypeParameters=CR_CPU_Memory",
                "SlurmdParameters=config_overrides",
                "SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1",
                "MinJobAge=600",
                "KillWait=5",
                "GresTypes=gpu",
                "ReturnToService=2",
                *(storage if self.accounting else ()),
                f"NodeName=cpu01 {node}{host} Port={cpu}",
                f"NodeName=gpu01 {node}{host} Port={gpu} Gres=gpu:v100:2 Feature=v100",
                "PartitionName=cpu Nodes=cpu01 Default=YES MaxTime=3-00:00:00 State=UP",
                "PartitionName=gpu Nodes=gpu01 MaxTime=3-00:00:00 State=UP",
            ],
        )
        cards = (f"{self.folder}/card{card}" for card in (0, 1))
        self._write(
            "gres.conf",
            [f"NodeName=gpu01 Name=gpu Type=v100 Flags=nvidia_gpu_env File={card}" for card in cards],
        )
        self._write("cgroup.conf", ["CgroupAutomount=no", "CgroupPlugin=cgroup/v1"])
        self._write(
            "slurmdbd.conf",
            [
                "DbdHost=localhost",
                "CommunicationParameters=NoInAddrAny",
                "DbdAddr=127.0.0.1",
                f"DbdPort={dbd}",
                "SlurmUser=root",
                f"AuthInfo=socket={self.folder}/munge.socket",
                f"PidFile={self.folder}/slurmdbd.pid",
                f"LogFile={self.folder}/slurmdbd.log",
                "StorageType=accounting_storage/mysql",
                "StorageHost=127.0.0.1",
                f"StoragePort={self._database_port}",
                "StorageUser=slurm",
                "StoragePass=slurm",
                "StorageLoc=slurm",
            ],
            0o600,
        )
        (self.folder / "state").mkdir()
        (self.folder / "bin").mkdir()
        # Snakemake drops SLURM_CONF from the environment of the srun inside a job
        self._write(
            "bin/srun", ["#!/bin/sh", f'SLURM_CONF={self.folder}/slurm.conf exec {_program("srun")} "$@"'], 0o755
        )
        self.folder.chmod(0o755)

    def _start_daemons(self) -> None:
        self._daemon(
            "munged",
            f"--key-file={self.folder}/munge.key",
            f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munge.seed",
            "--force",
        )
        if self.accounting:
            self._start_database()
            self._daemon("slurmdbd")
            # the controller registers its cluster with slurmdbd, which must listen by then
            _wait(lambda: self._sacctmgr("show", "cluster"), 60, "slurmdbd to answer", self._tail)
            self._sacctmgr("add", "cluster", "trial")
            self._sacctmgr("add", "account", ACCOUNT, "Cluster=trial", "Description=trial", "Organization=trial")
            self._sacctmgr("add", "user", "root", f"Account={ACCOUNT}", "Cluster=trial")
        self._daemon("slurmctld")
        for node in ("cpu01", "gpu01"):
            self._daemon("slurmd", "-N", node, "-f", f"{self.folder}/slurm.conf")

    def _start_database(self) -> None:
        data = self.folder / "database"
        common = ["--no-defaults", f"--datadir={data}", "--user=root"]
        self._call("mariadb-install-db", *common, "--auth-root-authentication-method=socket", "--skip-test-db")
        log = (self.folder / "mariadbd.log").open("w")
        server = subprocess.Popen(
            [
                _program("mariadbd"),
                *common,
                "--bind-address=127.0.0.1",
                f"--port={self._database_port}",
                f"--socket={self.folder}/mariadb.socket",
                f"--pid-file={self.folder}/mariadbd.pid",
                "--innodb-buffer-pool-size=64M",
                "--innodb-lock-wait-timeout=900",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        _wait((self.folder / "mariadb.socket").exists, 60, "the database", self._tail)
        assert server.poll() is None
        grant = "CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON slurm.* TO slurm@localhost;"
        grant += "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
        self._call("mariadb", "--no-defaults", f"--socket={self.folder}/mariadb.socket", f"--execute={grant}")

    def _sacctmgr(self, *arguments: str) -> bool:
        command = ("sacctmgr", "-i", *arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=60).returncode == 0

    def _daemon(self, name: str, *arguments: str) -> None:
        """Start a program that goes into the background by itself, having written its pid file."""
        self._call(name, *arguments)

    def _call(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        with (self.folder / f"{name}.out").open("a") as out:
            done = subprocess.run(
                [program, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=120,
                # Slurm refuses to run where its files could be written by others
                umask=0o022,
            )
        if done.returncode != 0:
            raise Unavailable(f"{name} does not start: {self._tail()}")

    def _idle(self) -> bool:
        return set(self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).split("\n")) - {""} == {
            "cpu01 idle",
            "gpu01 idle",
        }

    def _tail(self) -> str:
        """The last lines of every log, for a message."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"{log.name}: {' | '.join(log.read_text(errors='replace').splitlines()[-4:])}" for log in logs)

    def _write(self, name: str, content: bytes | list[str], mode: int = 0o644) -> None:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode())
        path.chmod(mode)


def wait_for_end(pid: int) -> None:
    """Return when a process has ended, however it did."""
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        select.select([process], [], [])


def parse_fields(text: str) -> dict[str, str]:
    """The `key=value` fields that scontrol prints for one job.

    >>> parse_fields("JobId=3 JobName=x\\n   Partition=gpu TresPerJob=gres:gpu:v100:1")["Partition"]
    'gpu'
    """
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def _free_ports(count: int) -> Iterator[int]:
    """Ports that nothing on loopback listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return iter([one.getsockname()[1] for one in sockets])


def _wait(ready: Callable[[], bool], seconds: float, what: str, explain: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise Unavailable(f"waited {seconds} s for {what}\n{explain()}")
        time.sleep(0.3)


def _end(pid_file: Path) -> None:
    """End the process of a pid file, if it still is the daemon that wrote it."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() not in DAEMONS:
            return
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    pid_file.unlink(missing_ok=True)
