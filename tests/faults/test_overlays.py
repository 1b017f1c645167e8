"""A user's file over the shipped ones, and what it may say: told in one message while planning."""

# ruff: noqa: E501  (a table reads by its lines)

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snakemake.cli import parse_args

from tests.conftest import ROOT, SNAKEFILE
from tests.faults import refused, taken_or_refused
from workflow.lib import rooms
from workflow.lib.plan.model import Plan
from workflow.lib.plan.reading import read_overlay

BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 7)
)

# What a file holds, and what the message names.
FILES: list[tuple[str, bytes, list[str]]] = [
    ("empty", b"", ["expected keys with values", "nothing"]),
    ("only a comment", b"# nothing\n", ["expected keys with values", "nothing"]),
    ("a list", b"- 1\n- 2\n", ["expected keys with values", "list"]),
    ("a number", b"42\n", ["expected keys with values", "int"]),
    ("a text", b"seeds\n", ["expected keys with values", "str"]),
    ("Latin-1", "ntp: {about: caf\u00e9}\n".encode("latin-1"), ["UTF-8", "byte 16"]),
    ("UTF-16", "ntp: {}\n".encode("utf-16"), ["UTF-8", "byte 0"]),
    ("binary", bytes(range(256)), ["mine.yaml"]),
    ("a null byte", b"seeds: 1\0\n", ["mine.yaml", "not valid YAML"]),
    ("a tab", b"ntp:\n\texperiments: {}\n", ["not valid YAML", "line 2"]),
    ("an open quote", b'ntp: "abc\n', ["not valid YAML", "line 1"]),
    ("an open bracket", b"papers: [ntp\nseeds: 2\n", ["not valid YAML", "line"]),
    ("an open brace", b"ntp: {experiments: {\n", ["not valid YAML", "line"]),
    ("an unknown alias", b"ntp: *other\n", ["not valid YAML", "undefined alias"]),
    ("two documents", b"seeds: 1\n---\nseeds: 2\n", ["not valid YAML", "document"]),
    ("a key twice", b"seeds: 1\nseeds: 2\n", ["the key 'seeds' stands twice", "line 2"]),
    ("a key twice, deep", b"ntp:\n  experiments: {two_stage: {seeds: 1, seeds: 2}}\n", ["'seeds' stands twice", "line 2"]),
    ("a tag of Python", b"ntp: !!python/object/apply:os.system [ls]\n", ["not valid YAML", "python"]),
    ("an unknown tag", b"ntp: !mine {}\n", ["not valid YAML", "!mine"]),
    ("a key that is a list", b"? [1, 2]\n: 3\n", ["not valid YAML"]),
    ("a date that is none", b"seeds: 2020-13-45\n", ["not valid YAML", "month"]),
    ("an alias bomb", BOMB, ["300,000 values", "anchors"]),
    ("an anchor that holds itself", b"ntp: &a [*a]\n", ["300,000 values", "anchors"]),
    ("a mapping that holds itself", b"ntp: &a {b: *a}\n", ["300,000 values", "anchors"]),
    ("a program", b"__use_yte__: true\nseeds: ?1 + 1\n", ["__use_yte__", "program"]),
    ("five thousand digits", b"seeds: " + b"9" * 5000 + b"\n", ["not valid YAML"]),
    ("lists, 10,000 deep", b"seeds: 1\nntp: " + b"[" * 10_000 + b"]" * 10_000, ["line 2", "at most 50 deep"]),
    ("lists, 1,000,000 deep", b"ntp: " + b"[" * 1_000_000, ["line 1", "at most 50 deep"]),
    ("mappings, 60 deep", b"".join(b" " * n + b"a:\n" for n in range(60)) + b" " * 60 + b"b: 1\n", ["line 51", "at most 50 deep"]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), [pytest.param(*case[1:], id=case[0]) for case in FILES])
def test_a_file_that_is_no_overlay(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    refused(lambda: read_overlay(path), "mine.yaml", *words, inside=tmp_path)


def _pipe(path: Path) -> None:
    import os

    os.mkfifo(path)


PLACES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("missing", lambda path: None, "No such file"),
    ("a folder", Path.mkdir, "is a folder"),
    ("a dangling link", lambda path: path.symlink_to("nowhere"), "No such file"),
    ("a link to itself", lambda path: path.symlink_to(path.name), "symbolic links"),
    ("a pipe", _pipe, "no regular file"),
]


