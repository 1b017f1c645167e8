"""The kinds of experiment of this paper."""

from __future__ import annotations

from workflow.lib.papers.ib.deep import settings as deep
from workflow.lib.papers.ib.synthetic import settings as synthetic

KINDS = {**synthetic.KINDS, **deep.KINDS}
DRAWINGS = {**synthetic.DRAWINGS, **deep.DRAWINGS}
