"""Docstrings are plain text with `code` in backticks: keep reStructuredText from reading more into them."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")
SECTION = re.compile(r"(Args|Arguments|Attributes|Example|Examples|Note|Notes|Raises|Returns|Yields):$")

whole: dict[str, list[str]] = {}  # attribute -> its docstring, between the two handlers


def escape(line: str) -> str:
    """Backquoted text becomes a literal; characters that would be markup elsewhere are escaped."""
    parts = CODE.split(line)  # text, code, text, code, ...
    return "".join(f"``{part}``" if i % 2 else MARKUP.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def separate(lines: list[str]) -> list[str]:
    """A blank line wherever the indentation changes within a paragraph; sections are left to napoleon."""
    out: list[str] = []
    in_section = False
    for line in lines:
        if line.strip() and not _indent(line):
            in_section = bool(SECTION.match(line))
        if out and out[-1].strip() and line.strip() and not in_section and _indent(line) != _indent(out[-1]):
            out.append("")
        out.append(line)
    return out


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = separate([escape(line) for line in lines])
    if what in ("attribute", "property"):
        whole[name] = list(lines)


def restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon did to an attribute: it takes what stands before a colon for a type."""
    if name in whole:
        lines[:] = whole.pop(name)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", restore, priority=600)
    return {"parallel_read_safe": True}