@pytest.mark.parametrize(("make", "word"), [pytest.param(*case[1:], id=case[0]) for case in PLACES])
def test_a_place_without_an_overlay(tmp_path: Path, make: Any, word: str) -> None:
    make(tmp_path / "mine.yaml")
    refused(lambda: read_overlay(tmp_path / "mine.yaml"), "mine.yaml", word)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseeds: 3\n")
    assert read_overlay(tmp_path / "mine.yaml") == {"seeds": 3}


def look_through(profile: str, *overlays: Path) -> None:
    """What snakemake does with its command line before it takes the files of --configfile; SystemExit is one message."""
    named = ("--snakefile", str(ROOT / SNAKEFILE), "--workflow-profile", str(ROOT / "workflow" / "profiles" / profile))
    parse_args([*named, "-n", "--configfile", *map(str, overlays)])


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_snakemake_takes_no_overlay_before_it_is_looked_through(tmp_path: Path, profile: str) -> None:
    """For one and several files; a program among them does not run."""
    good, bad, program = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "program"))
    good.write_text("seeds: 3\n")
    bad.write_text("ntp:\n\texperiments: {}\n")
    program.write_text(f"__use_yte__: true\n__definitions__: [\"open('{tmp_path}/ran', 'w')\"]\n")
    look_through(profile, good)

    for files, words in (
        ([bad], ["bad.yaml", "line 2"]),
        ([good, bad], ["bad.yaml", "line 2"]),
        ([good, program], ["program.yaml", "__use_yte__"]),
        ([good, tmp_path / "none.yaml"], ["none.yaml", "No such file"]),
    ):
        with pytest.raises(SystemExit) as caught:
            look_through(profile, *files)
        assert str(caught.value).startswith("error: ")
        assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "ran").exists()


def test_a_profile_of_other_rules_looks_through_nothing(tmp_path: Path) -> None:
    """The profile of this workflow may be copied to another one."""
    shutil.copytree(ROOT / "workflow" / "profiles" / "default", tmp_path / "profiles" / "default")
    (tmp_path / "Snakefile").touch()
    (tmp_path / "theirs.yaml").write_text("[1, 2]")
    parse_args(["--snakefile", str(tmp_path / "Snakefile"), "-n", "--configfile", str(tmp_path / "theirs.yaml")])


def plan(mine: Any) -> Plan:
    return rooms.make_plan({"papers": ["ntp"], **mine})


def setting(name: str, value: str) -> str:
    return f"ntp: {{experiments: {{two_stage: {{settings: {{{name}: {value}}}}}}}}}"


def rate(value: str, name: str = "lr") -> str:
    return f"ntp: {{experiments: {{two_stage: {{optimizers: {{ngd: {{{name}: {value}}}}}}}}}}}"


def label(name: str) -> str:
    return f"ntp: {{experiments: {{two_stage: {{optimizers: {{{name}: {{rule: gd, lr: 0.1}}}}}}}}}}"


def claim(values: str) -> str:
    return f"ntp: {{claims: {{ntp.fig2.norm_ov_slope: {values}}}}}"


NOT_WHOLE = ["5.0", "2.5", "1e1", "'5 '", "' 5'", "five", "true", "null", "[5]", "{a: 5}", "-1", "0", "'\u0665'", "0x", "1_0x",
             "'5\\n'", ".inf", ".nan", "2020-01-01", "'--5'", "'+-5'", "10000000000000000000000000", "''", "'1,000'"]  # fmt: skip
NOT_NUMBER = ["true", "null", "[0.1]", "{a: 0.1}", "fast", "'0.1 '", "'\u0660.\u0661'", ".nan", ".inf", "-.inf", "-1",
              "''", "'1e'", "'0,1'", "'1__0'", "nan", "inf", "'1e999'", "2020-01-01", f"{10**400}"]  # fmt: skip
NOT_NAME = [
    "1",
    "true",
    "null",
    "1.5",
    "2020-01-01",
    "'a b'",
    "'a\\nb'",
    "A",
    "'../x'",
    "a-b",
    "_a",
    "''",
    "'a/b'",
    "'{a}'",
    "data",
]

