"""Numbers, formulas and captions as the page shows them. Whatever comes in is text: only this module makes mark-up."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from markupsafe import Markup, escape

_SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "phi": "φ", "varphi": "φ", "psi": "ψ", "omega": "ω", "Delta": "Δ", "Gamma": "Γ", "Lambda": "Λ", "Phi": "Φ",
    "Psi": "Ψ", "Sigma": "Σ", "Theta": "Θ", "Omega": "Ω", "nabla": "∇", "partial": "∂", "infty": "∞", "sum": "∑",
    "prod": "∏", "langle": "⟨", "rangle": "⟩", "cdot": "·", "times": "×", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥",
    "neq": "≠", "approx": "≈", "sim": "∼", "propto": "∝", "in": "∈", "to": "→", "rightarrow": "→", "top": "⊤",
    "pm": "±", "circ": "∘", "ldots": "…", "dots": "…", "ell": "ℓ", "star": "⋆", "quad": " ", "left": "", "right": "",
    "|": "‖", ",": "\u2009", ";": " ", ":": " ", "!": "", " ": " ", "{": "{", "}": "}", "$": "$", "%": "%", "_": "_",
}  # fmt: skip
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ACCENTS = {"bar": "\u0304", "hat": "\u0302", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307"}
_UPRIGHT = ("mathdefault", "mathrm", "text", "operatorname", "mathbf", "mathcal", "mathbb", "mathit")


def number(value: float, digits: int = 4) -> str:
    """A number to read, with some significant digits.

    >>> number(0.044721359549995794), number(12000.0), number(-5.2738e-10), number(float("nan"))
    ('0.04472', '12000', '−5.274·10⁻¹⁰', '–')
    """
    if math.isnan(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e7:
        return str(int(value)).replace("-", "−")
    told, _, power = f"{value:.{digits}g}".partition("e")
    if power:
        told = ("" if told in ("1", "-1") else f"{told}·") + "10" + str(int(power)).translate(_RAISED)
        told = f"-{told}" if value < 0 and not told.startswith("-") else told
    return told.replace("-", "−")


def band(low: float, high: float, share: float = 1.0) -> str:
    """A claim's band; NaN is an open end.

    >>> band(0.5, 1.5), band(float("nan"), 1e-6, 0.8)
    ('0.5 … 1.5', '≤ 10⁻⁶ for 80% of seeds')
    """
    least, most = number(low, 6), number(high, 6)
    if math.isnan(low):
        ends = "" if math.isnan(high) else f"≤ {most}"
    else:
        ends = f"≥ {least}" if math.isnan(high) else (least if low == high else f"{least} … {most}")
    return ends + (f" for {share:.0%} of seeds" if share < 1 else "")


def value(found: Any) -> str:
    """A setting's value to read: numbers rounded, lists and mappings as YAML writes them on one line."""
    if isinstance(found, bool) or found is None:
        return {True: "true", False: "false", None: "null"}[found]
    if isinstance(found, int | float):
        return number(float(found)) if isinstance(found, float) else str(found)
    if isinstance(found, list | tuple):
        return "[" + ", ".join(map(value, found)) + "]"
    if isinstance(found, dict):
        return "{" + ", ".join(f"{key}: {value(entry)}" for key, entry in found.items()) + "}"
    return str(found)


