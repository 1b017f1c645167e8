"""What a file of data, runs or metrics is, carried in the file itself, so that no other one is taken for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.lib.errors import UserError
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Experiment, block_name

if TYPE_CHECKING:
    from workflow.lib.plan.race import Race


@dataclass(frozen=True)
class Identity:
    """The paper, experiment and seeds of a file, the optimizer where it holds one's runs, a digest of all settings.

    The digest is of values alone, not of their evidence.
    """

    paper: str
    experiment: str
    optimizer: str
    seeds: str
    settings: str

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def check(self, path: Path | str, found: str | None) -> None:
        """Refuse a file that says it is something else, or nothing.

        Raises:
            UserError: naming the file, what it is, and what was expected.
        """
        mend = "Delete it and run snakemake again."
        try:
            told = json.loads(found or "")
            other = {key: told[key] for key in asdict(self) if told[key] != getattr(self, key)}
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}: does not say what it holds; expected {self.paper}.{self.experiment}, seeds {self.seeds}, as "
                f"this version of the workflow writes it. {mend}"
            ) from None
        for key, value in other.items():
            if key == "settings":
                raise UserError(f"{path}: was made with other settings than {self.paper}.{self.experiment} has. {mend}")
            raise UserError(f"{path}: is of another {key}: expected {getattr(self, key)!r}, found {value!r}. {mend}")


def of_data(experiment: Experiment, seeds: Sequence[int]) -> Identity:
    """The data of some seeds."""
    return _identity(experiment, "", seeds, jobs.for_data(experiment))


def of_run(experiment: Experiment, label: str, seeds: Sequence[int]) -> Identity:
    """The runs of one optimizer on some seeds: traces and parameters."""
    return _identity(experiment, label, seeds, jobs.for_run(experiment, label))


def of_metrics(experiment: Experiment, seeds: Sequence[int] | None = None) -> Identity:
    """The metrics of all optimizers on some seeds, by default all of the experiment."""
    return _identity(experiment, "", range(experiment.seeds) if seeds is None else seeds, jobs.for_metrics(experiment))


def of_pair(pair: Race) -> Identity:
    """The runs of one rule on one problem of the race (`Race.only`)."""
    (problem,), (rule,) = pair.problems, pair.rules
    digest = hashlib.sha256(json.dumps(pair.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
    protocol = pair.problem(problem).protocol
    return Identity(
        "race", problem, rule, f"{protocol.tuning_seeds} to tune, {protocol.judging_seeds} to judge", digest
    )


def _identity(experiment: Experiment, label: str, seeds: Sequence[int], section: Mapping[str, Any]) -> Identity:
    digest = hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()[:16]
    return Identity(experiment.paper, experiment.name, label, block_name(seeds[0], seeds[-1]), digest)
