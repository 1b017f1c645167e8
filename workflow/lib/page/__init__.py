"""The page that is read: one HTML file with every figure, claim and setting of a results folder, and no network.

results.py    what lies in the folder
charts.py     from a figure's CSV and description to what the script draws
texts.py      numbers, formulas and captions as HTML; everything else that comes in is escaped by the templates
writing.py    the pages
templates/    their HTML, one stylesheet, one script
"""

from workflow.lib.page.writing import PAGE, refresh, write, write_claims, write_comparison

__all__ = ["PAGE", "refresh", "write", "write_claims", "write_comparison"]