def exact(found: Any) -> str:
    """A setting's value with every digit."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def formulas(text: str) -> Markup:
    r"""Text with formulas between dollars, as matplotlib writes them, in HTML of i, sub and sup alone.

    >>> print(formulas(r"norm, $\|W^{(t)}\|_F$ <b>"))
    norm, ‖<i>W</i><sup>(<i>t</i>)</sup>‖<sub><i>F</i></sub> &lt;b&gt;
    """
    parts = re.split(r"(?<!\\)\$", " ".join(text.split()))
    if len(parts) % 2 == 0:  # a dollar without its partner is a dollar
        parts[-2:] = ["$".join(parts[-2:])]
    found = [_Formula(part).html() if at % 2 else escape(part.replace(r"\$", "$")) for at, part in enumerate(parts)]
    return Markup("").join(found).replace("</i><i>", "")


def plain(text: str) -> str:
    """The same without mark-up, for where no HTML is read."""
    return formulas(text).striptags()


class _Formula:
    """The few commands of matplotlib's mathtext that labels use; an unknown one is shown by its name."""

    def __init__(self, text: str) -> None:
        self.signs = re.findall(r"\\[A-Za-z]+|\\.|[A-Za-z]|[\s\S]", text)
        self.at = 0

    def html(self) -> Markup:
        found = []
        while self.at < len(self.signs):
            found.append(self._next())
        return Markup("").join(found)

    def _next(self, upright: bool = False) -> Markup:
        """One sign, or one group in braces."""
        if self.at >= len(self.signs):
            return Markup("")
        sign = self.signs[self.at]
        self.at += 1
        if sign == "{":
            return self._group(upright)
        if sign in "^_":
            tag = Markup("<sup>{}</sup>") if sign == "^" else Markup("<sub>{}</sub>")
            return tag.format(self._next(upright))
        if not sign.startswith("\\") or len(sign) == 1:
            if sign.isspace():
                return Markup("")
            shown = f"\u2009{sign}\u2009" if sign in "=<>" else sign.replace("-", "−").replace("'", "′")
            return escape(shown) if upright or not shown.isalpha() else Markup("<i>{}</i>").format(shown)
        return self._command(sign[1:], upright)

    def _group(self, upright: bool) -> Markup:
        found = []
        while self.at < len(self.signs) and self.signs[self.at] != "}":
            if upright and self.signs[self.at].isspace():
                found.append(escape(" "))
                self.at += 1
            else:
                found.append(self._next(upright))
        self.at += 1
        return Markup("").join(found)

    def _command(self, name: str, upright: bool) -> Markup:
        if name in _UPRIGHT:
            return self._next(upright=True)
        if name in _ACCENTS:
            below = self._next(upright)
            return Markup(re.sub(r"(\w)(</i>)?$", lambda m: m[1] + _ACCENTS[name] + (m[2] or ""), str(below)))  # noqa: S704
        if name == "frac":
            return Markup("{}/{}").format(self._next(upright), self._next(upright))
        if name == "sqrt":
            return Markup("√{}").format(self._next(upright))
        word = name if name.isalpha() else ""
        return escape(_SIGNS.get(name, f"\u2009{word}\u2009" if word in ("log", "exp", "max", "min") else word))


def caption(text: str, prefix: str) -> Markup:
    """A caption's reStructuredText in HTML.

    It may format text, and nothing else: no files are read, no raw HTML, no pictures, no links but to the web.

    Args:
        text: the caption.
        prefix: of the ids in it, unique on the page.
    """
    from docutils import nodes
    from docutils.core import publish_doctree, publish_from_doctree

    settings = {
        "_disable_config": True,
        "doctitle_xform": False,
        "embed_stylesheet": False,
        "file_insertion_enabled": False,
        "halt_level": 5,
        "id_prefix": f"{prefix}-",
        "initial_header_level": 4,
        "math_output": "MathML",
        "output_encoding": "unicode",
        "raw_enabled": False,
        "report_level": 5,
        "smart_quotes": False,
        "stylesheet_path": None,
        "syntax_highlight": "none",
    }
    tree = publish_doctree(text, settings_overrides=settings)
    unwanted = (nodes.image, nodes.raw, nodes.meta, nodes.system_message, nodes.problematic, nodes.comment)
    for node in list(tree.findall(lambda found: isinstance(found, unwanted))):
        if node.parent is not None:
            told = [nodes.Text(node.astext())] if isinstance(node, nodes.problematic) else []
            node.parent.replace(node, told)
    for link in list(tree.findall(nodes.reference)):
        if not re.match(r"(https?://|mailto:|#)", link.get("refuri", "#")):
            link.parent.replace(link, nodes.Text(link.astext()))
    html = publish_from_doctree(tree, writer="html5", settings_overrides=settings)
    body = re.search(r"<main[^>]*>(.*)</main>", html, re.DOTALL)
    return Markup(body[1] if body else "")  # noqa: S704  (docutils escaped it)
