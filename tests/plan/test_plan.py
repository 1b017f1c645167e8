"""Configurations: sources, overlays, and one clear message for everything that is wrong."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from workflow.lib import rooms
from workflow.lib.cli import main
from workflow.lib.errors import UserError
from workflow.lib.plan import jobs
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import block_seeds
from workflow.lib.plan.reading import ROOT, read_yaml
from workflow.lib.rooms import load_paper, make_plan

SHIPPED = read_yaml(ROOT / "config" / "config.yaml")


def plan_with(**changes: Any) -> Any:
    return make_plan({**SHIPPED, "papers": ["ntp"], **changes})


def ntp(path: str, value: Any) -> dict[str, Any]:
    """An overlay of ntp that sets one value, by its dotted path."""
    nested: Any = value
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return {"ntp": nested}


TWO_STAGE = "experiments.two_stage"
GD = {"lr": 0.1, "lr_kq": 0.1}

# (what is laid over the shipped configuration, words that the message must hold)
BAD = [
    ({"papers": []}, ["config.papers", "at least one", "[]"]),
    ({"papers": ["npt"]}, ["config.papers", "'npt'", "Did you mean 'ntp'"]),
    ({"papers": "ntp"}, ["config.papers", "list"]),
    ({"papers": ["ntp", "ntp"]}, ["config.papers"]),
    ({"seeds": 0}, ["config.seeds", "at least 1", "0"]),
    ({"seeds": -3}, ["config.seeds", "-3"]),
    ({"seeds": 2.5}, ["config.seeds", "whole number", "2.5"]),
    ({"seeds": "three"}, ["config.seeds", "'three'"]),
    ({"seeds": True}, ["config.seeds", "True"]),
    ({"seeds_per_job": 0}, ["config.seeds_per_job", "at least 1"]),
    ({"device": "gpu"}, ["config.device", "cpu, cuda, auto", "'gpu'"]),
    ({"data_dir": 7}, ["config.data_dir", "7"]),
    ({"sedes": 3}, ["'sedes'", "Did you mean 'seeds'"]),
    ({"ntp": 5}, ["ntp", "mapping", "5"]),
    (ntp("figure", {}), ["ntp", "'figure'", "figures"]),
    (ntp(f"{TWO_STAGE}.setings", {}), ["ntp.experiments.two_stage", "'setings'", "settings"]),
    (ntp(f"{TWO_STAGE}.kind", "random"), ["ntp.experiments.two_stage.kind", "'random'", "random_sentences"]),
    (ntp(f"{TWO_STAGE}.seeds", 0), ["ntp.experiments.two_stage.seeds", "at least 1"]),
    (ntp(f"{TWO_STAGE}.settings.vocabulary", 20), ["'vocabulary'", "vocabulary_size"]),
    (ntp(f"{TWO_STAGE}.settings.vocabulary_size", -20), ["two_stage.settings.vocabulary_size", "-20"]),
    (ntp(f"{TWO_STAGE}.settings.vocabulary_size", "many"), ["vocabulary_size", "whole number", "'many'"]),
    (ntp(f"{TWO_STAGE}.settings.vocabulary_size", 2.5), ["vocabulary_size", "whole number", "2.5"]),
    (ntp(f"{TWO_STAGE}.settings.steps_ov", 0), ["two_stage.settings.steps_ov", "greater than 0"]),
    (ntp(f"{TWO_STAGE}.settings.embedding_dimension", 19), ["embedding_dimension", "19", "at least", "20"]),
    (ntp(f"{TWO_STAGE}.settings.sentences", 100_000), ["sentences", "100000", "7220 distinct"]),
    (ntp(f"{TWO_STAGE}.settings.lengths", [1, 2]), ["lengths", "[1, 2]", "between 2 and"]),
    (ntp(f"{TWO_STAGE}.settings.lengths", []), ["lengths"]),
    (ntp(f"{TWO_STAGE}.settings.init", "zero"), ["unknown setting 'init'", "init_scale"]),
    (ntp(f"{TWO_STAGE}.settings.init_scale", float("nan")), ["init_scale", "nan"]),
    (ntp(f"{TWO_STAGE}.settings.init_scale", {"value": 0.1, "sorce": "choice"}), ["init_scale", "'sorce'", "source"]),
    (
        ntp(f"{TWO_STAGE}.settings.init_scale", {"value": 0.1, "source": "rumour"}),
        ["source", "paper, inferred", "rumour"],
    ),
    (ntp(f"{TWO_STAGE}.optimizers.ngdd", {}), ["two_stage.optimizers.ngdd", "'ngdd'", "Did you mean 'ngd'"]),
    (ntp(f"{TWO_STAGE}.optimizers.ngd.step", 0.1), ["two_stage.optimizers.ngd", "'step'", "lr"]),
    (ntp(f"{TWO_STAGE}.optimizers.ngd.lr", 0), ["optimizers.ngd.lr", "greater than 0"]),
    (ntp(f"{TWO_STAGE}.optimizers.ngd.lr", "fast"), ["optimizers.ngd.lr", "'fast'"]),
    (ntp(f"{TWO_STAGE}.optimizers.gd", {}), ["optimizers.gd.lr", "missing"]),
    (ntp("experiments.example.settings.strings", ["S"]), ["strings", "at least 2 letters", "'S'"]),
    (ntp("experiments.Example", {}), ["ntp.experiments", "lower-case"]),
    (ntp("figures.figure2", {"title": "x", "experiments": []}), ["ntp.figures", "extra_<name>"]),
    (ntp("figures.fig2.experiments", ["two_stages"]), ["ntp.figures.fig2.experiments", "'two_stages'", "two_stage"]),
    (ntp("claims", {"ntp.fig2.norm_ov": {"low": "small"}}), ["ntp.fig2.norm_ov.low", "a number", "'small'"]),
    (ntp("experiments.two_stages", {"settings": {}}), ["'two_stages'", "Did you mean 'two_stage'", "like"]),
    (ntp("experiments.mine", {"like": "two_stages"}), ["mine.like", "Did you mean 'two_stage'"]),
    (ntp("experiments.mine", {"settings": {}}), ["zero_init. A new one needs `kind`"]),
    (ntp(f"{TWO_STAGE}.objective", "loss"), ["two_stage.target: runs are good where loss is below", "{'above': 0.95}"]),
    (ntp(f"{TWO_STAGE}.target", {"below": 0.1}), ["two_stage.target: runs are good where cos_kq is above a number"]),
    (ntp("experiments.nothing", None), ["ntp.experiments", "null removes", "'nothing'"]),
    (ntp(f"{TWO_STAGE}.optimizers.data", {"rule": "ngd", **GD}), ["optimizers.data", "taken"]),
    (ntp("experiments.zero_init", None), ["ntp.figures.extra_zero_init", "'zero_init'", "extra_zero_init: null"]),
    (ntp("figures.fig1.experiments", ["two_stage"]), ["ntp.figures.fig1", "strings", "random_sentences"]),
    (ntp("figures.fig2.experiments", []), ["ntp.figures.fig2", "one of each kind"]),
    (ntp("figures.extra_mine", {"title": "x", "experiments": ["two_stage"]}), ["extra_mine", "draws"]),
    (ntp("figures.extra_mine", {"title": "x", "draws": "fig9", "experiments": []}), ["draws", "'fig9'"]),
    (ntp("claims", {"ntp.fig2.norm_of": {"low": 1}}), ["'ntp.fig2.norm_of'", "Did you mean"]),
    (ntp("claims", {"ntp.fig2.norm_ov": {"low": 41}}), ["ntp.fig2.norm_ov", "low <= high", "41"]),
    (ntp("claims", {"ntp.fig2.norm_ov": {"low": float("nan")}}), ["ntp.fig2.norm_ov.low", "nan"]),
    (ntp("claims", {"ntp.fig2.norm_ov": {"figure": "fig99"}}), ["ntp.fig2.norm_ov.figure", "'fig99'"]),
    (ntp("claims", {"ntp.fig2.norm_ov": {"share": 0}}), ["ntp.fig2.norm_ov.share", "share of seeds"]),
]


@pytest.mark.parametrize(
    ("paper", "experiment", "settings", "told"),
    [
        ("icl", "population", {"context_lengths": ["inf"]}, "context_lengths.0: expected 'infinite' or a whole number"),
        ("icl", "population", {"feature_counts": 5}, "feature_counts: expected a list; found 5"),
        ("ib", "orthogonal", {"optimal_position": 2.5}, "expected 'random' or a whole number; found 2.5"),
        ("ib", "bert_mnli", {"encoder": 5}, "encoder: expected a text or a mapping; found 5"),
        ("ntp", "two_stage", {"lengths": [2.5]}, "lengths.0: expected a whole number, found 2.5"),
        ("ntp", "two_stage", {"lengths": []}, "lengths: expected a list that is not empty; found []"),
    ],
)
def test_a_value_of_no_form_gets_one_line(paper: str, experiment: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_paper(paper, {"experiments": {experiment: {"settings": settings}}})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_experiment_without_optimizers_is_refused() -> None:
    with pytest.raises(UserError, match=r"two_stage\.optimizers: expected at least one; .*`two_stage: null`"):
        load_paper("ntp", {"experiments": {"two_stage": {"optimizers": {"ngd": None}}}})


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[" ".join(words[:2]) for _, words in BAD])
def test_a_mistake_gets_one_message_that_names_it(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        plan_with(**changes)
    for word in words:
        assert word in str(caught.value)


def test_numbers_given_as_text_are_read() -> None:
    """`--config` passes nested numbers as text, and YAML takes 1e-3 for one."""
    optimizer = "experiments.two_stage.optimizers.ngd.lr"
    plan = plan_with(**ntp(optimizer, "1e-3"))
    assert plan.paper("ntp").experiment("two_stage").optimizers["ngd"].hyperparameters["lr"] == 1e-3
    plan = plan_with(**ntp("experiments.two_stage.settings.steps_ov", "12"))
    assert plan.paper("ntp").experiment("two_stage").settings.steps_ov == 12


@pytest.mark.parametrize("change", [0.2, {"value": 0.2}])
def test_a_changed_value_loses_its_source(change: Any) -> None:
    plan = plan_with(**ntp("experiments.two_stage.settings.init_scale", change))
    assert plan.paper("ntp").experiment("two_stage").given["init_scale"] == Setting(value=0.2)


def test_a_change_may_bring_its_own_source() -> None:
    change = {"value": 0.2, "source": "paper", "where": "p. 10"}
    plan = plan_with(**ntp("experiments.two_stage.settings.init_scale", change))
    assert plan.paper("ntp").experiment("two_stage").given["init_scale"] == Setting(
        value=0.2, source="paper", where="p. 10"
    )


def test_a_user_may_add_an_experiment_and_a_figure_entry() -> None:
    entry = copy.deepcopy(read_yaml(ROOT / "config/papers/ntp.yaml")["experiments"]["two_stage"])
    entry["settings"]["vocabulary_size"] = entry["settings"]["embedding_dimension"] = 30
    plan = plan_with(ntp={"experiments": {"larger": entry}})
    larger = plan.paper("ntp").experiment("larger")
    assert larger.settings.vocabulary_size == 30
    assert larger.given["vocabulary_size"].source == "user"


def test_the_number_of_seeds_can_be_set_for_all() -> None:
    assert {e.seeds for e in plan_with(seeds=3).paper("ntp").experiments.values()} == {3}


def test_blocks() -> None:
    experiment = plan_with(seeds=12).paper("ntp").experiment("two_stage")
    assert experiment.blocks(5) == ["0-4", "5-9", "10-11"]
    assert experiment.blocks(1)[3] == "3"
    assert [s for b in experiment.blocks(5) for s in block_seeds(b)] == list(range(12))


@pytest.mark.parametrize("name", ["", "a", "3-1", "1-", "-1", "1-2-3"])
def test_a_bad_block_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected one seed"):
        block_seeds(name)


def test_what_a_job_gets_reads_back_the_same(tmp_path: Path) -> None:
    paper, room = load_paper("ntp"), rooms.room("ntp")
    again = jobs.take(Path(jobs.hand(tmp_path, "claims", jobs.for_claims(paper))), room)
    assert again == paper
    drawn = jobs.take(Path(jobs.hand(tmp_path, "figure", jobs.for_figure(paper, "fig2"))), room)
    assert drawn.experiments == {"two_stage": paper.experiments["two_stage"]}
    run = jobs.take(Path(jobs.hand(tmp_path, "run", jobs.for_run(paper.experiment("two_stage"), "ngd"))), room)
    assert run.experiment("two_stage").settings == paper.experiment("two_stage").settings
    assert run.experiment("two_stage").optimizer("ngd").hyperparameters["lr"] == 0.2 / 20**0.5


def test_what_a_job_gets_is_named_by_its_content(tmp_path: Path) -> None:
    """A reworded source is no news to a training job; another value is."""
    plain = jobs.hand(tmp_path, "run", jobs.for_run(load_paper("ntp").experiment("two_stage"), "ngd"))
    worded = {"experiments": {"two_stage": {"settings": {"sentences": {"where": "elsewhere"}}}}}
    assert jobs.hand(tmp_path, "run", jobs.for_run(load_paper("ntp", worded).experiment("two_stage"), "ngd")) == plain
    changed = {"experiments": {"two_stage": {"settings": {"sentences": 21}}}}
    assert jobs.hand(tmp_path, "run", jobs.for_run(load_paper("ntp", changed).experiment("two_stage"), "ngd")) != plain
    assert len(list(tmp_path.iterdir())) == 2


# ---- what a user changes keeps no evidence that is not its own ----


def test_another_rule_under_a_label_is_not_the_paper_s() -> None:
    mine = {"experiments": {"two_stage": {"optimizers": {"ngd": {"rule": "adam"}}}}}
    optimizer = load_paper("ntp", mine).experiment("two_stage").optimizer("ngd")
    assert optimizer.rule == "adam"
    assert {setting.source for setting in optimizer.given.values()} == {"user"}


def test_a_changed_band_is_the_user_s() -> None:
    shipped = load_paper("ntp").claims["ntp.fig2.norm_ov"]
    mine = load_paper("ntp", {"claims": {"ntp.fig2.norm_ov": {"high": 50}}}).claims["ntp.fig2.norm_ov"]
    assert (mine.low, mine.high, mine.band, mine.source) == (shipped.low, 50, "user", shipped.source)
    same = load_paper("ntp", {"claims": {"ntp.fig2.norm_ov": {"high": shipped.high}}})
    assert same.claims["ntp.fig2.norm_ov"] == shipped


def test_the_same_value_keeps_its_evidence() -> None:
    mine = {"experiments": {"two_stage": {"settings": {"init_scale": 0.1}, "seeds": 100}}}
    assert load_paper("ntp", mine) == load_paper("ntp")


def test_own_settings_are_told() -> None:
    mine = {"experiments": {"two_stage": {"seeds": 3, "optimizers": {"ngd": {"lr": 0.1}}}}}
    experiment = load_paper("ntp", mine).experiment("two_stage")
    assert experiment.own(["ngd"]) == ["two_stage.seeds = 3", "two_stage.ngd.lr = 0.1"]
    assert experiment.own([]) == ["two_stage.seeds = 3"]


def test_null_removes() -> None:
    gone = {
        "experiments": {"zero_init": None, "two_stage": {"optimizers": {"ngd": None, "gd": GD}}},
        "figures": {"extra_zero_init": None},
        "claims": {"ntp.fig2.norm_ov": None},
    }
    paper = load_paper("ntp", gone)
    assert "zero_init" not in paper.experiments
    assert list(paper.experiment("two_stage").optimizers) == ["gd"]
    assert "extra_zero_init" not in paper.figures
    assert "ntp.fig2.norm_ov" not in paper.claims


def test_a_user_may_add_an_experiment_like_another_and_a_figure_of_it() -> None:
    mine = {
        "experiments": {"wide": {"like": "two_stage", "settings": {"vocabulary_size": 30, "embedding_dimension": 30}}},
        "figures": {"extra_wide": {"title": "wide", "draws": "fig2", "experiments": ["wide"]}},
    }
    paper = load_paper("ntp", mine)
    assert paper.experiment("wide").settings.vocabulary_size == 30
    assert paper.experiment("wide").given["steps_ov"].source == "paper"
    assert paper.figure("extra_wide").drawing == "fig2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", ["line", "is not valid YAML"]),
        ("a: 1\na: 2", ["'a' stands twice", "line 2"]),
        ("- 1\n- 2", ["expected keys with values"]),
        ("a:\n\t- 1", ["is not valid YAML", "line 2"]),
        ("", ["expected keys with values"]),
        ("a: !!python/object/apply:os.system [ls]", ["is not valid YAML"]),
    ],
)
def test_a_bad_yaml_file_is_named_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_missing_or_binary_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml: line 1: expected a text in UTF-8"):
        read_yaml(tmp_path / "binary.yaml")


def test_the_schemas_for_editors_are_the_models(tmp_path: Path) -> None:
    assert main(["schemas", "--folder", str(tmp_path)]) == 0
    shipped = {path.name: path.read_text() for path in (ROOT / "workflow" / "schemas").glob("*.json")}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == shipped


def test_every_yaml_names_its_schema() -> None:
    for path in [*(ROOT / "config").glob("*.yaml"), *(ROOT / "config").glob("*/*.yaml")]:
        first = path.read_text().splitlines()[0]
        name = first.removeprefix("# yaml-language-server: $schema=")
        assert name != first, path
        assert (path.parent / name).is_file(), path


@pytest.mark.slow
def test_the_schemas_take_what_is_shipped() -> None:
    for kind in ("papers", "claims"):
        for path in (ROOT / "config" / kind).glob("*.yaml"):
            schema = "claims" if kind == "claims" else path.stem
            known = json.loads((ROOT / f"workflow/schemas/{schema}.schema.json").read_text())
            jsonschema.validate(read_yaml(path), known)
    race = json.loads((ROOT / "workflow/schemas/race.schema.json").read_text())
    jsonschema.validate(read_yaml(ROOT / "config" / "race.yaml"), race)


def test_the_schemas_know_bounds() -> None:
    known = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    jsonschema.validate({"seeds": 3}, known)
    with pytest.raises(jsonschema.ValidationError, match="-3 is less than or equal to the minimum of 0"):
        jsonschema.validate({"seeds": -3}, known)


@pytest.mark.slow
def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from workflow.lib.rooms import make_plan; from workflow.lib.plan.reading import ROOT, read_yaml;"
        "make_plan(read_yaml(ROOT / 'config/config.yaml'));"
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "papers").glob("*.yaml")), ids=lambda p: p.stem)
def test_no_shipped_number_without_a_source(path: Path) -> None:
    experiments = yaml.safe_load(path.read_text())["experiments"]
    for name, experiment in experiments.items():
        entries = [experiment["settings"], *experiment["optimizers"].values()]
        for entry in entries:
            for key, setting in entry.items():
                if key == "rule":
                    continue
                assert set(setting) == {"value", "source", "where"}, f"{name}.{key}"
                assert setting["source"] != "user", f"{name}.{key}"
                assert setting["where"], f"{name}.{key}"