# YAML over ntp's, and what the message names.
MISTAKES: list[tuple[str, list[str]]] = [
    *((f"seeds: {value}", ["config.seeds"]) for value in NOT_WHOLE if value != "null"),
    *((setting("steps_ov", value), ["ntp.experiments.two_stage.settings.steps_ov"]) for value in NOT_WHOLE),
    *((setting("init_scale", value), ["ntp.experiments.two_stage.settings.init_scale"]) for value in NOT_NUMBER),
    *((rate(value), ["ntp.experiments.two_stage.optimizers.ngd", "lr"]) for value in NOT_NUMBER),
    *((label(name), ["ntp.experiments.two_stage.optimizers"]) for name in NOT_NAME),
    (setting("steps_ov", "5.0"), ["such as 5"]),
    (setting("steps_ov", "'1e1'"), ["such as 10"]),
    ("device: tpu", ["config.device", "cpu, cuda, auto"]),
    ("papers: []", ["config.papers"]),
    ("papers: [ntp, ntp]", ["config.papers"]),
    ("papers: ntp", ["config.papers"]),
    ("papers: [npt]", ["unknown paper 'npt'", "'ntp'"]),
    ("seed: 3", ["unknown key 'seed'", "'seeds'"]),
    ("data_dir: ''", ["config.data_dir"]),
    ("data_dir: 3", ["config.data_dir"]),
    ("ntp: 3", ["ntp: expected a mapping"]),
    ("ntp: [a]", ["ntp: expected a mapping"]),
    ("ntp: {experiment: {}}", ["unknown key 'experiment'", "'experiments'"]),
    ("ntp: {experiments: {two_stages: {seeds: 2}}}", ["unknown experiment 'two_stages'", "'two_stage'"]),
    ("ntp: {experiments: {mine: {like: two_stages}}}", ["like", "'two_stage'"]),
    ("ntp: {experiments: {two_stages: null}}", ["null removes", "'two_stage'"]),
    ("ntp: {experiments: {two_stage: 5}}", ["two_stage", "mapping"]),
    ("ntp: {experiments: {two_stage: {setting: {}}}}", ["unknown key 'setting'", "'settings'"]),
    ("ntp: {experiments: {two_stage: {kind: string}}}", ["unknown kind 'string'", "'strings'"]),
    ("ntp: {experiments: {two_stage: {settings: {vocabulary: 3}}}}", ["unknown setting 'vocabulary'"]),
    ("ntp: {experiments: {two_stage: {settings: 3}}}", ["settings", "mapping"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adm: {lr: 0.1}}}}}", ["unknown", "'adm'", "'adam'"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adam: {beta: 0.1}}}}}", ["unknown hyper-parameter 'beta'"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adam: 3}}}}", ["adam", "mapping"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adam: null}}}}", ["null removes"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adam: {lr: 0.1, beta1: 1}}}}}", ["beta1"]),
    ("ntp: {experiments: {two_stage: {optimizers: {adam: {lr: 0.1, beta2: 1.5}}}}}", ["beta2"]),
    ("ntp: {experiments: {two_stage: {optimizers: {mine: {rule: os.system}}}}}", ["os.system"]),
    ("ntp: {experiments: {two_stage: {optimizers: {mine: {rule: no.such.module}}}}}", ["no.such.module"]),
    ("ntp: {experiments: {two_stage: {optimizers: {mine: {rule: 3}}}}}", ["mine"]),
    ("ntp: {experiments: {two_stage: {settings: {init_scale: {value: 1, source: me}}}}}", ["init_scale.source", "'me'"]),
    ("ntp: {experiments: {two_stage: {settings: {init_scale: {value: 1, sources: user}}}}}", ["'sources'"]),
    ("ntp: {experiments: {two_stage: {settings: {init_scale: {source: user}}}, two: {like: two_stage, kind: 3}}}", ["kind"]),
    ("ntp: {figures: {fig99: {draws: fig2, title: x, experiments: [two_stages]}}}", ["two_stages"]),
    ("ntp: {figures: {mine: {draws: fig2, title: x, experiments: [two_stage]}}}", ["extra_<name>", "'mine'"]),
    ("ntp: {figures: {extra_a: {draws: fig9, title: x, experiments: [two_stage]}}}", ["unknown drawing 'fig9'"]),
    ("ntp: {figures: {extra_a: {draws: fig2, experiments: [two_stage]}}}", ["title", "missing"]),
    ("ntp: {figures: {extra_a: {draws: fig2, title: x, experiments: []}}}", ["one of each kind"]),
    ("ntp: {figures: {fig2: {experiments: 3}}}", ["fig2.experiments"]),
    ("ntp: {figures: {fig9: {title: x, experiments: [two_stage]}}}", ["fig9"]),
    ("ntp: {figures: {fig9: null}}", ["null removes", "'fig9'"]),
    ("ntp: {claims: {ntp.fig2.norm: {low: 1}}}", ["unknown claim 'ntp.fig2.norm'"]),
    ("ntp: {claims: {ntp.fig2.norm: null}}", ["null removes"]),
    (claim("{low: 2, high: 1}"), ["low <= high", "2 and 1"]),
    (claim("{low: null, high: null}"), ["at least one end"]),
    (claim("{low: .nan}"), ["low"]),
    (claim("{high: .inf}"), ["high"]),
    (claim("{low: small}"), ["low"]),
    (claim("{low: true}"), ["low", "expected a number", "True"]),
    (claim("{low: ' 0.5 '}"), ["low", "expected a number"]),
    (claim("{share: true}"), ["share", "True"]),
    (claim("{like: ntp.fig2.cos_ov}"), ["ntp.fig2.norm_ov_slope.like", "goes by its name"]),
    (setting("init_scale", "{sweep: [0, 1], about: x}"), ["unknown key 'about'"]),
    (claim("{share: 0}"), ["share"]),
    (claim("{share: 1.5}"), ["share"]),
    (claim("{share: .nan}"), ["share"]),
    (claim("{figure: fig99}"), ["unknown figure 'fig99'"]),
    (claim("{source: me}"), ["source", "'me'"]),
    (claim("{band: me}"), ["band", "'me'"]),
    (claim("{lows: 1}"), ["unknown key 'lows'"]),
    (claim("3"), ["norm_ov_slope", "mapping"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"), [pytest.param(*case, id=case[0][:90].replace("\n", " ")) for case in MISTAKES]
)
def test_a_mistake_is_told_while_planning(text: str, words: list[str]) -> None:
    refused(lambda: plan(yaml.safe_load(text)), *words)


def test_a_long_value_is_shortened() -> None:
    message = refused(lambda: plan({"seeds": list(range(100_000))}), "config.seeds")
    assert len(message) < 300


def test_what_starts_from_another_entry_is_what_that_entry_is() -> None:
    """The rule that an optimizer's label names, and the drawing that a figure's name does."""
    mine = plan(
        {
            "ntp": {
                "experiments": {"two_stage": {"optimizers": {"slow": {"like": "ngd", "lr": 0.01}}}},
                "figures": {"extra_long": {"like": "fig2", "experiments": ["long_run"]}},
            }
        }
    ).paper("ntp")
    slow = mine.experiment("two_stage").optimizer("slow")
    assert (slow.rule, slow.hyperparameters["lr"], slow.given["lr_kq"].source) == ("ngd", 0.01, "paper")
    assert mine.figure("extra_long").drawing == "fig2"


def test_a_band_of_ones_own_is_tagged() -> None:
    mine = plan(yaml.safe_load(claim("{low: 0.5}"))).paper("ntp").claims["ntp.fig2.norm_ov_slope"]
    assert mine.band == "user"
    assert "user" in mine.evidence
    assert mine.reason == ""
    same = plan({}).paper("ntp").claims["ntp.fig2.norm_ov_slope"]
    assert same.band != "user"


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
WORDS = st.sampled_from(
    ["ntp", "experiments", "two_stage", "settings", "optimizers", "ngd", "figures", "fig2", "claims", "lr", "value",
     "source", "where", "like", "seeds", "papers", "kind", "rule", "draws", "ntp.fig2.norm_ov_slope", "low", "steps_ov"]
)  # fmt: skip
KEYS = WORDS | st.text(max_size=5) | st.integers() | st.none() | st.booleans()
TREES = st.recursive(
    LEAVES, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(KEYS, tree, max_size=3), max_leaves=8
)
QUIET = settings(
    max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
@QUIET
@given(st.dictionaries(WORDS, TREES, max_size=3))
def test_any_overlay_is_a_plan_or_one_message(mine: dict[Any, Any]) -> None:
    taken_or_refused(lambda: plan(mine))


@pytest.mark.slow
@QUIET
@given(
    st.dictionaries(WORDS, TREES, max_size=2),
    st.sampled_from(
        [lambda mine: mine, lambda mine: {"settings": mine}, lambda mine: {"optimizers": mine},
         lambda mine: {"optimizers": {"ngd": mine}}]
    ),
)  # fmt: skip
def test_any_experiment_is_a_plan_or_one_message(mine: dict[Any, Any], placed: Callable[[Any], Any]) -> None:
    taken_or_refused(lambda: plan({"ntp": {"experiments": {"two_stage": placed(mine)}}}))


@QUIET
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | TREES.map(lambda tree: yaml.dump(tree).encode())
)
def test_any_bytes_are_an_overlay_or_one_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    taken_or_refused(lambda: read_overlay(path), "any.yaml")
