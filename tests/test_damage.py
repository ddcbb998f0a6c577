"""Damaged files of every kind that is read: one sentence that names the file, or what is left of it; never more."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from lorasam_core.data.folders import list_folder, pixel_sizes, read_groups
from lorasam_core.data.label_files import read_labels
from lorasam_core.data.readers import read_image, read_record
from lorasam_core.data.splits import Split
from lorasam_core.experiments import labelling
from lorasam_core.experiments.profiles import load_profile
from lorasam_core.experiments.publish import pack
from lorasam_core.experiments.records import read_edition
from lorasam_core.experiments.verify import verify_adapter
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.segmenter import way_of_asking
from lorasam_core.measure.folder import distributions, measure_folder
from lorasam_core.models import sam as models
from lorasam_core.models.lora import (
    LoRAConfig,
    add_lora,
    load_adapter,
    lora_parameters,
    read_adapter,
    save_adapter,
)
from lorasam_core.training import loop
from tests.damage import TRAP, damaged
from tests.experiments.test_segment import DISKS, micrograph, segment
from tests.made_labels import FORMATS, SHAPE, two_images
from tests.made_records import make_edition, make_record, per_image
from tests.tiny_sam import randomise, tiny_sam
from tests.training.test_resume import SETTINGS, Stopped, go, stop_at

QUICK, MANY = 10, 400  # damaged inputs of each reader


class Reader(NamedTuple):
    """make: writes valid files into a folder; files: which of them are damaged; read: what must not fail otherwise."""

    make: Callable[[Path], Any]
    files: str
    read: Callable[[Path], Any]


def make_adapter(folder: Path) -> None:
    sam = add_lora(tiny_sam(), LoRAConfig(2))
    sam.base_name = "lite"  # of another size: the weights at hand do not fit, which verify says
    randomise(lora_parameters(sam))
    more: dict[str, Any] = {"picture": {"mask": "00" * 512, "rated": 1.0}, "metrics": {"dice": 0.5}}
    more["segment"] = {"crop_size": 256, "diameter": 20.5, "guided": {"points_per_side": 10, "score_thresh": 0.25}}
    more["card"] = {"images": 4, "particles": 20, "date": "2026-11-30"}
    save_adapter(sam, folder / "adapter.safetensors", **more)


def use_adapter(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    checks = verify_adapter(path)
    while (check := next(checks)).name not in ("file", "card") or (check.name == "file" and check.holds):
        pass  # the base comes next
    way_of_asking(read_adapter(path)[0], path)
    load_adapter(tiny_sam(), path)


def use_checkpoint(folder: Path) -> None:
    for path in folder.glob("base.*"):
        models.load_sam("lite", path)


def make_record_folder(folder: Path) -> Any:
    rows = [per_image("predictor", "AABC", dice=[0.5, 0.6, 0.7, 0.8], iou=[0.4, 0.5, 0.6, 0.7])]
    history = pd.DataFrame({"step": [1, 2], "train_loss": [0.5, 0.4], "val_score": [None, 0.6]})
    thresholds = pd.DataFrame({"pred_iou_thresh": [0.5, 0.6], "f1": [0.1, 0.2]})
    tables = {"history": history, "thresholds": thresholds}
    found = [make_record(folder, f"run{k}", rows, tables, rank=4, name=f"run{k}") for k in range(2)]
    for record in found:
        (record.path / "environment.json").write_text('{"device_name": "AMD", "threads": 2}')
    edition = make_edition(folder, rank=found)
    (folder / "edition.json").write_text(pd.Series({"name": "made", **edition.info}).to_json())
    return edition


def make_published(folder: Path) -> None:
    edition = make_record_folder(folder / "local")
    pack(edition, folder)
    shutil.rmtree(folder / "local")


def use_edition(folder: Path) -> None:
    edition = read_edition(folder)
    for table in (edition.runs, edition.scores, edition.curves, edition.table("thresholds")):
        len(table)
    edition.devices(), edition.missing(), edition.published


def micrographs(folder: Path) -> dict[str, Path]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, disks in (("a", DISKS), ("b", DISKS[:2])):
        Image.fromarray(micrograph(disks)).save(folder / "images" / f"{name}.png")
    return {path.stem: path for path in sorted((folder / "images").iterdir())}


def make_segmented(folder: Path) -> None:
    segment(micrographs(folder), folder / "out")


def use_segmented(folder: Path) -> None:
    """It goes on: what is damaged is done again."""
    files = {path.stem: path for path in sorted((folder / "images").iterdir())}
    summary = segment(files, folder / "out").set_index("image")
    assert summary["problem"].eq("").all() and summary["particles"].tolist() == [4, 2]


def make_labelling(folder: Path) -> None:
    image = micrograph(DISKS)
    Image.fromarray(image).save(folder / "a.png")
    work = Labelling(image, (image > 128).astype(np.int32), id="a", file=str(folder / "a.png"), group="g", page=None)
    piece = Labelling(image, (image > 128).astype(np.int32))
    piece.remove(1)
    work._do("add", {"point": [3.0, 4.0]}, [(2, labelling_piece())], by_model=True)
    work.undo()
    work.redo()
    work.merge(1, 2)
    work.accept()
    labelling.save(work, folder / "a")


def labelling_piece() -> Any:
    from lorasam_core.masks.patches import cut

    mask = np.zeros((120, 140), bool)
    mask[2:9, 2:9] = True
    return cut(mask)


def use_labelling(folder: Path) -> None:
    labelling.load(folder / "a")
    labelling.training_folder(folder)


def make_tables(folder: Path) -> None:
    two_images(folder)
    (folder / "pixel_size.csv").write_text("id,pixel_size\na.png,2.5\nb,1e1\n")
    (folder / "groups.csv").write_text("id,group,pixel_size\na,one,2\nb,two,\n")


def use_tables(folder: Path) -> None:
    pixel_sizes(folder, ["a", "b"])
    read_groups(folder, ["a", "b"])
    (folder / "pixel_size.csv").rename(folder / "away.csv")
    pixel_sizes(folder, ["a", "b"])


PROFILE = """description: made
data: synthetic
defaults: {steps: 5, learning_rate: 1e-4, evaluate: [predictor, box]}
experiments:
  - name: main
    notebook: results/rank
    settings: {rank: 4}
    runs:
      - {name: one, seed: 1}
      - {name: two, targets: [q, k], alpha: 2.5}
    parameters: {shown: 3}
