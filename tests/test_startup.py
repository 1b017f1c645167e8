"""What jobs import: nothing that they do not use."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, environment
from workflow.lib.__main__ import end


def imported(code: str, *asked: str) -> list[str]:
    """Which of some modules a fresh Python has imported after running code."""
    code = f"{code}\nimport sys\nprint('|'.join(m for m in {asked!r} if m in sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(ROOT), check=True)
    return [name for name in done.stdout.strip().split("|") if name]


@pytest.mark.slow
def test_no_stage_begins_with_what_only_some_need() -> None:
    heavy = ("torch", "pandas", "pyarrow", "matplotlib", "scipy", "numba", "tqdm", "http.client")
    heavy += ("workflow.lib.downloads", "workflow.lib.plan.race", "workflow.lib.plan.schema")
    assert imported("from workflow.lib import cli; cli._parser()", *heavy) == []


@pytest.mark.slow
def test_drawing_and_judging_need_neither_torch_nor_pandas_nor_windows() -> None:
    """For all papers in one process, and so for each."""
    rooms = [f"workflow.lib.papers.{paper}" for paper in ("ntp", "icl", "ib", "scb")]
    drawn = ", ".join(f"{room}.{name}" for room in rooms for name in ("figures", "claims"))
    code = f"import workflow.lib.tables, workflow.lib.captions, workflow.lib.judging, {drawn}"
    assert imported(code, "torch", "pandas", "matplotlib.pyplot") == []


@pytest.mark.slow
def test_a_drawing_job_parses_formulas_once_and_embeds_letters_alone() -> None:
    code = """
from io import BytesIO
from fontTools.ttLib import TTFont
from matplotlib.backends._backend_pdf_ps import font_as_file, get_glyphs_subset
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.mathtext import MathTextParser
from workflow.lib import startup
startup.begin_drawing()
for kind in ("path", "agg", "path", "agg"):
    assert type(MathTextParser(kind).parse("$x^2$")).__name__ == {"path": "VectorParse", "agg": "RasterParse"}[kind]
assert MathTextParser._parse_cached.cache_info().misses == 2
with get_glyphs_subset(findfont(FontProperties()), {36, 37, 38}) as cut:
    found = TTFont(BytesIO(font_as_file(cut.font).getvalue()))
assert {"A", "B", "C"} <= set(found.getGlyphOrder()) and {"glyf", "hmtx", "fpgm"} <= set(found.keys())
assert not {"GDEF", "GPOS", "GSUB", "MATH"} & set(found.keys())
"""
    assert imported(code, "matplotlib.mathtext") == ["matplotlib.mathtext"]


@pytest.mark.slow
def test_measuring_needs_no_torch_and_a_hard_margin_no_scipy() -> None:
    kinds = ("ntp", "icl.prompts", "icl.population", "ib.synthetic", "ib.deep", "scb")
    code = "\n".join(f"import workflow.lib.papers.{kind}.metrics" for kind in kinds)
    assert imported(code, "torch", "pandas", "matplotlib") == []
    code = "import numpy as np; from workflow.lib.max_margin import max_margin; max_margin(np.eye(2))"
    assert imported(code, "daqp", "scipy", "qpsolvers") == ["daqp"]


def test_a_job_ends_at_once_unless_someone_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: ended.append(-1))
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(SystemExit, match="3"):
        end(3)
    assert ended == [-1, 3]
    monkeypatch.setattr(sys, "getprofile", lambda: ended.append)
    with pytest.raises(SystemExit, match="4"):
        end(4)
    assert ended == [-1, 3]
