"""What a page of the built book weighs with all that it loads, and what it is like on paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Visit = Callable[[Any, str], None]
pytestmark = pytest.mark.browser

LIMIT = 3_000_000  # bytes, as they lie on the disk: a server that packs them sends less
PAPER = {"width": 718, "height": 1047}  # A4 less margins of 1 cm, at 96 pixels an inch
PRINTED = ("index.html", "background.html", "_generated/rank.html")

ON_PAPER = """() => {
  const seen = e => e.checkVisibility() && e.getBoundingClientRect().width > 0;
  const short = e => e.outerHTML.slice(0, 150);
  const clipped = e => {
    for (let box = e; box && box.tagName !== 'ARTICLE'; box = box.parentElement)
      if (box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== 'visible') return true;
    return e.getBoundingClientRect().right > innerWidth + 1;
  };
  const controls = 'button, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-area';
  const wide = 'article :is(table, figure img, pre, mjx-container[display="true"])';
  const part = x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const luminance = rgb => rgb.match(/\\d+/g).slice(0, 3).reduce(
    (sum, x, i) => sum + [0.2126, 0.7152, 0.0722][i] * part(x / 255), 0);
  const pale = e => 1.05 / (luminance(getComputedStyle(e).color) + 0.05) < 4.5;
  return {
    controls: [...document.querySelectorAll(controls)].filter(seen).map(short),
    cut: [...document.querySelectorAll(wide)].filter(e => seen(e) && clipped(e)).map(short).slice(0, 3),
    overflow: document.scrollingElement.scrollWidth > innerWidth,
    pale: [...document.querySelectorAll('article :is(p, h1, h2, a, code, span)')].filter(e =>
      seen(e) && pale(e)).map(short).slice(0, 3),
  };
}"""


def test_no_page_weighs_more_than_three_megabytes(
    html: Path, pages: list[str], site: str, visit: Visit, browser: Any
) -> None:
    heavy = []
    for page in pages:
        context = browser.new_context()  # with nothing in its cache
        tab = context.new_page()
        asked: set[str] = set()
        tab.on("request", lambda request, asked=asked: asked.add(request.url))
        visit(tab, page)
        context.close()
        paths = {unquote(urlsplit(url).path).lstrip("/") for url in asked if url.startswith(site)}
        sizes = {path: (html / path).stat().st_size for path in paths if (html / path).is_file()}
        assert sizes[page] > 0
        if sum(sizes.values()) > LIMIT:
            largest = sorted(sizes, key=sizes.__getitem__)[-4:]
            heavy.append(f"{page}: {sum(sizes.values()):,} bytes; {', '.join(f'{p} {sizes[p]:,}' for p in largest)}")
    assert not heavy, "\n".join(heavy)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_shows_the_text_whole_and_no_controls(pages: list[str], visit: Visit, browser: Any, scheme: str) -> None:
    context = browser.new_context(viewport=PAPER, color_scheme=scheme)
    tab = context.new_page()
    tab.emulate_media(media="print", color_scheme=scheme)
    problems = []
    for page in pages:
        visit(tab, page)
        problems += [f"{page}: {what} {found}" for what, found in tab.evaluate(ON_PAPER).items() if found]
    context.close()
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("page", PRINTED)
def test_printing_gives_a_pdf_of_several_pages_at_most(visit: Visit, browser: Any, page: str) -> None:
    tab = browser.new_page()
    visit(tab, page)
    pdf = tab.pdf(format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "1cm"), print_background=False)
    tab.close()
    assert pdf.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
