"""The claims of this paper."""

from __future__ import annotations

from workflow.lib.papers.ib.deep import claims as deep
from workflow.lib.papers.ib.synthetic import claims as synthetic

CLAIMS = {**synthetic.CLAIMS, **deep.CLAIMS}
