"""lorasam convert: the labels of a folder, in any format that is read, as COCO, ROIs of ImageJ, labelme or TIFF."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lorasam_core.data.folders import list_folder, read_table
from lorasam_core.data.label_files import MASKS, read_labels
from lorasam_core.data.readers import Record, read_record
from lorasam_core.data.write_labels import write_coco, write_imagej_rois, write_label_tiff, write_labelme

ENDINGS = {"coco": "", "imagej": ".zip", "labelme": ".json", "tiff": ".tif"}
COCO = "coco.json"
RUN = "summary.csv"  # of `lorasam segment`, which writes label images without their micrographs


class Labelled(NamedTuple):
    """An image with labels: its id, its file, and what reads labels int32 (H, W) and whether they were a mask."""

    id: str
    image: Path
    read: Callable[[], tuple[NDArray[np.int32], bool]]


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam convert", description=__doc__)
    command.add_argument("folder", type=Path, help="micrographs with labels, or what lorasam segment wrote")
    command.add_argument("--to", required=True, choices=tuple(ENDINGS), help="the format to write")
    command.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    command.add_argument("--mask", choices=MASKS, default="auto", help="which of a mask's two values is particle")
    command.add_argument("--ignore", type=int, metavar="ID", help="value of label images that becomes background")
    command.add_argument("--page", type=int, help="of files that hold several, from 1")
    return command


def main(arguments: Sequence[str]) -> None:
    """The command; ValueError for labels that cannot be used, and for a folder that holds something already."""
    args = parser().parse_args(arguments)
    out: Path = args.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already, and not empty; choose another folder.")
    images, notes = _labelled(args.folder, {"mask": args.mask, "ignore": args.ignore, "page": args.page})
    for note in notes:
        print(note, file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".part-{out.name}-", dir=out.parent) as whole:
        part = Path(whole) / "labels"  # renamed last: a folder under its final name is complete
        part.mkdir()
        masks, particles = _write(images, part, out, args.to)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    if masks:
        print(f"In {masks} of {len(images)} images particles are connected components of masks.", file=sys.stderr)
    names = COCO if args.to == "coco" else f"ID{ENDINGS[args.to]}"
    print(f"{particles:,} particles of {len(images)} image{'s' * (len(images) > 1)}: {out / names}")


def _labelled(folder: Path, reading: dict[str, Any]) -> tuple[list[Labelled], list[str]]:
    """The labelled images of a folder, or of a run of `lorasam segment`, and notes on what was left out."""
    if not (folder / RUN).is_file():
        records, notes = list_folder(folder, labelled_only=True, **reading)
        return [Labelled(record.id, record.image, partial(_of_record, record)) for record in records], notes
    rows = read_table(folder / RUN, ("image", "file")).to_dict("records")
    found = [(row["image"], Path(row["file"]), folder / "labels" / f"{row['image']}.tif") for row in rows]
    there = [Labelled(i, file, partial(read_labels, labels, True)) for i, file, labels in found if labels.is_file()]
    if not there:
        raise ValueError(f"{folder} holds no label image; run lorasam segment again.")
    return there, []


def _of_record(record: Record) -> tuple[NDArray[np.int32], bool]:
    sample, binary = read_record(record)
    return sample.labels, binary


def _write(images: Sequence[Labelled], part: Path, out: Path, to: str) -> tuple[int, int]:
    """Write into the folder `part`, which will be `out`; the number of masks among the labels, and of particles."""
    masks = particles = 0

    def read() -> Iterator[tuple[Labelled, NDArray[np.int32]]]:
        nonlocal masks, particles
        for one in tqdm(images, "convert", unit="image", delay=5, disable=None):
            labels, binary = one.read()
            masks += binary
            particles += int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
            yield one, labels

    if to == "coco":
        write_coco(part / COCO, ((f"{one.id}{one.image.suffix}", labels) for one, labels in read()))
        return masks, particles
    for one, labels in read():
        path = part / f"{one.id}{ENDINGS[to]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if to == "tiff":
            write_label_tiff(path, labels)
        elif to == "imagej":
            write_imagej_rois(path, labels)
        else:
            place = (out / one.id).parent
            write_labelme(path, labels, Path(_relative(one.image, place)).as_posix())
    return masks, particles


def _relative(path: Path, place: Path) -> str:
    """From a folder to a file; on Windows there is no such path to another drive."""
    try:
        return os.path.relpath(path, place)
    except ValueError:
        return str(path.resolve())
