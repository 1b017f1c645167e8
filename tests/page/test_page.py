"""The page and the comparison: complete, self-contained, and safe whatever texts a user brings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, snakemake, stage
from tests.page.results import HOSTILE, sheet, write
from workflow.lib import page, plotting
from workflow.lib.errors import UserError
from workflow.lib.page import charts, texts
from workflow.lib.page.results import Results

URLS = ("src", "href", "action", "data", "poster", "srcset", "formaction", "background")


class Read(HTMLParser):
    """The elements of a page, and its text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.within = ""
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.within = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within == "script":
            self.scripts[-1] += data
        elif not self.within:
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder full of hostile texts, with its page."""
    folder = write(tmp_path_factory.mktemp("hostile") / "results", hostile=True)
    page.write(folder, folder / page.PAGE, ["ntp", "mine"])
    return folder


@pytest.fixture(scope="module")
def read(hostile: Path) -> Read:
    return Read(hostile / page.PAGE)


@pytest.mark.slow
def test_hostile_texts_are_shown_as_text(read: Read) -> None:
    for text in HOSTILE[1:3]:
        assert text.replace(" ", "") in "".join(read.text.split()), text
    assert "{{ 7 * 7 }}" in read.text
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "javascript:" not in attributes.get("href", ""), attributes
    # plotly, the page's own, and one for the data of each chart
    assert len(read.scripts) == 2 + 3
    assert not any("window.hacked = 1</script>" in script for script in read.scripts)
    data = [json.loads(script) for script in read.scripts[:3]]
    assert data[0]["panels"][0]["title"].startswith("(a) &lt;/script&gt;")


def test_captions_read_no_files_and_load_nothing(read: Read) -> None:
    assert "Mean of two seeds, p. 9" in read.text
    assert Path("/etc/hostname").read_text().strip() not in read.text
    assert "click" in read.text
    assert any(attributes.get("href") == "https://arxiv.org/" for tag, attributes in read.elements if tag == "a")
    assert not any(tag in ("object", "iframe", "embed", "link") for tag, _ in read.elements)


def test_nothing_is_loaded_from_elsewhere(hostile: Path, read: Read) -> None:
    for tag, attributes in read.elements:
        for name in URLS:
            value = attributes.get(name, "")
            if tag == "a":
                continue
            assert not value or value.startswith("data:"), (tag, name, value[:80])
    policy = next(a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    styles = re.findall(r"<style>(.*?)</style>", (hostile / page.PAGE).read_text(), re.DOTALL)
    assert not any("url(" in style or "@import" in style for style in styles)


def test_anchors_and_files_exist(hostile: Path, read: Read) -> None:
    ids = read.ids()
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids, link
        elif not link.startswith("https:"):
            assert (hostile / link).exists(), link
    assert {"#ntp-fig2", "#claim-ntp.b", "#mine-fig1"} <= set(links)
    assert {"claim-ntp.a", "claim-ntp.c"} <= set(ids)


def test_order_counts_and_sources(hostile: Path, read: Read) -> None:
    results = Results.read(hostile, ["ntp"])
    assert [paper.name for paper in results.papers] == ["ntp", "mine"]
    ntp = results.papers[0]
    assert [figure.name for figure in ntp.figures] == ["fig2", "extra_more"]
    assert ntp.verdicts == {"holds": 1, "fails": 1, "not measured": 1}
    assert ntp.sources == {"user": 1, "choice": 1, "paper": 1}
    assert [claim.kinds for claim in ntp.claims] == ["holds ours paper", "fails ours user", "not-measured paper"]
    assert "0.04472" in read.text
    assert any(attributes.get("title") == "0.04472135955" for tag, attributes in read.elements if tag == "td")
    assert "snakemake --cores 4 results/ntp/figures/fig2.pdf" in read.text
    filters = {a["data-filter"] for tag, a in read.elements if tag == "button" and "data-filter" in a}
    assert filters == {"", "fails", "not-measured", "paper", "ours", "user"}
    chosen = [a["data-optimizer"] for tag, a in read.elements if tag == "button" and "data-optimizer" in a]
    assert chosen == ["", "NGD", HOSTILE[3]]  # of the rules, those that are drawn
    drawn = {a["id"]: a["data-optimizers"] for tag, a in read.elements if tag == "article" and "data-optimizers" in a}
    assert drawn == {
        "ntp-fig2": f"NGD|{HOSTILE[3]}",
        "ntp-extra_more": f"NGD|{HOSTILE[3]}",
        "mine-fig1": "",
        "ntp-claims": "",
    }


def test_size(hostile: Path) -> None:
    assert (hostile / page.PAGE).stat().st_size < 6e6


def test_what_a_chart_holds(hostile: Path) -> None:
    figure = Results.read(hostile, ["ntp"]).papers[0].figures[0]
    chart = charts.chart(figure)
    assert [len(panel["series"]) for panel in chart["panels"]] == [4, 2, 1]  # the schematic is no chart
    loss, bars, heat = chart["panels"]
    assert [panel["title"] for panel in (bars, heat)] == ["(b)", "(c)"]
    assert loss["notes"] == [["largest deviation", "0.25"]]
    assert [series["kind"] for series in loss["series"]] == ["band", "line", "level", "moment"]
    assert loss["series"][0]["rows"] == 1000
    assert loss["series"][0]["shown"] <= charts.MOST
    assert loss["x"]["scale"] == loss["y"]["scale"] == "log"
    assert loss["y"]["label"] == "‖<i>W</i>‖<sub><i>F</i></sub>"
    assert bars["x"]["ticks"] == [[0.0, "seen"], [1.0, "unseen"]]
    assert heat["series"][0]["z"] == [[0, 1, 2], [3, 4, 5]]
    bar = heat["series"][0]["heat"]["bar"]
    assert (bar["label"], bar["ticks"]) == ("share", [[0.0, "1"], [5.0, "≥ 10"]])
    assert chart["elsewhere"]


def test_a_panel_without_a_title_is_called_as_in_the_table(tmp_path: Path) -> None:
    folder = write(tmp_path / "results")
    path = folder / "ntp" / "figures" / "fig2.json"
    description = json.loads(path.read_text())
    description["panels"][1]["title"] = ""
    path.write_text(json.dumps(description))
    chart = charts.chart(Results.read(folder, ["ntp"]).papers[0].figures[0])
    assert chart["panels"][1]["title"] == "bars"


def test_thinned_series_keep_their_ends_and_extremes() -> None:
    x = np.arange(10_000.0)
    y = np.sin(x / 500)
    y[4321], y[8765] = 7, -7
    shown = charts.thinned(np.stack([x, y, y, y], axis=1))
    assert len(shown) <= charts.MOST + 8
    assert {0, 9999, 4321, 8765} <= set(shown[:, 0])


def test_scales_of_their_own_are_told_as_tables() -> None:
    drawn = sheet()
    ax = drawn.panels[0, 0]
    ax.set_xscale("function", functions=(np.cbrt, lambda x: x**3))
    ax.set_xlim(0, 1000)
    axis = drawn.description()["panels"][0]["x"]
    values, places = map(np.array, axis["table"])
    assert axis["scale"] == "function"
    np.testing.assert_allclose(places, np.cbrt(values), atol=1e-9)


@pytest.mark.slow
def test_importing_and_drawing_leave_matplotlib_alone() -> None:
    code = """
