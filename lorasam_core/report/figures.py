"""A page's figures and tables: saved with their provenance, shown in the notebook and in the book.

A figure is written to <folder>/figures as NAME.svg (charts) or NAME.png (pictures), a table to <folder>/tables as
NAME.csv, each with NAME.json: notebook, function, runs, caption. A notebook shows the picture or the table itself, and
its caption below. What the book shows in their place (a MyST figure or table with its number, data and provenance)
travels in the same output under a MIME type of its own, and `for_book` puts it there.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.experiments.records import Edition, Record, published_editions, root
from lorasam_core.plots import save

BOOK = "application/vnd.lorasam.book"  # MIME type of the MyST that takes an output's place in the book; empty: nothing
DPI = 110  # of charts in a notebook
Runs = Iterable[Record | str]  # runs, or their ids
TAG = re.compile(r"<(?=[A-Za-z/!?])")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Page:
    """What one notebook shows of an edition.

    edition: the records that it shows; notebook: its name below notebooks/, such as "results/rank"; folder: where
    figures/ and tables/ go (None: the edition's own folder). Names are unique in an edition: raises ValueError for a
    name that another notebook has taken, or that is not lower-case words and digits joined by hyphens.
    """

    def __init__(self, edition: Edition, notebook: str, folder: str | Path | None = None) -> None:
        self.edition, self.notebook = edition, notebook
        self.folder = Path(folder) if folder is not None else output_folder(edition)

    def banner(self, written: bool = False) -> None:
        """Say which edition, model, data and device the page shows; written: the text is a person's, on the published
        edition, and another one is told so.
        """
        show_markdown(banner(self.edition))
        if written and not self.edition.published and (published := published_editions()):
            show_markdown(
                f"*Numbers in the text are of the published edition `{published[0].name}`; tables and figures are of "
                f"this one, `{self.edition.name}`.*"
            )

    def figure(
        self, figure: Any, name: str, caption: str, alt: str, runs: Runs = (), data: pd.DataFrame | None = None
    ) -> None:
        """Save and show a figure with caption and alt text: a chart (SVG) with its `data` (CSV), or a picture (PNG)."""
        path = self._claim("figures", name, ".png" if data is None else ".svg")
        save(figure, path)
        files = [path]
        if data is not None:
            files.append(path.with_suffix(".csv"))
            data.to_csv(files[-1], index=False)
        ids = _ids(runs)
        made_by = getattr(figure, "made_by", "matplotlib")
        self._record(path, "figure", caption, made_by, ids, files, alt)
        source, link = self._source(made_by, ids), "picture (PNG)" if data is None else "data (CSV)"
        head = figure_markdown(f"figures/{path.name}", f"fig-{name}", alt, caption)
        form = f"{head}\n{source} {{download}}`{link} <figures/{files[-1].name}>`.\n```"
        show({"image/png": _png(figure, path), "text/plain": alt}, form)
        show({"text/markdown": plain(f"*{caption}*" if "*" not in caption else caption)}, "")

    def table(
        self, table: pd.DataFrame, name: str, caption: str, runs: Runs = (), data: pd.DataFrame | None = None
    ) -> None:
        """Save and show a table with its caption; `data`, where given, is the table behind the text that is shown."""
        path = self._claim("tables", name, ".csv")
        (table if data is None else data).to_csv(path, index=False)
        ids = _ids(runs)
        self._record(path, "table", caption, "pandas", ids, [path])
        rows = table_markdown(table, caption, f"tab-{name}")
        form = f"{rows}\n\n{self._source('pandas', ids)} {{download}}`data (CSV) <tables/{path.name}>`."
        show({"text/html": table.to_html(index=False, border=0), "text/plain": table.to_string(index=False)}, form)
        show({"text/markdown": plain(f"*{caption}*" if "*" not in caption else caption)}, "")

    def _claim(self, kind: str, name: str, suffix: str) -> Path:
        """The path of a new figure or table; raises ValueError for a bad name or one of another notebook, if there
        still is one.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a figure or table; use lower-case words joined by hyphens.")
        path = self.folder / kind / f"{name}{suffix}"
        record = path.with_suffix(".json")
        owner = json.loads(record.read_text("utf-8"))["notebook"] if record.is_file() else self.notebook
        if owner != self.notebook and (root() / "notebooks" / f"{owner}.py").is_file():
            raise ValueError(f"{record} belongs to the notebook {owner}; give this one another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _record(
        self, path: Path, kind: str, caption: str, made_by: str, ids: list[str], files: list[Path], alt: str = ""
    ) -> None:
        values = {
            "name": path.stem, "kind": kind, "notebook": self.notebook, "function": made_by, "runs": ids,
            "edition": self.edition.name, "caption": caption, "alt": alt, "files": [f.name for f in files],
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _source(self, made_by: str, ids: list[str]) -> str:
        runs = f" from run{'s' if len(ids) > 1 else ''} {', '.join(f'`{i}`' for i in ids[:4])}" if ids else ""
        more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
        return f"Made by `notebooks/{self.notebook}.py` with `{made_by}`{runs}{more};"


def _ids(runs: Runs) -> list[str]:
    return list(dict.fromkeys(run if isinstance(run, str) else run.run_id for run in runs))


def output_folder(edition: Edition) -> Path:
    """Where figures/ and tables/ of an edition go: its own folder; of a published one, runs/published-NAME."""
    return Path("runs") / f"published-{edition.name}" if edition.published else edition.path


def banner(edition: Edition) -> str:
    """One line: edition, model with its base hash, data with its images, device, date."""
    info = edition.info
    images = info.get("images") or {}
    count = f" ({', '.join(f'{n} {part}' for part, n in images.items())} images in the split)" if images else ""
    parts = [
        f"**Edition** `{edition.name}` (profile `{info.get('profile', '–')}`)",
        f"**model** `{info.get('model', '–')}`, base `{str(info.get('base_hash', '–'))[:12]}`",
        f"**data** {info.get('data_name', info.get('data', '–'))}{count}",
        f"**device** {edition.devices()}",
        f"**made** {str(info.get('updated', info.get('created', '–')))[:10]}",
    ]
    return plain(" · ".join(parts))


# ------------------------------------------------------------------------------------------------- two forms
def plain(text: str) -> str:
    """Markdown in which no tag is one: ids come from names of files."""
    return TAG.sub("&lt;", text)


def figure_markdown(path: str, label: str, alt: str, caption: str) -> str:
    """The head of a MyST figure, left open for a legend; closed by a line of three backticks."""
    alt = plain(" ".join(alt.split()))
    return f"```{{figure}} {path}\n:name: {label}\n:alt: {alt}\n\n{plain(caption)}\n"


def table_markdown(table: pd.DataFrame, caption: str, label: str) -> str:
    """A MyST table with caption and label; without a caption, a plain Markdown table."""

    def row(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(plain(str(c)).replace("|", "\\|") for c in cells) + " |"

    lines = [row(table.columns), row(["---"] * len(table.columns)), *map(row, table.itertuples(index=False))]
    body = "\n".join(lines)
    if not caption:
        return body
    return f"~~~{{table}} {plain(caption)}\n:name: {label}\n\n{body}\n~~~"  # no backticks: captions hold some


def show(data: dict[str, str], book: str) -> None:
    """Display one output, {MIME type: content}, and carry what the book shows in its place; nothing outside IPython."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display(data | {BOOK: book}, raw=True)


def for_book(notebook: dict[str, Any]) -> dict[str, Any]:
    """An executed notebook as the book takes it: every output with a form for the book becomes that form, in place."""
    for cell in notebook["cells"]:
        outputs = cell.get("outputs", [])
        for output in outputs:
            if (form := output.get("data", {}).get(BOOK)) is not None:
                output["data"] = {"text/markdown": form} if form else {}
        cell["outputs"] = [output for output in outputs if output.get("data", True)]
        if cell["cell_type"] != "code":
            del cell["outputs"]
    return notebook


def show_markdown(text: str) -> None:
    from IPython.core.getipython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is not None:
        display(Markdown(text))


def _png(figure: Any, path: Path) -> str:
    """The saved picture, or the chart as one, base64."""
    content = io.BytesIO()
    if path.suffix == ".png":
        content.write(path.read_bytes())
    else:
        figure.savefig(content, format="png", dpi=DPI, bbox_inches="tight")
    return base64.b64encode(content.getvalue()).decode()
