"""The small Sphinx extensions of the book, apart from a build."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lorasam_core.experiments.records import read_edition

BOOK = Path(__file__).parents[2] / "book"
ICONS = (
    '(()=>{var a={sun:[512,512,[9728],"f185","M1 2"],"file-pdf":[512,512,[],"f1c1","M3"],'
    '"magnifying-glass":[512,512,[128269,"search"],"f002",["M4","M5"]],house:[576,512,[127968,"home"],"f015","M6"]};})()'
)


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BOOK / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_icons_that_a_page_or_a_script_names_are_kept_and_no_others(tmp_path: Path) -> None:
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "fontawesome.js").write_text(ICONS)
    (scripts / "theme.js").write_text('button.innerHTML = "<i class=fa-sun>"')
    (tmp_path / "index.html").write_text('<i class="fa-solid fa-search"></i>')  # another name of the magnifying glass
    extension("light_pages").thin_icons(tmp_path)
    left = (scripts / "fontawesome.js").read_text()
    assert "sun:" in left and '"magnifying-glass":' in left
    assert "house" not in left and "file-pdf" not in left
    assert left.startswith("(()=>{var a={") and left.endswith("};})()")


def test_pictures_are_shown_as_webp_and_charts_and_downloads_as_they_are(tmp_path: Path) -> None:
    light = extension("light_pages")
    body = '<img src="../_images/a.png"/><img src="../_images/b.svg"/><a href="../_downloads/1/a.png">picture</a>'
    context = {"body": body, "script_files": [SimpleNamespace(filename="_static/mathjax/tex-chtml.js")]}
    light.lighten(None, "page", "page.html", context, None)
    assert context["body"] == body.replace("_images/a.png", "_images/a.webp")
    assert context["script_files"] == []
    picture = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(90, 110, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    light.compress(picture)
    with Image.open(tmp_path / "a.webp") as small:
        assert small.format == "WEBP" and abs(np.asarray(small.convert("RGB")).mean() - noise.mean()) < 1


def test_a_picture_is_compressed_again_only_when_it_is_younger(tmp_path: Path) -> None:
    light = extension("light_pages")
    picture, small = tmp_path / "a.png", tmp_path / "a.webp"
    Image.new("RGB", (8, 8), "white").save(picture)
    small.write_bytes(b"")
    os.utime(small, (2e9, 2e9))
    light.compress(picture)
    assert small.read_bytes() == b""
    os.utime(small, (1, 1))
    light.compress(picture)
    assert small.read_bytes() != b""


def test_mathjax_stays_where_there_is_math() -> None:
    files = [SimpleNamespace(filename="_static/mathjax/tex-chtml.js")]
    context = {"body": '<div class="math notranslate">x</div>', "script_files": files}
    extension("light_pages").lighten(None, "page", "page.html", context, None)
    assert context["script_files"] == files


@pytest.mark.parametrize("folder", sorted((BOOK / "results").glob("*")), ids=lambda folder: folder.name)
def test_times_of_an_edition_are_those_of_its_runs(folder: Path) -> None:
    edition = read_edition(folder)
    rows = extension("times_by_device").rows(edition)
    assert rows["runs"].sum() == len(edition.records)
    hours = sum(record.environment["wall_seconds"] for record in edition.records) / 3600
    assert sum(map(float, rows["hours in all"])) == pytest.approx(hours, abs=0.05 * len(rows) + 1e-9)
