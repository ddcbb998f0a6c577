"""The built book in a headless browser, at the width of a desk and of a phone, with nothing but its own files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup

from lorasam_core.experiments.records import Edition

Visit = Callable[[Any, str], None]
WIDTHS = {"desk": 1280, "phone": 390}
MEASURE = """() => {
  const page = document.scrollingElement, article = document.querySelector('article') || document.body;
  const wide = [...article.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  return {
    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    silent: [...article.querySelectorAll('img')].filter(i => !i.alt.trim()).map(i => i.src),
    bad_math: document.querySelectorAll('mjx-merror').length,
    plain_math: article.querySelectorAll('.math').length && !article.querySelectorAll('mjx-container').length,
    overflow: page.scrollWidth > innerWidth ? wide.slice(0, 3).map(e => e.outerHTML.slice(0, 150)) : null,
  };
}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_pages_load_whole_and_alone(pages: list[str], site: str, visit: Visit, browser: Any, width: int) -> None:
    problems: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.on("console", lambda m: problems.append(f"{tab.url}: console {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(f"{tab.url}: {error}"))
    tab.on("requestfailed", lambda r: None if left(r) else problems.append(f"{tab.url}: {r.failure} for {r.url}"))
    tab.on("response", lambda r: problems.append(f"{tab.url}: {r.status} for {r.url}") if r.status >= 400 else None)
    tab.on("request", lambda r: problems.append(f"{tab.url}: asks {r.url}") if is_foreign(r.url, site) else None)
    for page in pages:
        visit(tab, page)
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


def test_internal_links_resolve(html: Path, soups: dict[str, BeautifulSoup]) -> None:
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


def test_no_page_names_a_resource_of_another_host(soups: dict[str, BeautifulSoup]) -> None:
    foreign = []
    for page, soup in soups.items():
        used = [tag.get("src") or tag.get("href") for tag in soup.select("[src], link[href]")]
        foreign += [f"{page}: {url}" for url in used if urlsplit(str(url)).netloc]
    assert foreign == []


def test_no_directive_is_left_as_text(soups: dict[str, BeautifulSoup]) -> None:
    directive = re.compile(r"```|~~~|\{(table|figure|download|doc|include|cite\S*)\}")
    for page, soup in soups.items():
        texts = [text for text in soup.find_all(string=directive) if not text.find_parent(["code", "script", "style"])]
        inside = [text for text in texts if not text.find_parent(class_="cell_input")]  # code that writes directives
        assert not inside, f"{page}: {inside[0][:200]}"


def test_the_landing_page_begins_with_the_result(soups: dict[str, BeautifulSoup]) -> None:
    soup = soups["index.html"]
    names = [tag.name for tag in soup.select("article img, article table, article h2")]
    assert names[:2] == ["img", "table"]
    assert "compact stand-ins for SAM" in soup.get_text(" ", strip=True)


def test_every_figure_and_table_links_to_its_notebook_function_and_runs(
    soups: dict[str, BeautifulSoup], edition: Edition
) -> None:
    lines = [(page, line) for page, soup in soups.items() for line in soup.select("article p.provenance")]
    runs = {record.run_id for record in edition.records}
    named = [(page, code) for page, line in lines for code in line("code")]
    wanted = [
        (p, c) for p, c in named if c.get_text().startswith(("notebooks/", "lorasam_core.")) or c.get_text() in runs
    ]
    assert len(lines) > 20 and {code.get_text() for _, code in wanted} & runs
    assert [f"{page}: {code.get_text()}" for page, code in wanted if not code.find_parent("a")] == []