import sys, matplotlib
params = lambda: {key: value for key, value in dict.items(matplotlib.rcParams)}
before = params()
from tests.page.results import sheet
sheet().finish()
assert params() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_look_is_legible_in_print() -> None:
    import matplotlib

    with plotting.look():
        sizes = [value for key, value in matplotlib.rcParams.items() if key.endswith(("labelsize", "fontsize"))]
        assert min(size for size in sizes if isinstance(size, float)) >= 7


def test_series_without_a_name_go_with_their_like() -> None:
    drawn = plotting.Sheet(1, 2, size=(plotting.WIDE, 2))
    left, right = drawn.panels[0]
    drawn.line(left, "a", "ngd", [0, 1], [0, 1], color="red", label="NGD")
    drawn.line(left, "a", "ngd, seed 3", [0, 1], [0, 2], color="red", linestyle=":")
    drawn.line(right, "b", "ngd", [0, 1], [0, 1], color="red")
    assert [series["name"] for series in drawn.description()["series"]] == ["NGD", "NGD", "NGD"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (r"$\langle \bar{W}^{(t)}, W^* \rangle$", "⟨<i>W̄</i><sup>(<i>t</i>)</sup>,<i>W</i><sup>*</sup>⟩"),
        (r"$10^{-3}$ of 5$", "10<sup>−3</sup> of 5$"),
        (r"$\frac{1}{2}\log K$", "1/2\u2009log\u2009<i>K</i>"),
        (r"$\mathrm{corr}(W, W_{\mathrm{mm}})$", "corr(<i>W</i>,<i>W</i><sub>mm</sub>)"),
        ("$<script>$", "\u2009&lt;\u2009<i>script</i>\u2009&gt;\u2009"),
        (r"$\unknown{x$", "unknown<i>x</i>"),
    ],
)
def test_formulas(text: str, html: str) -> None:
    assert texts.formulas(text).replace("W\u0304", "W̄") == html


