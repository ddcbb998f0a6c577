"""Leave Thebe out, which this book does not use and which names another host, and every inline script once."""

from __future__ import annotations

from typing import Any


def tidy(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx lists scripts added while reading twice; a second `const` of one name is an error in a browser."""
    kept, bodies = [], set()
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body", "")
        if "thebe" in f"{body} {getattr(script, 'filename', '')}".lower() or body in bodies:
            continue
        bodies |= {body} if body else set()
        kept.append(script)
    context["script_files"] = kept


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", tidy, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
