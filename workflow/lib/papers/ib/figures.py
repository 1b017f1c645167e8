"""The figures of this paper."""

from __future__ import annotations

from workflow.lib.papers.ib.deep import figures as deep
from workflow.lib.papers.ib.synthetic import figures as synthetic

FIGURES = {**synthetic.FIGURES, **deep.FIGURES}
