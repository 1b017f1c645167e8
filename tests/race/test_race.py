"""The race: tuning, extension of the grid, judging on other seeds, refusals, and one more optimizer is one more row."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests import layout, small
from tests.conftest import ROOT, job_counts, snakemake
from workflow.lib import identity, optim, plotting, rooms
from workflow.lib.cli import main
from workflow.lib.contract import Job
from workflow.lib.errors import UserError
from workflow.lib.plan.race import Race
from workflow.lib.plan.sweeps import Target
from workflow.lib.race import figures, running, standings, writing
from workflow.lib.race.running import Entrant, Pair
from workflow.lib.runs import Curve, Metrics

# One problem of seconds: the first stage of ntp, cut short.
SHORT: dict[str, Any] = {
    "settings": {"steps_ov": 40},
    "lr": {"sweep": {"log": [0.01, 1, 3]}},
    "protocol": {"tuning_seeds": 2, "judging_seeds": 3},
}
SHORTENED = {"ntp_values": SHORT, "ntp_keys": None}


def race(*rules: str, **problem: Any) -> Race:
    """The race on the short problem alone."""
    changes = {**SHORTENED, "ntp_values": {**SHORT, **problem}}
    return rooms.make_race(rooms.make_plan({"papers": ["ntp"], "race": list(rules), "race_problems": changes}))


def entrant(lr: float, steps: list[float], end: float = 0.0) -> Entrant:
    curve = np.arange(2), np.zeros((len(steps), 2))
    return Entrant(lr, np.full(len(steps), end), np.array(steps, dtype=float), 100, 1.0, curve)


NEVER = math.nan


@pytest.mark.parametrize(
    ("grid", "chosen", "side"),
    [
        ([entrant(0.1, [9, 9]), entrant(1, [5, 5]), entrant(10, [7, 7])], 1, 0),
        ([entrant(0.1, [5, 5]), entrant(1, [9, 9]), entrant(10, [NEVER, 1])], 0, -1),
        ([entrant(0.1, [9, 9]), entrant(1, [8, 8]), entrant(10, [7, 7])], 2, 1),
        # of equally good ones the one in the middle
        ([entrant(0.1, [5, 5]), entrant(1, [5, 5]), entrant(10, [5, 5])], 1, 0),
        # nobody gets there: the end decides, and what diverged is worst
        ([entrant(0.1, [NEVER] * 2, 3.0), entrant(1, [NEVER] * 2, 2.0), entrant(10, [NEVER] * 2, NEVER)], 1, 0),
        # one seed of three that never gets there is not the median, of two it is
        ([entrant(0.1, [9, 9, 9]), entrant(1, [1, 2, NEVER]), entrant(10, [9, 9, 9])], 1, 0),
    ],
)
def test_the_best_learning_rate_and_where_the_grid_goes_on(grid: list[Entrant], chosen: int, side: int) -> None:
    assert running.best(tuple(grid), lowest=True) == chosen
    assert running.beyond(tuple(grid), lowest=True) == side


def test_where_everything_diverges_smaller_learning_rates_are_asked_for() -> None:
    grid = tuple(entrant(lr, [NEVER, NEVER], NEVER) for lr in (0.1, 1, 10))
    assert running.beyond(grid, lowest=True) == -1


def test_a_high_objective_is_the_better_one_where_the_target_is_above() -> None:
    grid = tuple(entrant(lr, [NEVER], end) for lr, end in ((0.1, 0.5), (1, 0.9), (10, 0.7), (100, 0.1)))
    assert running.best(grid, lowest=False) == 1
    assert running.best(grid, lowest=True) == 3


def test_to_pass_through_the_target_is_not_to_reach_it() -> None:
    values = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, np.nan]])
    curve = Curve((0, 1, 2, 3), np.array([0, 10, 20, 30]), values)
    found = running.settled(curve, Target(above=0.5, below=None))
    np.testing.assert_array_equal(found, [10, 30, np.nan, np.nan])


def test_the_grid_is_extended_at_its_edge_at_most_as_often_as_is_said() -> None:
    """Far too small learning rates: the best one is the largest, three times."""
    planned = race(lr={"sweep": {"log": [1e-6, 1e-5, 3]}})
    pair = running.run(planned.problem("ntp_values"), "gd", planned.rule("gd"))
    assert [e.lr for e in pair.grid] == pytest.approx([1e-6, 3.16e-6, 1e-5, 3.16e-5, 1e-4, 3.16e-4, 1e-3], rel=1e-2)
    assert (pair.first, pair.edge, pair.judged.lr) == (3, True, pair.grid[-1].lr)
    row = standings._row(planned.problem("ntp_values"), "gd", pair, lowest=False, fastest=math.inf)
    assert (row.tried, row.added, row.edge) == (7, 4, True)


def test_a_row_is_what_runs_on_the_judging_seeds_do(tmp_path: Path) -> None:
    """RMSprop at the learning rate of its row, run as an ordinary experiment on the stream and seeds of judging."""
    rule = "torch.optim.RMSprop"
    planned = race(rule)
    problem = planned.problem("ntp_values")
    pair = running.run(problem, rule, planned.rule(rule))
    running.write(tmp_path / "pair.json", pair, identity.of_pair(planned.only("ntp_values", rule)))
    row = standings._row(problem, rule, pair, lowest=False, fastest=1)

    changes = {
        "like": "two_stage", "seeds": 3, "stream": problem.protocol.judging_stream, "objective": "cos_ov",
        "settings": {"steps_ov": 40, "steps_kq": 1}, "optimizers": {"ngd": None, "mine": {"rule": rule, "lr": row.lr}},
    }  # fmt: skip
    experiment = rooms.load_paper("ntp", {"experiments": {"again": changes}}).experiment("again")
    data = {number: rooms.generate(experiment)(experiment, experiment.seed(number)) for number in range(3)}
    run = rooms.train(experiment)(experiment, experiment.optimizers["mine"], data, Job())
    metrics = Metrics({"again": rooms.measure(experiment)(experiment, data, {"mine": run})})
    curve = metrics.curve("again", "cos_ov", "mine")
    np.testing.assert_array_equal(pair.judged.curve[1], curve.values)
    assert row.end == np.median(curve.final())
    reached = [np.flatnonzero(values <= 0.95) for values in curve.values]
    expected = [curve.steps[below[-1] + 1] if below[-1] + 1 < curve.steps.size else np.nan for below in reached]
    np.testing.assert_array_equal(pair.judged.steps, expected)
    assert problem.protocol.judging_stream != problem.protocol.tuning_stream

    again = running.read(tmp_path / "pair.json", identity.of_pair(planned.only("ntp_values", rule)))
    np.testing.assert_array_equal(again.judged.curve[1], pair.judged.curve[1])
    other = race(rule, settings={"steps_ov": 41})
    with pytest.raises(UserError, match="other settings"):
        running.read(tmp_path / "pair.json", identity.of_pair(other.only("ntp_values", rule)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"race": ["torch.optim.Nothing"]}, ["torch.optim.Nothing", "unknown optimizer"]),
        ({"race": "adam"}, ["race", "list of dotted paths"]),
        ({"race_problems": {"nothing": None}}, ["race_problems", "nothing", "ntp_values"]),
        ({"race_problems": {"mine": {"paper": "ntp"}}}, ["race.problems.mine.experiment", "missing"]),
        ({"race_problems": {"ntp_keys": {"experiment": "two"}}}, ["ntp_keys.experiment", "two_stage"]),
        ({"race_problems": {"ntp_keys": {"steps": 3}}}, ["race.problems.ntp_keys", "steps"]),
        ({"race_problems": {"ntp_keys": {"lr": 0.1}}}, ["ntp_keys.lr", "sweep"]),
        ({"race_problems": {"ntp_keys": {"lr": {"sweep": [0.1, -1]}}}}, ["ntp_keys.lr", "above 0"]),
        ({"race_problems": {"ntp_keys": {"lr": {"sweep": [0.1]}}}}, ["ntp_keys.lr", "two numbers"]),
        ({"race_problems": {"ntp_keys": {"objective": "loss_"}}}, ["objective", "loss_ov"]),
        ({"race_problems": {"ntp_keys": {"settings": {"steps": 3}}}}, ["settings", "steps_ov"]),
        ({"race_problems": {"ntp_keys": {"entry": {"iterations": 3}}}}, ["ntp_keys", "iterations", "lr_kq"]),
        ({"race_problems": {"ntp_keys": {"start": {"sgd": {}}}}}, ["ntp_keys.start", "ngd"]),
        ({"race_problems": {"ntp_keys": {"protocol": {"judging_stream": 31}}}}, ["judging_stream", "31"]),
        ({"race_problems": {"ntp_keys": {"protocol": {"judging_seeds": 0}}}}, ["ntp_keys.protocol", "judging_seeds"]),
        ({"race_problems": {"ntp_keys": None, "ntp_values": None}}, ["at least one problem"]),
    ],
)
def test_a_wrong_race_is_refused_while_planning(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        rooms.make_race(rooms.make_plan({"papers": ["ntp"], **config}))
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_a_problem_on_data_that_would_be_fetched_is_refused() -> None:
    config = {"papers": ["ib"], "race_problems": {"ib_vit": {"settings": {"dataset": "mnist"}}}}
    with pytest.raises(UserError, match=r"race\.problems\.ib_vit: .*mnist, which would be fetched"):
        rooms.make_race(rooms.make_plan(config))


def test_a_pair_that_the_contract_refuses_is_a_row_with_the_reason(tmp_path: Path) -> None:
    """It is drawn and told, and needs no job."""
    rule = "tests.race.entrants.Refusing"
    planned = race(rule)
    assert planned.refusals(rooms.room) == {
        ("ntp_values", rule): f"{rule} refuses these hyper-parameters: will not be built"
    }
    pair = Pair((entrant(0.1, [3.0, 3.0]),), entrant(0.1, [3.0, 3.0]), 1, False)
    for name in planned.rules:
        if name != rule:
            path = standings.place(tmp_path, "ntp_values", name)
            running.write(path, pair, identity.of_pair(planned.only("ntp_values", name)))
    found = standings.gather(planned, tmp_path)
    row = found.rows["ntp_values", rule]
    assert (row.status, row.reason) == ("refused", planned.refusals(rooms.room)["ntp_values", rule])
    table = figures.matrix(found).table
    assert {str(series) for series in table["series"]} == {"race", "refused"}
    assert figures.facts(found)["refused"] == [f"{rule} on ntp_values: {row.reason}"]


def test_a_rule_without_a_learning_rate_runs_once() -> None:
    rule = "tests.race.entrants.Fixed"
    planned = race(rule)
    pair = running.run(planned.problem("ntp_values"), rule, planned.rule(rule))
    assert len(pair.grid) == 1
    assert math.isnan(pair.judged.lr)
    assert not pair.edge


@pytest.mark.slow
def test_one_more_optimizer_is_one_more_row(tmp_path: Path) -> None:
    """The whole command: what ran stays as it is, what is not there is made, and the row is there."""
    more = "torch.optim.RMSprop"
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"papers": ["ntp"], "race_problems": SHORTENED}))
    command = ["--configfile", "short.yaml", "--cores", "1"]
    runs, planned = tmp_path / "results" / "race" / "runs", race(more)
    pairs = {rule: standings.place(runs, "ntp_values", rule) for rule in planned.rules}
    ran = pairs["adam"]
    snakemake(tmp_path, *command, "--", str(ran.relative_to(tmp_path)))
    before = ran.read_bytes(), ran.stat().st_mtime_ns
    found = running.read(ran, identity.of_pair(planned.only("ntp_values", "adam")))
    again = running.run(planned.problem("ntp_values"), "adam", planned.rule("adam"))
    for mine, theirs in zip((*found.grid, found.judged), (*again.grid, again.judged), strict=True):
        assert mine.lr == theirs.lr
        assert np.array_equal(mine.end, theirs.end, equal_nan=True)
        assert np.array_equal(mine.steps, theirs.steps, equal_nan=True)
    for rule in set(pairs) - {"adam", "gd", more}:  # made up, to be quick
        made = entrant(0.1, [3.0, 3.0])
        running.write(pairs[rule], Pair((made,), made, 1, False), identity.of_pair(planned.only("ntp_values", rule)))
    done = snakemake(tmp_path, *command, "--config", f"race=[{more}]", "--", "race")
    assert (ran.read_bytes(), ran.stat().st_mtime_ns) == before
    assert job_counts(done.stdout + done.stderr)["race_pair"] == 2
    rows = standings.read(tmp_path / "results" / "race" / "race.csv")
    assert [row["rule"] for row in rows] == [*optim.names(), more]
    for name in figures.TITLES:
        assert all(
            (tmp_path / f"results/race/figures/{name}.{kind}").exists() for kind in ("pdf", "png", "csv", "json")
        )
    assert more in (tmp_path / "results/race/leaderboard.md").read_text()
    assert 'id="race-matrix"' in (tmp_path / "results" / "index.html").read_text()


def test_the_documentation_names_every_column() -> None:
    text = (ROOT / "docs" / "race.md").read_text().split("## The columns of race.csv")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert tuple(re.findall(r"`(\w+)`", " ".join(cells))) == standings.COLUMNS


@pytest.mark.slow
def test_the_leaderboard_goes_into_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.quick_pictures(monkeypatch)
    planned = race()
    solved, lost = entrant(0.1, [3.0, 4.0, 5.0]), entrant(0.1, [NEVER, NEVER, 3.0])
    for name in planned.rules:
        pair = Pair((solved,), lost if name == "gd" else solved, 1, name == "ngd")
        path = standings.place(tmp_path / "runs", "ntp_values", name)
        running.write(path, pair, identity.of_pair(planned.only("ntp_values", name)))
    writing.results(planned, tmp_path / "runs", tmp_path / "race")
    page = tmp_path / "race.md"
    page.write_text((ROOT / "docs" / "race.md").read_text())
    assert main(["leaderboard", "--race", str(tmp_path / "race"), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| `adam` | 1 of 1 | 1 | 1 | 100% | 0 |" in text
    assert "| `gd` | 0 of 1 | 0 | – | 100% | 0 |" in text
    assert "| `ngd` | 1† |" in text
    assert all((tmp_path / "race" / f"{name}.png").is_file() for name in figures.TITLES)
    assert main(["leaderboard", "--race", str(tmp_path / "race"), "--page", str(page)]) == 0
    assert page.read_text() == text


@pytest.mark.slow
def test_the_pictures_of_the_whole_race_can_be_read(tmp_path: Path) -> None:
    """All problems and rules as shipped, and one refused; made-up runs, among them lost and diverged ones."""
    planned = rooms.make_race(rooms.make_plan({"race": ["tests.race.entrants.Refusing"]}))
    draws = np.random.default_rng(0)
    refused = planned.refusals(rooms.room)
    for name, problem in planned.problems.items():
        (target,) = problem.section["target"]["value"].values()
        for rule in planned.rules:
            if (name, rule) in refused:
                continue
            steps = np.geomspace(1, 1000, 30).round().astype(int)
            values = target * np.exp(draws.normal(size=(3, 1)) + np.linspace(1, -6, 30) * draws.uniform(-0.2, 1))
            reached = draws.choice([NEVER, 1.0, 30.0, 700.0], 3)
            end = np.where(draws.random(3) < 0.1, NEVER, values[:, -1])
            made = Entrant(0.1, end, reached, 1000, 0.1, (steps, values))
            path = standings.place(tmp_path, name, rule)
            running.write(path, Pair((made, made), made, 2, False), identity.of_pair(planned.only(name, rule)))
    found = standings.gather(planned, tmp_path)
    faults = {}
    with plotting.look():
        for name, draw in figures.FIGURES.items():
            drawing = draw(found)
            plotting.finished(drawing.figure)
            faults[name] = layout.faults(drawing.figure)
    assert faults == {name: [] for name in figures.FIGURES}
