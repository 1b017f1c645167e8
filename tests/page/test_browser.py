"""The pages in a real browser: headless Chromium, driven by playwright, checked for accessibility by axe.

Where these are not there, `TRIAL_BROWSER=install` lets the tests fetch them, as root: Chromium from Debian's packages,
the others from npm, into a folder of pytest's. Otherwise the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import debian
from tests.page.results import write
from workflow.lib import page

PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Chromium, and the folder of npm's packages."""
    install = os.environ.get("TRIAL_BROWSER") == "install" and os.geteuid() == 0
    if not install and not os.environ.get("NODE_PATH"):
        pytest.skip("no browser: TRIAL_BROWSER=install fetches one, NODE_PATH names a folder of npm's packages")
    there = shutil.which("chromium") and shutil.which("npm")
    if install and not there and (reason := debian.install("chromium", "nodejs", "npm")):
        pytest.skip(f"no browser: {reason}")
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("node") is None:
        pytest.skip("no browser: chromium and node are needed")
    if os.environ.get("NODE_PATH"):
        return chromium, Path(os.environ["NODE_PATH"])
    folder = tmp_path_factory.mktemp("npm")
    run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES)
    return chromium, folder / "node_modules"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no browser: {' '.join(command[:2])}: {done.stderr[-300:]}")


def findings(browser: tuple[str, Path], path: Path) -> list[str]:
    """What goes wrong with a page at three widths: see browser.cjs."""
    chromium, modules = browser
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("browser.cjs")), chromium, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "NODE_PATH": str(modules)},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("hostile", [False, True])
def test_page_and_comparison(browser: tuple[str, Path], tmp_path: Path, hostile: bool) -> None:
    first = write(tmp_path / "a", hostile)
    page.write(first, first / page.PAGE)
    assert findings(browser, first / page.PAGE) == []
    second = write(tmp_path / "b", hostile, step_size=0.1, scale=2)
    page.write_comparison(first, second, tmp_path / "compare.html")
    assert findings(browser, tmp_path / "compare.html") == []


def test_claims_of_the_report(browser: tuple[str, Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "results", hostile=True)
    page.write_claims(tmp_path / "claims.html", [folder / "ntp" / "claims.csv"], {"ntp": "A paper"})
    assert findings(browser, tmp_path / "claims.html") == []


def test_every_shipped_figure(browser: tuple[str, Path], shipped_run: Path) -> None:
    assert findings(browser, shipped_run / "results" / page.PAGE) == []
