"""Look through what --configfile names before snakemake takes it; run by the profiles, which it reads first of all.

Snakemake reads these files before the Snakefile. Its own words for a slip name neither the file's line nor what is
expected, and Python in a file that says `__use_yte__` would have run by then.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def look_through(overlays: Iterable[pathlib.Path]) -> None:
    """End snakemake with one message unless all of these files can be laid over the shipped ones."""
    if "workflow" not in sys.modules:  # as rules/library.smk does later, which tells of what is missing or in the way
        spec = importlib.util.spec_from_file_location("workflow", ROOT / "workflow" / "__init__.py")
        sys.modules["workflow"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["workflow"])
    try:
        from workflow.lib.errors import exit_on_user_error
        from workflow.lib.plan.reading import read_overlay
    except ImportError:
        return
    with exit_on_user_error():
        for overlay in overlays:
            read_overlay(overlay)
