"""The built book for those who do not see it, see it in the dark, or use it without a mouse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Visit = Callable[[Any, str], None]
pytestmark = pytest.mark.browser

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}, "resultTypes": ["violations"]}
CONTRAST = RULES | {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all that a color scheme can break
CONTROLS = {  # in the order in which Tab is to reach them
    "skip link": "#pst-skip-link a",
    "search": ".bd-sidebar-primary .search-button__button",
    "contents of the book": "nav.bd-docs-nav a",
    "color mode": ".theme-switch-button",
    "text": "article a",
    "contents of the page": "nav.page-toc a",
}
FOCUS = """controls => {
  const here = document.activeElement, style = getComputedStyle(here);
  const ring = style.outlineStyle !== 'none' || style.boxShadow !== 'none' || style.textDecorationLine !== 'none';
  const name = Object.keys(controls).find(name => here.matches(controls[name]));
  return {name, ring, what: here.outerHTML.slice(0, 120)};
}"""


# colours are those of one stylesheet: a page of each kind of content
IN_THE_DARK = ["index.html", "method.html"] + [f"_generated/{name}.html" for name in ("lora_layer", "rank", "segment")]


@pytest.fixture
def tab(browser: Any) -> Any:
    """An empty tab at the width of a desk."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_breaks_a_rule_of_wcag(pages: list[str], visit: Visit, browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    tab = context.new_page()
    problems = []
    for page in pages if scheme == "light" else IN_THE_DARK:
        visit(tab, page)
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        for violation in axe.run(tab, options=RULES if scheme == "light" else CONTRAST).response["violations"]:
            first = violation["nodes"][0]
            problems.append(f"{page}: {violation['id']}, {len(violation['nodes'])} times; {first['html'][:200]}")
    context.close()
    assert not problems, "\n".join(problems)


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(visit: Visit, tab: Any) -> None:
    visit(tab, "background.html")
    reached, bare = [], []
    for _ in range(150):
        tab.keyboard.press("Tab")
        focus = tab.evaluate(FOCUS, CONTROLS)
        if focus.get("name") and focus["name"] not in reached:
            reached.append(focus["name"])
            bare += [] if focus["ring"] else [focus["what"]]
    assert reached == list(CONTROLS)
    assert bare == []


def test_the_skip_link_leads_past_the_contents(visit: Visit, tab: Any) -> None:
    visit(tab, "background.html")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('#main-content') !== null")


def test_the_keyboard_changes_the_color_mode(visit: Visit, tab: Any) -> None:
    visit(tab, "background.html")
    tab.focus(".theme-switch-button")
    themes = set()
    for _ in range(3):  # light, dark, as the system
        tab.keyboard.press("Enter")
        themes.add(tab.evaluate("document.documentElement.dataset.theme"))
    assert themes == {"light", "dark"}


def test_the_keyboard_opens_the_search(visit: Visit, tab: Any) -> None:
    visit(tab, "background.html")
    tab.focus(".bd-sidebar-primary .search-button__button")
    tab.keyboard.press("Enter")
    tab.keyboard.type("adapter")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    assert "q=adapter" in tab.url


def test_pictures_stay_on_white_in_the_dark(visit: Visit, browser: Any) -> None:
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    visit(tab, "_generated/rank.html")
    grounds = tab.evaluate(
        "() => [...document.querySelectorAll('article figure img')].map(i => getComputedStyle(i).backgroundColor)"
    )
    context.close()
    assert grounds and set(grounds) == {"rgb(255, 255, 255)"}
