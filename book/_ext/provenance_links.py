"""Links from the line below each figure and table to its notebook, the function that made it, and its runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes

SOURCE = "Made by notebooks/"  # how lorasam_core.report.figures begins the line
RUNS = "tab-edition-runs"  # label of the table of runs, on the page `about`
RUN = re.compile(r"[0-9a-f]{12}")
NOTEBOOK = re.compile(r"notebooks/\w+/(\w+)\.py")


def link(app: Any, doctree: nodes.document, docname: str) -> None:
    """Wrap names of notebooks, functions and runs in references, and give each row of the table of runs an anchor."""
    for table in doctree.findall(nodes.table):
        if RUNS in table["ids"]:
            for row in table.findall(nodes.row):
                if RUN.fullmatch(name := row.children[0].astext()):
                    row.children[0]["ids"].append(f"run-{name}")
    for line in doctree.findall(nodes.paragraph):
        if line.astext().startswith(SOURCE):
            line["classes"].append("provenance")
            for name in list(line.findall(nodes.literal)):
                if address := _address(app, docname, name.astext()):
                    name.replace_self(nodes.reference("", "", name.deepcopy(), internal=True, refuri=address))


def _address(app: Any, docname: str, name: str) -> str:
    """Where a name leads, from a page; an empty text for a name that has no place in the book."""
    if RUN.fullmatch(name):
        return f"{app.builder.get_relative_uri(docname, 'about')}#run-{name}" if name in _runs(app) else ""
    if match := NOTEBOOK.fullmatch(name):
        page = next((doc for doc in app.env.found_docs if Path(doc).name == match[1]), docname)
        return f"{'../' * docname.count('/')}_sources/{page}{Path(app.env.doc2path(page)).suffix}"
    known = app.env.get_domain("py").objects.get(name)
    return f"{app.builder.get_relative_uri(docname, known.docname)}#{known.node_id}" if known else ""


def _runs(app: Any) -> set[str]:
    """The runs of the table."""
    text = (Path(app.srcdir) / "_generated" / "edition.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^\| ({RUN.pattern}) \|", text, re.MULTILINE))


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
