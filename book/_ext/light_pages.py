"""Keep pages light: only icons that are used, pictures as WebP, MathJax only where there is math.

The theme brings every icon of Font Awesome, more than a megabyte on every page. Pictures that a page shows are
compressed; what a reader downloads is the picture as it was made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

ICON = re.compile(  # name:[width,height,[other names],"codepoint","path"], in an object of icons
    r'(?P<name>"[\w-]+"|[\w$]+):\[\d+,\d+,(?P<others>\[[^\[\]]*\]),"[0-9a-f]+",(?:"[^"]*"|\["[^"]*"(?:,"[^"]*")*\])\],?'
)
USED = re.compile(r"\bfa-([a-z0-9-]+)")
PICTURE = re.compile(r'(_images/[^"/]+)\.png"')
QUALITY = 90  # of 100: a fifth of the bytes, and no difference that an eye finds


def lighten(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Name the compressed pictures; without math, leave out MathJax, which Sphinx adds to the landing page too."""
    body = context.get("body") or ""
    if 'class="math' not in body:
        files = context.get("script_files", [])
        context["script_files"] = [f for f in files if "mathjax/" not in str(getattr(f, "filename", ""))]
    if body:
        context["body"] = PICTURE.sub(r'\1.webp"', body)


def finish(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        thin_icons(out)
        for picture in sorted((out / "_images").glob("*.png")):
            compress(picture)


def thin_icons(out: Path) -> None:
    """Leave in the theme's icons those that pages or scripts name."""
    icons = out / "_static" / "scripts" / "fontawesome.js"
    if not icons.is_file():
        return
    scripts = [p for p in (out / "_static").rglob("*.js") if p != icons and "mathjax" not in p.parts]
    used = {name for p in [*out.rglob("*.html"), *scripts] for name in USED.findall(p.read_text(encoding="utf-8"))}
    icons.write_text(ICON.sub(lambda m: m[0] if names(m) & used else "", icons.read_text("utf-8")), encoding="utf-8")


def names(icon: re.Match[str]) -> set[str]:
    return {icon["name"].strip('"'), *re.findall(r'"([\w-]+)"', icon["others"])}


def compress(picture: Path) -> None:
    """Put a WebP beside a PNG, unless there is one that is younger."""
    small = picture.with_suffix(".webp")
    if not small.is_file() or small.stat().st_mtime < picture.stat().st_mtime:
        with Image.open(picture) as image:
            image.convert("RGB").save(small, quality=QUALITY, method=6)


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", lighten, priority=950)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
