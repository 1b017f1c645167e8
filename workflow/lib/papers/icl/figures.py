"""The figures of this paper (docs/papers/icl.md, section 1), and ours beyond it."""

from __future__ import annotations

from workflow.lib.papers.icl.population import figures as population
from workflow.lib.papers.icl.prompts import figures as prompts

FIGURES = {**population.FIGURES, **prompts.FIGURES}
