"""Results in Python: what a run wrote about a paper, as pandas frames and matplotlib figures.

Settings and figures are those of the plan that made the numbers, whatever has been planned since: each table of metrics
says what it is, and is held against the plans that lie beside it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workflow.lib import identity, places, rooms
from workflow.lib.errors import UserError, unknown
from workflow.lib.files import readable
from workflow.lib.plan import jobs
from workflow.lib.plan.model import Experiment, Figure, Paper

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd


class Results:
    """What a run wrote about one paper; see `workflow.lib.load`."""

    def __init__(self, paper: str, folder: Path | str = "results", own: Path | str | None = None) -> None:
        if own is not None:
            places.use(own)
        if paper not in rooms.papers():
            raise UserError(f"{unknown('paper', paper, rooms.papers())} (one of your own: load(..., rooms=its folder))")
        self.name = paper
        self.folder = Path(folder).expanduser() / paper
        self._unread: list[str] = []  # why plans that lie there cannot be read
        if not (self.folder / "metrics").is_dir():
            raise UserError(
                f"{self.folder}: no results lie there yet. `snakemake --cores 4 {paper}` makes them; results that lie "
                f"elsewhere are opened with load({paper!r}, folder)."
            )

    def __repr__(self) -> str:
        """The names to go on with."""
        names = f"experiments {', '.join(self.experiments)}; figures {', '.join(self.figures)}"
        return f"<{self.name} in {self.folder}: {names}>"

    @property
    def experiments(self) -> tuple[str, ...]:
        """The names of the experiments that were measured."""
        return tuple(sorted(path.stem for path in (self.folder / "metrics").glob("*.parquet")))

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures that can be drawn from what was measured."""
        measured = set(self.experiments)
        found = {
            name: None
            for paper in self._plans
            for name, figure in paper.figures.items()
            if measured.issuperset(figure.experiments)
        }
        return tuple(found)

    def metrics(self, experiment: str) -> pd.DataFrame:
        """The numbers of an experiment, one a line; docs/glossary.md has every metric.

        Raises:
            UserError: there is no such experiment, or it was not run yet.
        """
        import pandas as pd

        columns = ["optimizer", "seed", "step", "index", "metric", "value"]
        return pd.read_parquet(self._table(experiment), columns=columns)

    def settings(self, experiment: str) -> pd.DataFrame:
        """The settings of an experiment, with which its numbers were made: `setting, value, source, where`.

        Raises:
            UserError: there is no such experiment, or it was not run yet.
        """
        import pandas as pd

        found = self.experiment(experiment)
        rows = [("seeds", found.given["seeds"]), *found.sourced()]
        return pd.DataFrame(
            [(name, setting.value, setting.source, setting.where) for name, setting in rows],
            columns=["setting", "value", "source", "where"],
        )

    def claims(self) -> pd.DataFrame:
        """Every claim with its verdict, as in `claims.csv`.

        `fresh` is the share of fresh seeds in the band, where `snakemake robustness` measured it.

        Raises:
            UserError: the claims were not judged yet.
        """
        import pandas as pd

        from workflow.lib.page.results import read_claims

        table = self.folder / "claims.csv"
        if not table.exists():
            raise UserError(f"{table}: the claims were not judged yet. `snakemake --cores 4 {self.name}` does it.")
        judged = table.stat().st_mtime
        # No claim is judged on points of sweeps.
        points = {name for paper in self._plans for name in set(paper.experiments) - set(paper.claimed)}
        newer = [n for n in self.experiments if n not in points and self._table(n).stat().st_mtime > judged]
        if newer:
            warnings.warn(
                f"{table} is older than the metrics of {', '.join(newer)}. "
                f"`snakemake --cores 4 {self.name}` judges anew.",
                stacklevel=2,
            )
        shares = {claim.name: claim.fresh for claim in read_claims(table)}
        found = pd.read_csv(table, keep_default_na=False, na_values={"low": "", "high": "", "measured": ""})
        return found.assign(fresh=found["claim"].map(shares).astype(float))

    def figure(self, name: str) -> matplotlib.figure.Figure:
        """A figure, drawn from the metrics; a figure of matplotlib's that looks as printed, whatever your settings are.

        Raises:
            UserError: there is no such figure, or its experiments were not run yet.
        """
        from workflow.lib import plotting, stages

        paper = self._plan_of(name)
        with plotting.look():
            tables = {used: self._place(used) for used in paper.figure(name).experiments}
            found = stages.drawn(paper, name, tables).figure
            plotting.finished(found)
        return found

    def experiment(self, name: str) -> Experiment:
        """An experiment as it was run: its typed settings and its optimizers.

        Raises:
            UserError: there is no such experiment, it was not run yet, or nothing says how.
        """
        path = self._table(name)
        for paper in self._plans:
            if name in paper.experiments and _made(path, paper.experiments[name]):
                return paper.experiments[name]
        raise UserError(f"{path}: no plan in {self.folder / 'plan'} says what it was made with. {self._mend}")

    def _place(self, experiment: str) -> Path:
        return self.folder / "metrics" / f"{experiment}.parquet"

    def _table(self, experiment: str) -> Path:
        """The table of metrics of an experiment, or a UserError that says how to make it."""
        path = self._place(experiment)
        if not path.exists():
            known = {name for paper in self._plans for name in paper.experiments}
            if experiment not in known:
                raise UserError(f"{self.name}: {unknown('experiment', experiment, known)}")
            raise UserError(
                f"{path}: was not made yet. `snakemake --cores 4 results/{self.name}/metrics/{path.name}` does it."
            )
        return path

    def _plan_of(self, figure: str) -> Paper:
        """The plan whose figure of this name has the experiments that were measured."""
        known: dict[str, Figure] = {}
        fitting = []
        for paper in self._plans:
            known = {**paper.figures, **known}
            entry = paper.figures.get(figure)
            if entry and all(_made(self._place(used), paper.experiments[used]) for used in entry.experiments):
                fitting.append(paper)
        if figure not in known:
            raise UserError(f"{self.name}: {unknown('figure', figure, known)}")
        if fitting:
            # Where several plans fit, the one that it was last drawn from.
            return next((p for p in fitting if p.figures[figure].experiments == self._drawn(figure)), fitting[0])
        missing = [used for used in known[figure].experiments if not self._place(used).exists()]
        if missing:
            raise UserError(
                f"{self.name}.figures.{figure}: not run yet: {', '.join(missing)}. "
                f"`snakemake --cores 4 results/{self.name}/figures/{figure}.pdf` makes what is missing."
            )
        raise UserError(f"{self.name}.figures.{figure}: no one plan has the settings of all its numbers. {self._mend}")

    @property
    def _mend(self) -> str:
        """What to do about numbers that no plan explains."""
        if not self._unread:
            return "Run snakemake again."
        return f"One that may is not readable here, in {Path.cwd()}: {self._unread[0]}"

    def _drawn(self, figure: str) -> tuple[str, ...]:
        """The experiments in the figure as it lies there."""
        path = self.folder / "figures" / f"{figure}.json"
        if not path.exists():
            return ()
        with readable(path):
            return tuple(entry["name"] for entry in json.loads(path.read_text(encoding="utf-8"))["experiments"])

    @cached_property
    def _plans(self) -> list[Paper]:
        """What was planned, the latest first, and what is shipped."""
        return [*self._handed(), rooms.load_paper(self.name)]

    def _handed(self) -> Iterator[Paper]:
        """What jobs that judge and draw were given."""
        files = [path for kind in ("claims", "figure") for path in (self.folder / "plan").glob(f"{kind}-*.json")]
        for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                yield jobs.take(path, rooms.room(self.name))
            except UserError as error:  # of an older version, or with an optimizer's file that is not beside us
                self._unread.append(str(error))


def _made(table: Path, experiment: Experiment) -> bool:
    """Whether a table of metrics is there and of this experiment with these settings."""
    from workflow.lib.tables import told_identity

    return table.exists() and told_identity(table) == str(identity.of_metrics(experiment))
