"""What the tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "LORASAM_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["LORASAM_DATA"] = str(_SHARED)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes each takes whole files; the tests of the one book, which takes longest, come first."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        book = {"smoke_book", "html"}  # `html` asks for it only where no book is given
        places = {item: "book" if book & set(item.fixturenames) else item.path.as_posix() for item in items}
        for item, place in places.items():
            item.add_marker(pytest.mark.xdist_group(place))
        items.sort(key=lambda item: places[item] != "book")


@pytest.fixture(scope="session")
def emps_folder() -> Path:
    """The real micrographs of EMPS; the test is skipped where they are missing."""
    local = os.environ.get("LORASAM_DATA")
    if not local or not (Path(local) / "emps" / "test.csv").is_file():
        pytest.skip("no EMPS here: set LORASAM_DATA to a folder that holds emps/")
    return Path(local) / "emps"


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
