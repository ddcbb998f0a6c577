"""The built book for the tests of this folder, its address and a headless Chromium.

LORASAM_BOOK_HTML names a built book (its html folder); without it, the smoke profile's book is made first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from lorasam_core.experiments.records import Edition, load, read_edition

SETTLE = """async () => {
  const images = [...document.images];
  images.forEach(i => { i.loading = 'eager'; });
  await Promise.allSettled(images.map(i => i.decode()));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
}"""


@pytest.fixture(scope="session")
def html(request: pytest.FixtureRequest) -> Path:
    """The built book's folder."""
    if given := os.environ.get("LORASAM_BOOK_HTML"):
        return Path(given)
    book = request.getfixturevalue("smoke_book")
    assert book.status == 0, book.output[-3000:]
    return book.html


@pytest.fixture(scope="session")
def edition(html: Path, request: pytest.FixtureRequest) -> Edition:
    """The runs that the built book shows; of a book that was given, those of its edition's name in this checkout."""
    if "LORASAM_BOOK_HTML" not in os.environ:
        return read_edition(request.getfixturevalue("smoke_book").edition)
    soup = BeautifulSoup((html / "about.html").read_text(encoding="utf-8"), "html.parser")
    facts = [[cell.get_text(strip=True) for cell in row("td")] for row in soup.select("#tab-edition tbody tr")]
    return load(dict(facts)["edition"])


@pytest.fixture(scope="session")
def soups(html: Path, pages: list[str]) -> dict[str, BeautifulSoup]:
    """The pages, parsed."""
    return {page: BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser") for page in pages}


@pytest.fixture(scope="session")
def pages(html: Path) -> list[str]:
    """The book's pages, as paths in its folder; the listings of source code are left out."""
    found = (path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html")))
    return [page for page in found if not page.startswith(("_modules/", "_static/"))]


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """Address of the book on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def visit(site: str) -> Callable[[Any, str], None]:
    """Opens a page of the book in a tab and waits until pictures, formulas and fonts are there."""

    def visit(tab: Any, page: str) -> None:
        tab.goto(f"{site}/{page}")
        tab.evaluate(SETTLE)

    return visit
