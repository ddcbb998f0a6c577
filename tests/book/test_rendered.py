"""The built book in a headless browser, at the width of a desk and of a phone, with nothing but its own files.

LORASAM_BOOK_HTML names a built book (its html folder); without it, the smoke profile's book is made first.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WIDTHS = {"desk": 1280, "phone": 390}

MEASURE = """async () => {
  const images = [...document.images];
  images.forEach(i => { i.loading = 'eager'; });
  await Promise.allSettled(images.map(i => i.decode()));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
  const page = document.scrollingElement, article = document.querySelector('article') || document.body;
  const wide = [...article.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  return {
    broken: images.filter(i => !i.naturalWidth).map(i => i.src),
    silent: [...article.querySelectorAll('img')].filter(i => !i.alt.trim()).map(i => i.src),
    bad_math: document.querySelectorAll('mjx-merror').length,
    plain_math: article.querySelectorAll('.math').length && !article.querySelectorAll('mjx-container').length,
    overflow: page.scrollWidth > innerWidth ? wide.slice(0, 3).map(e => e.outerHTML.slice(0, 150)) : null,
  };
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
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip("no Chromium here: install it, for example with: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_pages_load_whole_and_alone(html: Path, pages: list[str], site: str, browser: Any, width: int) -> None:
    problems: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.on("console", lambda m: problems.append(f"{tab.url}: console {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(f"{tab.url}: {error}"))
    tab.on("requestfailed", lambda r: None if left(r) else problems.append(f"{tab.url}: {r.failure} for {r.url}"))
    tab.on("response", lambda r: problems.append(f"{tab.url}: {r.status} for {r.url}") if r.status >= 400 else None)
    tab.on("request", lambda r: problems.append(f"{tab.url}: asks {r.url}") if is_foreign(r.url, site) else None)
    for page in pages:
        tab.goto(f"{site}/{page}")
        problems += [f"{page}: {what} {found}" for what, found in tab.evaluate(MEASURE).items() if found]
    context.close()
    assert len(pages) > 10
    assert not problems, "\n".join(problems)


def left(request: Any) -> bool:
    """Whether the request was only given up because the tab went on to the next page."""
    return request.failure == "net::ERR_ABORTED"


def is_foreign(url: str, site: str) -> bool:
    return not url.startswith((site, "data:", "blob:", "about:"))


@pytest.mark.browser
@pytest.mark.parametrize("word", ["adapter", "LoRA"])
def test_search_finds_a_page(site: str, browser: Any, word: str) -> None:
    tab = browser.new_page()
    tab.goto(f"{site}/search.html?q={word}")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    tab.close()


def test_internal_links_resolve(html: Path, pages: list[str]) -> None:
    soups = {page: BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser") for page in pages}
    anchors = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in soups.items()}
    broken = []
    for page, soup in soups.items():
        for link in soup.select("article a[href], nav a[href]"):
            href = str(link["href"])
            if urlsplit(href).scheme or href.startswith("//"):
                continue
            address, fragment = urldefrag(href)
            target = (html / page).parent / unquote(urlsplit(address).path) if address else html / page
            name = Path(os.path.normpath(target)).relative_to(html).as_posix()
            if not target.exists() or (fragment and name in anchors and unquote(fragment) not in anchors[name]):
                broken.append(f"{page}: {href}")
    assert broken == []


def test_no_page_names_a_resource_of_another_host(html: Path, pages: list[str]) -> None:
    foreign = []
    for page in pages:
        soup = BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser")
        used = [tag.get("src") or tag.get("href") for tag in soup.select("[src], link[href]")]
        foreign += [f"{page}: {url}" for url in used if urlsplit(str(url)).netloc]
    assert foreign == []


def test_the_landing_page_begins_with_the_result(html: Path) -> None:
    soup = BeautifulSoup((html / "index.html").read_text(encoding="utf-8"), "html.parser")
    names = [tag.name for tag in soup.select("article img, article table, article h2")]
    assert names[:2] == ["img", "table"]
