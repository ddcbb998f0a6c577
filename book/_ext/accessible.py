"""Mend what Sphinx and the theme leave undone for screen readers and for the keyboard."""

from __future__ import annotations

from typing import Any

# The theme takes the focus from a button once it is pressed, to be rid of its tooltip; a click by the keyboard has no
# detail, and its user would have to start at the top of the page again.
KEEP_FOCUS = """document.addEventListener("click", event => {
  const button = event.target.closest(".theme-switch-button");
  if (button && event.detail === 0) setTimeout(() => button.focus());
}, true);"""


def name_roles(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Entries of a bibliography become items of the list that they stand in: their own role is deprecated."""
    if body := context.get("body"):
        context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Any) -> dict[str, bool]:
    app.add_js_file(None, body=KEEP_FOCUS)
    app.connect("html-page-context", name_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