"""


def pictures(folder: Path) -> None:
    grey = micrograph()[:60, :70]
    for name in ("a.png", "a.bmp", "a.jpg"):
        Image.fromarray(grey).save(folder / name)
    Image.fromarray(np.stack([grey, grey // 2, grey], axis=2)).save(folder / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(folder / "a.tif", grey.astype(np.uint16) * 200, imagej=True)
    tifffile.imwrite(folder / "packed.tif", grey.astype(np.float32), compression="zlib", tile=(32, 32))
    Image.fromarray((grey > 128).astype(np.uint8)).save(folder / "mask.png")


def use_pictures(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_labels(path) if path.stem == "mask" else read_image(path)


def use_labels(folder: Path) -> None:
    for record in list_folder(folder, labelled_only=True)[0]:
        assert read_record(record)[0].labels.shape == SHAPE


def stopped_training(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        stop_at(patch, 2)
        go(folder, SETTINGS.replace(steps=3))


READERS = {
    "adapter": Reader(make_adapter, "adapter.safetensors", use_adapter),
    "checkpoint": Reader(lambda f: torch.save(tiny_sam().state_dict(), f / "base.pth"), "base.pth", use_checkpoint),
    "training": Reader(stopped_training, "checkpoint.pt", lambda f: go(f, SETTINGS.replace(steps=3))),
    "tables": Reader(make_tables, "*.csv", use_tables),
    "profile": Reader(
        lambda f: (f / "own.yaml").write_text(PROFILE), "own.yaml", lambda f: load_profile(f / "own.yaml")
    ),
    "runs": Reader(make_record_folder, "**/*.*", use_edition),
    "published": Reader(make_published, "*.*", use_edition),
    "segmented": Reader(make_segmented, "out/**/*.json", use_segmented),
    "summary": Reader(
        make_segmented, "out/summary.csv", lambda f: distributions(measure_folder(f / "out"))
    ),
    "labelling": Reader(make_labelling, "a/log.jsonl", use_labelling),
    "split": Reader(
        lambda f: Split(("a", "b"), ("c",), ("d",)).save(f / "split.json"), "split.json",
        lambda f: Split.load(f / "split.json"),
    ),
    "pictures": Reader(pictures, "*.*", use_pictures),
} | {
    name: Reader(lambda f, make=make: make(two_images(f)), "**/*.*", use_labels)
    for name, (_, make) in FORMATS.items()
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """A compact model of few weights, which a checkpoint is read into."""
    monkeypatch.setattr(models, "build_lite", tiny_sam)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a reader's valid files, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / "made"
            made[name].mkdir()
            READERS[name].make(made[name])
        return made[name]

    return of


def try_damage(name, whole, folder, seed):
    """Damage a file by the seed, and read it; whether it was refused."""
    rng = np.random.default_rng((zlib.crc32(name.encode()), seed))
    shutil.copytree(whole, folder)
    found = (p for p in folder.glob(READERS[name].files) if p.is_file())
    files = sorted(p for p in found if p.parent.name != "images" or p.suffix == ".json")
    path = files[rng.integers(len(files))]
    path.write_bytes(damaged(path.read_bytes(), path.name, rng))
    try:
        READERS[name].read(folder)
    except ValueError as error:
        message = str(error)
        named = path.name in message or str(path.parent) in message
        assert named, f"{path.name} is not named: {message[:300]}"
        assert len(message) < 1500 and "\n" not in message and message.endswith("."), message[:300]
        return True
    finally:
        assert not (folder / TRAP).exists() and not os.path.exists(TRAP), "a pickle was run"
        shutil.rmtree(folder)
    return False


@pytest.mark.parametrize("name", READERS)
def test_damage_is_one_sentence_or_no_harm(name, whole, tmp_path, small):
    refused = [try_damage(name, whole(name), tmp_path / "damaged", seed) for seed in range(QUICK)]
    assert any(refused) or name in ("training", "segmented")  # which begin anew


@pytest.mark.chaos
@pytest.mark.parametrize("name", READERS)
def test_any_damage_is_one_sentence_or_no_harm(name, whole, tmp_path, small):
    for seed in range(QUICK, MANY):
        try_damage(name, whole(name), tmp_path / "damaged", seed)
