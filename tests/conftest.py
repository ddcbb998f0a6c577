"""What the tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is slow, which is no failure
settings.load_profile("any machine")

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "LORASAM_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["LORASAM_DATA"] = str(_SHARED)


def of_the_book(nodeid: str) -> bool:
    """Whether a test looks at the smoke book, which takes longest to make."""
    return nodeid.startswith(("tests/book/", "tests/test_end_to_end.py"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of the book come first, then the files with slow tests: short ones fill what is left at the end. Those
    marked chaos only where -m asks for them.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not of_the_book(item.nodeid), item.path not in slow))
    if "chaos" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes each takes whole files, and one all tests of the book, so that it is made once.

    xdist's own groups (3.8) have no effect under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "book" if of_the_book(nodeid) else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def emps_folder() -> Path:
    """The real micrographs of EMPS; the test is skipped where they are missing."""
    local = os.environ.get("LORASAM_DATA")
    if not local or not (Path(local) / "emps" / "test.csv").is_file():
        pytest.skip("no EMPS here: set LORASAM_DATA to a folder that holds emps/")
    return Path(local) / "emps"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip("no Chromium here: install it, for example with: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def smoke_book(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The smoke profile from nothing to the book, by the command that a user gives, in folders of its own.

    index: the book's index.html; html, book: its folder and its sources; edition: the folder of the runs; runs: that of
    all editions; output, status: what came of it.
    """
    checkout = Path(__file__).resolve().parents[1]
    folder = tmp_path_factory.mktemp("smoke")
    unwanted = shutil.ignore_patterns("_build", "_generated", "results", "__pycache__")
    book = Path(shutil.copytree(checkout / "book", folder / "book", ignore=unwanted))
    command = [sys.executable, "-m", "lorasam_core.cli", "experiments", "--profile", "smoke"]
    command += ["--runs", str(folder / "runs"), "--book", str(book), "--workers", "2"]
    done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    html = book / "_build" / "html"
    return SimpleNamespace(
        index=html / "index.html", html=html, book=book, edition=folder / "runs" / "smoke", runs=folder / "runs",
        output=done.stdout, status=done.returncode,
    )  # fmt: skip
