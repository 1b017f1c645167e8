"""Writing pages: of a results folder, of its claims alone, and of two folders side by side."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from workflow.lib.captions import MEANINGS
from workflow.lib.errors import UserError
from workflow.lib.files import readable, write_text
from workflow.lib.page import charts, texts
from workflow.lib.page.results import SOURCES, Claim, Figure, Paper, Results, Setting, read_claims, sources_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Where a page lies in a results folder.
PAGE = "index.html"


def write(folder: Path, output: Path, papers: Sequence[str] = ()) -> None:
    """Write the page of a results folder.

    Args:
        folder: what the workflow wrote, such as `results`.
        output: the file to write; it links to the folder's files.
        papers: the order of the papers.

    Raises:
        UserError: there is nothing to show, or a file cannot be read.
    """
    results = Results.read(folder, papers)
    views = {figure.id: _View(figure, output.parent) for paper in results.papers for figure in paper.figures}
    _write("index.html", output, results=results, views=views, plotly=_plotly(), stages=_commands(results))


def refresh(folder: Path, papers: Sequence[str] = ()) -> Path | None:
    """Write the page again if what it shows, or this package, has changed; None where there is nothing to show."""
    page = folder / PAGE
    own = [path for path in Path(__file__).parent.rglob("*.*") if "__pycache__" not in path.parts]
    times = [path.stat().st_mtime_ns for path in (*own, *sources_of(folder))]
    if not any(folder.glob("*/figures/*.csv")):
        return None
    if not page.exists() or page.stat().st_mtime_ns < max(times):
        write(folder, page, papers)
    return page


def write_claims(output: Path, tables: Iterable[Path], titles: Mapping[str, str]) -> None:
    """Write the claims of some tables, without figures, for the report."""
    claims = [claim for table in tables for claim in read_claims(table)]
    papers = [
        Paper(name, titles.get(name, ""), "", "", (), tuple(own))
        for name, own in groupby(claims, key=lambda claim: claim.paper)
    ]
    _write("claims.html", output, results=Results(output.parent, tuple(papers)))


def write_comparison(ours: Path, theirs: Path, output: Path) -> None:
    """Write what differs between two results folders: settings, verdicts, and curves on the same axes."""
    first, second = Results.read(ours), Results.read(theirs)
    names = _told_apart(ours, theirs)
    pairs = _pairs(first, second)
    differences = [_Difference(a, b, names, output.parent) for a, b in pairs]
    _write(
        "compare.html",
        output,
        names=names,
        differences=differences,
        changed=[difference for difference in differences if difference.changed],
        verdicts=[change for paper in first.papers for change in _verdicts(paper, second)],
        only=[_only(first, second), _only(second, first)],
        plotly=_plotly(),
    )


@dataclass(frozen=True)
class _View:
    """A figure with everything that its section shows; `base` is the folder of the page, which links start from."""

    figure: Figure
    base: Path

    @cached_property
    def chart(self) -> charts.Chart:
        """What the script draws."""
        with readable(self.figure.file("json" if self.figure.description else "csv")):
            return charts.chart(self.figure)

    @cached_property
    def caption(self) -> Markup:
        """The caption in HTML."""
        return texts.caption(self.figure.description.get("caption", ""), self.figure.id)

    @property
    def links(self) -> list[tuple[str, str]]:
        """The kinds and addresses of its files."""
        return [
            (kind.upper(), _address(self.figure.file(kind), self.base))
            for kind in ("pdf", "png", "csv")
            if self.figure.file(kind).exists()
        ]

    @cached_property
    def pictures(self) -> tuple[_Picture, _Picture] | None:
        """The picture as it stands in the page, and a small one of its first panels; None where there is no PNG."""
        path = self.figure.file("png")
        if not path.exists():
            return None
        from PIL import Image

        with readable(path), Image.open(path) as picture:
            whole = picture.convert("RGB")
        whole.thumbnail((1100, 1100), Image.Resampling.BICUBIC)
        begin = whole.crop((0, 0, min(whole.width, round(1.7 * whole.height)), min(whole.height, whole.width)))
        begin.thumbnail((190, 120))
        return _Picture.of(whole), _Picture.of(begin)


class _Picture(NamedTuple):
    """A picture in the page."""

    address: str
    width: int
    height: int

    @classmethod
    def of(cls, picture: Image) -> _Picture:
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=80, method=2)
        address = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return cls(address, *picture.size)


@dataclass(frozen=True)
class _Difference:
    """One figure of two folders."""

    ours: Figure
    theirs: Figure
    names: tuple[str, str]
    base: Path

    @property
    def figure(self) -> Figure:
        """The figure as the first folder has it."""
        return self.ours

    @cached_property
    def settings(self) -> list[tuple[Setting | None, Setting | None]]:
        """Settings whose values differ, or that one folder lacks."""
        first, second = (
            {(s.experiment, s.name): s for *_, own in figure.experiments for s in own}
            for figure in (self.ours, self.theirs)
        )
        keys = [*first, *(key for key in second if key not in first)]
        return [
            (a, b)
            for a, b in ((first.get(key), second.get(key)) for key in keys)
            if a is None or b is None or a.value != b.value
        ]

    @cached_property
    def curves(self) -> bool:
        """Whether the numbers drawn differ."""
        return self.ours.rows() != self.theirs.rows()

    @property
    def changed(self) -> bool:
        """Whether anything that the comparison shows differs."""
        return bool(self.settings) or self.curves

    @cached_property
    def chart(self) -> charts.Chart:
        """Both on the same axes."""
        return charts.laid_over(charts.chart(self.ours), charts.chart(self.theirs), self.names)


def _verdicts(paper: Paper, other: Results) -> list[tuple[Claim, Claim]]:
    """Claims that the two folders judge differently."""
    theirs = {claim.name: claim for claim in other.claims}
    return [
        (claim, theirs[claim.name])
        for claim in paper.claims
        if claim.name in theirs and theirs[claim.name].verdict != claim.verdict
    ]


def _pairs(first: Results, second: Results) -> list[tuple[Figure, Figure]]:
    theirs = {figure.id: figure for paper in second.papers for figure in paper.figures}
    return [(f, theirs[f.id]) for paper in first.papers for f in paper.figures if f.id in theirs]


def _only(first: Results, second: Results) -> list[Figure]:
    there = {figure.id for paper in second.papers for figure in paper.figures}
    return [f for paper in first.papers for f in paper.figures if f.id not in there]


def _told_apart(ours: Path, theirs: Path) -> tuple[str, str]:
    """Two names for two folders: the last part of the paths in which they differ."""
    for a, b in zip(reversed(ours.absolute().parts), reversed(theirs.absolute().parts), strict=False):
        if a != b:
            return a, b
    raise UserError(f"{theirs}: is the same folder as {ours}; name two")


def _commands(results: Results) -> Mapping[str, str]:
    """The command that makes a figure again, by its id; the folder as it is called where snakemake ran."""
    return {
        figure.id: f"snakemake --cores 4 {results.folder.name}/{paper.name}/figures/{figure.name}.pdf"
        for paper in results.papers
        for figure in paper.figures
    }


def _address(path: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(path, base)).as_posix())


def _json(found: Any) -> Markup:
    """JSON that ends no script element; null for what is no finite number, such as a run that was lost."""
    try:
        text = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(found), separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  (nothing in it is mark-up any more)


def _finite(found: Any) -> Any:
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    if isinstance(found, Mapping):
        return {key: _finite(value) for key, value in found.items()}
    return [_finite(value) for value in found] if isinstance(found, list | tuple) else found


@cache
def _plotly() -> Markup:
    """The script that draws, from the plotly package, which need not be imported for it."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        raise UserError("the page needs the package plotly, which is not installed: pip install -e .")
    return Markup((Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))  # noqa: S704


def _write(template: str, output: Path, **values: Any) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json": _json, "formulas": texts.formulas, "plain": texts.plain}
    environment.tests["has"] = lambda kinds, kind: kind in kinds.split()
    environment.globals |= {"meanings": MEANINGS, "sources": SOURCES}
    write_text(output, environment.get_template(template).render(**values))