@pytest.mark.slow
def test_refresh_writes_only_what_changed(tmp_path: Path) -> None:
    assert page.refresh(tmp_path) is None
    folder = write(tmp_path / "results")
    written = page.refresh(folder)
    assert written == folder / page.PAGE
    first = written.stat().st_mtime_ns
    assert page.refresh(folder).stat().st_mtime_ns == first
    later = time.time() + 5
    os.utime(folder / "ntp" / "claims.csv", (later, later))
    assert page.refresh(folder).stat().st_mtime_ns > first


def test_verdicts_older_than_the_runs_are_marked(tmp_path: Path) -> None:
    folder = write(tmp_path / "results")
    metrics = folder / "ntp" / "metrics" / "two_stage.parquet"
    metrics.parent.mkdir()
    metrics.touch()
    later = time.time() + 5
    os.utime(metrics, (later, later))
    page.write(folder, folder / page.PAGE)
    assert "newer than these verdicts" in (folder / page.PAGE).read_text()


@pytest.mark.slow
def test_comparison_shows_what_differs(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", step_size=0.1, scale=2.0)
    done = stage("compare", str(first), str(second), "--output", str(tmp_path / "compare.html"))
    assert done.returncode == 0, done.stderr
    read = Read(tmp_path / "compare.html")
    assert "2 of 3 figures differ, and 1 verdicts" in " ".join(read.text.split())
    assert "two_stage: ngd.step_size" in read.text
    chart = charts.laid_over(
        *(charts.chart(Results.read(folder, ["ntp"]).papers[0].figures[0]) for folder in (first, second)), ("a", "b")
    )
    assert [entry["text"] for entry in chart["names"]][:2] == ["NGD · a", "NGD · b"]
    # What is the same in both is drawn once.
    assert [series["told"] for series in chart["panels"][1]["series"]] == ["accuracy", "each seed"]


def test_an_empty_or_broken_folder_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        page.write(tmp_path / "nothing", tmp_path / "x.html")
    with pytest.raises(UserError, match="Run snakemake first"):
        page.write(tmp_path, tmp_path / "x.html")
    folder = write(tmp_path / "results")
    with pytest.raises(UserError, match="the same folder"):
        page.write_comparison(folder, folder, tmp_path / "x.html")
    (folder / "ntp" / "figures" / "fig2.json").write_text('{"panels": [')
    with pytest.raises(UserError, match="cannot be read"):
        page.write(folder, tmp_path / "x.html")


@pytest.mark.slow
def test_a_run_of_a_part_ends_with_the_page_and_never_fails_for_it(tmp_path: Path) -> None:
    """The page is of all that lies there; the run itself makes data."""
    folder = write(tmp_path / "results")
    quick = ("--cores", "1", "--config", "papers=[ntp]", "seeds=2", "seeds_per_job=1")
    done = snakemake(tmp_path, "results/ntp/data/two_stage/0.npz", *quick)
    written = folder / page.PAGE
    assert f"Open {written.resolve().as_uri()}" in done.stderr
    assert "ntp-fig2" in Read(written).ids()
    (folder / "ntp" / "figures" / "fig2.json").write_text("{")
    done = snakemake(tmp_path, "results/ntp/data/two_stage/1.npz", *quick)
    assert "The page could not be written" in done.stderr
    assert "Traceback" not in done.stderr
