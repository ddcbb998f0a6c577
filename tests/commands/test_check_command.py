"""lorasam check: what is printed, the JSON document, the contact sheet and the exit status."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from lorasam_core.commands import check
from lorasam_core.commands.check import contact_sheet, main
from lorasam_core.data.check import check_folder
from lorasam_core.data.sample import DataError

LABELS = np.zeros((90, 120), np.uint8)
LABELS[20:60, 30:80], LABELS[70:80, 100:110] = 1, 2


def image(path, seed=0, shape=LABELS.shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three images, the second with labels."""
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        image(tmp_path / "powder" / "images" / f"p{k}.png", k)
    (tmp_path / "powder" / "labels").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "powder" / "labels" / "p1.png")
    return tmp_path / "powder"


def test_printed(folder, capsys):
    main([str(folder)])
    out = capsys.readouterr().out
    assert [line.split()[:5] for line in out.splitlines()[1:4]] == [
        [f"p{k}", "PNG", "120", "90", "8"] for k in range(3)
    ]
    assert "warning: No labels: p0, p2.\n    Add them to adapt; segmentation needs none.\n" in out
    assert "usable" not in out and "pixel size  " not in out  # columns that say nothing
    assert "Contact sheet: lorasam-check.png" in out
    assert Image.open(folder.parent / "lorasam-check.png").width > 500


def test_exit_status_where_something_cannot_be_used(folder, capsys):
    (folder / "images" / "p2.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), "--sheet", ""])
    out = capsys.readouterr().out
    assert stopped.value.code == 1 and "error: " in out and "Export it again as PNG or TIFF." in out
    assert out.splitlines()[3].startswith("p2") and out.splitlines()[3].endswith("NO")
    assert not (folder.parent / "lorasam-check.png").exists() and "Contact sheet" not in out


def test_json(folder, capsys):
    (folder / "images" / "p2.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        main([str(folder), "--json", "--sheet", "sheets/all.png"])
    document = json.loads(capsys.readouterr().out)
    first, second, third = document["images"]
    assert list(first) == list(check_folder(folder).table.columns)
    assert first["particles"] is None and second["particles"] == 2 and second["touching"] == 0
    assert third["width"] is None and "p2.png cannot be read" in third["problem"]
    assert {f["severity"] for f in document["findings"]} == {"error", "warning", "note"}
    assert all(set(f) == {"severity", "text", "remedy"} for f in document["findings"])
    assert document["sheet"] == "sheets/all.png" and (folder.parent / "sheets" / "all.png").is_file()


def test_many_images_and_many_findings(tmp_path, capsys):
    for k in range(45):
        image(tmp_path / f"p{k}.png", k, (16, 16))
    for k in range(25):
        (tmp_path / f"q{k}.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--sheet", ""])
    out = capsys.readouterr().out
    assert "p39 " in out and "p40 " not in out and "... and 30 more\n" in out
    assert out.count("error:") == 20 and "... and 7 more findings" in out  # no labels, no pixel size
    assert len(check_folder(tmp_path).findings) == 27


def test_reading(folder, capsys):
    """The options reach the files: two pages, a mask whose particles are dark, an id that is background."""
    pages = [Image.fromarray(np.full((90, 120), value, np.uint8)) for value in (10, 20)]
    (folder / "images" / "p0.png").unlink()
    pages[0].save(folder / "images" / "p0.tif", save_all=True, append_images=pages[1:])

    def seen(*options):
        main([str(folder), "--json", "--sheet", "", "--page", "1", *options])
        images = json.loads(capsys.readouterr().out)["images"]
        assert [row["problem"] for row in images] == ["", "", ""]
        return images[1]

    assert seen()["particles"] == 2 and seen("--ignore", "2")["particles"] == 1
    Image.fromarray(np.where(LABELS == 1, 0, 255).astype(np.uint8)).save(folder / "labels" / "p1.png")
    assert seen("--mask", "dark")["median_diameter"] == pytest.approx(np.sqrt(4 / np.pi * 40 * 50))


@pytest.mark.parametrize("options", [["--mask", "grey"], ["--page", "one"], ["--unknown"], []])
def test_wrong_options(folder, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*([str(folder)] if options else []), *options])
    assert stopped.value.code == 2


def test_no_folder(tmp_path):
    with pytest.raises(DataError):
        main([str(tmp_path / "missing")])


def titles_and_pictures(figure):
    return {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}


def test_contact_sheet(folder):
    (folder / "images" / "p2.png").write_bytes(b"nothing")
    Image.fromarray(LABELS[:50]).save(folder / "labels" / "p0.png")
    pictures = titles_and_pictures(contact_sheet(check_folder(folder)))
    assert list(pictures) == ["p0", "p1", "p2"]
    assert all(max(picture.shape) == 256 for picture in pictures.values())
    red = {name: (picture[[0, -1]] == check.RED).all() for name, picture in pictures.items()}
    assert red == {"p0": True, "p1": False, "p2": True}
    orange = np.argwhere((pictures["p1"] == np.round(255 * np.array(check.OUTLINE))).all(axis=-1)) * 120 / 256
    assert orange.min(axis=0) == pytest.approx([20, 30], abs=1)  # rows and columns of LABELS
    assert orange.max(axis=0) == pytest.approx([80, 110], abs=1)
    inside = orange[(np.abs(orange - [40, 55]) < [15, 20]).all(axis=1)]
    assert len(inside) == 0


def test_contact_sheet_of_many(tmp_path):
    for k in range(100):
        image(tmp_path / f"a long name of an image {k:03d}.png", k, (16, 16))
    names = list(titles_and_pictures(contact_sheet(check_folder(tmp_path))))
    assert len(names) == 48 and names[0].endswith("000") and names[-1].endswith("099")
    gaps = np.diff([int(name[-3:]) for name in names])
    assert set(gaps) <= {2, 3} and max(len(line) for name in names for line in name.split("\n")) <= 24


def test_no_matplotlib_without_a_sheet(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lorasam_core.plots", None)
    main([str(folder), "--sheet", ""])
