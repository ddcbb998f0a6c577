"""The book's hand-written sources: what they promise exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from lorasam_core.config import RunConfig
from lorasam_core.experiments.rerun import TOLERANCE
from lorasam_core.experiments.study import STUDY
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS
from lorasam_core.models.lora import lora_parameter_count

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
PAGES = sorted(BOOK.glob("*.md"))
DRAWING = {"demo", "sem_render", "sem_shapes"}  # modules that the API page leaves out


def toc_files() -> list[str]:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def escape(line: str) -> str:
    spec = importlib.util.spec_from_file_location("plain_docstrings", BOOK / "_ext" / "plain_docstrings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.escape(line)


def test_every_page_and_every_notebook_has_one_place_in_the_contents() -> None:
    written = {page.stem for page in PAGES}
    executed = {f"_generated/{notebook.stem}" for notebook in (ROOT / "notebooks").rglob("*.py")}
    files = toc_files()
    assert len(files) == len(set(files))
    assert set(files) == written | executed


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited() -> None:
    sources = [*PAGES, *(ROOT / "notebooks").rglob("*.py")]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    cited = {key.strip() for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in keys.split(",")}
    entries = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert cited - set(entries) == set()
    assert set(entries) - cited == set()


def test_the_api_page_names_every_module() -> None:
    modules = set()
    for path in (ROOT / "lorasam_core").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    modules -= {"lorasam_core"} | {f"lorasam_core.data.{name}" for name in DRAWING}
    text = (BOOK / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(modules)
    assert re.findall(r"^### `(.+)`$", text, re.MULTILINE) == named


def test_the_method_page_gives_the_generators_settings_as_they_are() -> None:
    text = (BOOK / "method.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    for name in STUDY_SETTINGS:
        study, quick = (cell.strip() for cell in rows[name].split("|"))
        assert float(study) == STUDY_SETTINGS[name]
        assert (float(quick) if quick else None) == QUICK_SETTINGS.get(name)


def test_the_page_on_reproducing_gives_the_tolerance_as_it_is() -> None:
    assert f"within {TOLERANCE} of its record" in (BOOK / "reproduce.md").read_text(encoding="utf-8")


def test_the_method_page_gives_the_parameter_counts_of_the_study_and_of_the_formula() -> None:
    text = (BOOK / "method.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d+) \| ([\d.]+) M \| ([\d.]+) M \|$", text, re.MULTILINE)
    rows = {int(rank): (ours, theirs) for rank, ours, theirs in found}
    assert rows.keys() == STUDY["rank"].keys()
    for rank, (ours, theirs) in rows.items():
        assert float(ours) == round(lora_parameter_count(STUDY["width"], STUDY["blocks"], rank, ("q", "v")) / 1e6, 2)
        assert float(theirs) == STUDY["rank"][rank][1]
    assert f"break-even at {STUDY['width'] // 2}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_percentages_are_never_typed_in(page: Path) -> None:
    text = re.sub(
        r"```.*?```|\d+ % (bootstrap )?interval|95 % bootstrap", "", page.read_text(encoding="utf-8"), flags=re.S
    )
    assert re.findall(r"\d[\d.,]* ?%", text) == []


def test_config_defaults_that_the_pages_name() -> None:
    config = RunConfig()
    assert (config.objective, config.alpha, config.targets) == ("mixed", None, ("q", "v"))


@pytest.mark.parametrize(
    ("plain", "rest"),
    [
        ("2|A n B| of **options", r"2\|A n B\| of \*\*options"),
        ("see `x_y | z` and x_y", "see ``x_y | z`` and x_y"),
        ("a trailing name_ here", r"a trailing name\_ here"),
    ],
)
def test_docstrings_are_read_as_plain_text(plain: str, rest: str) -> None:
    assert escape(plain) == rest
