"""`lorasam convert`: what it writes, what it says, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from lorasam_core import cli
from lorasam_core.commands.convert import main
from lorasam_core.data.folders import list_folder
from lorasam_core.data.readers import read_record

LABELS = np.zeros((40, 50), np.uint8)
LABELS[3:12, 4:20], LABELS[12:20, 10:30] = 1, 2


@pytest.fixture
def folder(tmp_path):
    """Two images with labels, one of them in a folder, and one without."""
    for k, i in enumerate(("a", "x/b", "c")):
        for kind, array in (("images", np.random.default_rng(k).integers(0, 200, LABELS.shape)), ("labels", LABELS)):
            path = tmp_path / "powder" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if (kind, i) != ("labels", "c"):
                Image.fromarray(array.astype(np.uint8)).save(path)
    return tmp_path / "powder"


ENDINGS = {"imagej": "zip", "labelme": "json", "tiff": "tif"}
FILES = {"coco": {"coco.json"}} | {to: {f"a.{ending}", f"x/b.{ending}"} for to, ending in ENDINGS.items()}


@pytest.mark.parametrize("to", FILES)
def test_each_format_is_written_and_can_take_the_place_of_the_labels(folder, to, capsys):
    out = folder.parent / "deep" / "out"
    main([str(folder), "--to", to, "--out", str(out)])
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == FILES[to]
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # nothing half done beside it
    said = capsys.readouterr()
    assert said.out.startswith("4 particles of 2 images: ") and "Left out, without labels: c.png." in said.err
    if to == "labelme":
        for path in out.rglob("*.json"):
            named = (path.parent / json.loads(path.read_text())["imagePath"]).resolve()
            assert named.is_file() and named.stem == path.stem
    (folder / "labels").rename(folder.parent / "before")
    out.rename(folder / "labels")
    for record in list_folder(folder, labelled_only=True)[0]:
        assert (read_record(record)[0].labels == LABELS).all()


def test_masks_are_taken_apart_and_named(folder, capsys):
    for path in (folder / "labels").rglob("*.png"):
        Image.fromarray((LABELS > 0).astype(np.uint8) * 255).save(path)
    main([str(folder), "--to", "coco", "--out", str(folder.parent / "out")])
    said = capsys.readouterr()
    assert "2 particles" in said.out and "In 2 of 2 images particles are connected components of masks." in said.err


def test_what_segment_wrote_is_converted_without_its_images(folder, capsys):
    (folder / "summary.csv").write_text("image,file\na,../else/a.tif\nx/b,../else/x/b.tif\nc,../else/c.tif\n")
    (folder / "images").rename(folder.parent / "else")
    for path in [*(folder / "labels").rglob("*.png")]:
        Image.fromarray((LABELS > 1).astype(np.uint8)).save(path.with_suffix(".tif"))  # one particle: ids all the same
    main([str(folder), "--to", "coco", "--out", str(folder.parent / "out")])
    document = json.loads((folder.parent / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.tif", "x/b.tif"]
    assert capsys.readouterr().out.startswith("2 particles of 2 images")
    for path in [*(folder / "labels").rglob("*.tif")]:
        path.unlink()
    with pytest.raises(ValueError, match="holds no label image; run lorasam segment again"):
        main([str(folder), "--to", "coco", "--out", str(folder.parent / "other")])


def test_nothing_is_overwritten_and_nothing_half_done_is_left(folder, capsys):
    out = folder.parent / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(SystemExit, match=r"error: .*out is there already, and not empty; choose another folder\."):
        cli.main(["convert", str(folder), "--to", "tiff", "--out", str(out)])
    (out / "mine.txt").unlink()
    (folder / "labels" / "x" / "b.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"error: .*b\.png cannot be read"):
        cli.main(["convert", str(folder), "--to", "tiff", "--out", str(out)])
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out", "powder"] and not any(out.iterdir())
    Image.fromarray(LABELS).save(folder / "labels" / "x" / "b.png")
    cli.main(["convert", str(folder), "--to", "tiff", "--out", str(out)])  # an empty folder is taken
    assert (out / "a.tif").is_file()
