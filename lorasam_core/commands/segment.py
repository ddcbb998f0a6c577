"""lorasam segment: masks, overlays and tables of a folder of micrographs, without labels and without training."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lorasam_core.data.scale import to_nm


def add_model(command: argparse.ArgumentParser) -> None:
    """Options that choose the model."""
    command.add_argument("--adapter", help="a file, or emps, which ships; without one the base model as it is")
    command.add_argument("--model", default="lite", help="base model, where no adapter names it")
    command.add_argument("--checkpoint", help="a local file of the base model's weights")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_tiles(asked: argparse._ArgumentGroup) -> None:
    """Options that choose the size of tiles."""
    size = asked.add_mutually_exclusive_group()
    size.add_argument("--tile", type=int, help="pixels a side; smaller ones enlarge the particles for the model")
    size.add_argument("--diameter", type=float, help="usual diameter of your particles in pixels: chooses the tile")


def add_reading(command: argparse.ArgumentParser) -> None:
    """Options of how images are read."""
    images = command.add_argument_group("images")
    images.add_argument(
        "--pixel-size", type=float, help="nm a pixel of all images; else from pixel_size.csv or the file"
    )
    images.add_argument("--crop-bottom", default="auto", help="data bar: auto, none, or its height in pixels")
    images.add_argument("--page", type=int, help="page to read, from 1, where a TIFF holds several")


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam segment", description=__doc__)
    command.add_argument(
        "places", nargs="+", type=Path, metavar="FOLDER|FILE", help="micrographs; several may be given"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the results; called again it goes on")
    add_model(command)
    asked = command.add_argument_group("mask generator (default: what the adapter says)")
    asked.add_argument("--generator", default="guided", choices=("guided", "exact"),
                       help="guided by the predicted foreground; exact: segment-anything's, slower")  # fmt: skip
    asked.add_argument("--points", type=int, help="points along a side of each tile's grid")
    asked.add_argument("--score", type=float, help="guided: least score of a mask, 0 to 1")
    asked.add_argument("--pred-iou", type=float, help="exact: least predicted IoU, 0 to 1")
    asked.add_argument("--stability", type=float, help="exact: least stability, 0 to 1")
    add_tiles(asked)
    kept = command.add_argument_group("which particles are kept")
    kept.add_argument("--min-diameter", help="of the disc of equal area: pixels, or with a unit, as 20nm or 0.5um")
    kept.add_argument("--max-diameter", help="likewise")
    kept.add_argument("--min-circularity", type=float, default=0.0, help="4 pi area / perimeter^2, 0 to 1")
    kept.add_argument("--no-border", action="store_true", help="drop those that the image's edge cuts")
    kept.add_argument("--largest-share", type=float, default=0.5, help="of the image that one particle may cover")
    add_reading(command)
    command.add_argument("--workers", type=int, default=1, help="processes that share the cores")
    command.add_argument("--scheduler", metavar="ADDRESS", default="", help="a Dask cluster in place of --workers")
    return command


def diameters(*texts: str | None) -> tuple[list[float | None], bool]:
    """Numbers and whether they are nm; ValueError for what is no length, and for pixels beside nm."""
    numbers: list[float | None] = []
    units = set()
    for text in texts:
        if text is None:
            numbers.append(None)
            continue
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(px|nm|um|µm|μm)?\s*", text)
        if not match:
            raise ValueError(f"{text!r} is no diameter; give pixels, as 20, or a length, as 20nm or 0.5um.")
        unit = match[2] or "px"
        units.add(unit == "px")
        numbers.append(float(match[1]) if unit == "px" else to_nm(float(match[1]), unit))
    if len(units) > 1:
        raise ValueError("one diameter is in pixels and one is a length; give both in one unit.")
    return numbers, units == {False}


def main(arguments: Sequence[str]) -> None:
    """The command; exit status 1 where an image could not be used, 2 for wrong options."""
    args = parser().parse_args(arguments)
    (least, most), nm = diameters(args.min_diameter, args.max_diameter)
    if args.crop_bottom not in ("auto", "none") and not args.crop_bottom.isdigit():
        raise ValueError(f"--crop-bottom is {args.crop_bottom!r}; give auto, none or a number of pixels.")

    wrong = ("pred_iou", "stability") if args.generator == "guided" else ("score",)
    if misplaced := [name for name in wrong if getattr(args, name) is not None]:
        option = misplaced[0].replace("_", "-")
        raise ValueError(f"--{option} is no option of the {args.generator} generator; leave it out.")

    from lorasam_core.data.folders import list_images, pixel_sizes

    files, notes = list_images(args.places)
    for note in notes:
        print(note, file=sys.stderr)
    folders = {path.parent for path in files.values()}
    folders |= {folder.parent for folder in folders if folder.name == "images"}
    folders |= {place for place in args.places if place.is_dir()}
    listed = {i: size for folder in sorted(folders) for i, size in pixel_sizes(folder, files).items()}

    from lorasam_core.experiments.executor import check

    check(args.workers, args.scheduler)

    from lorasam_core.experiments.segment import Filters, Reading, segment_folder
    from lorasam_core.masks.segmenter import Segmenter, anywhere  # import torch: options and files are checked first

    filters = Filters(least, most, nm, args.min_circularity, not args.no_border, args.largest_share)
    reading = Reading(args.crop_bottom, args.pixel_size, listed, args.page)
    settings = {"points_per_side": args.points, "score_thresh": args.score, "pred_iou_thresh": args.pred_iou,
                "stability_score_thresh": args.stability,
                "largest_share": args.largest_share if args.generator == "guided" else None}  # fmt: skip
    named = ("adapter", "model", "checkpoint", "device", "generator", "tile", "diameter")
    given = {name: getattr(args, name) for name in named} | {k: v for k, v in settings.items() if v is not None}
    segmenter = Segmenter(**given)
    summary = segment_folder(
        files, args.out, segmenter if args.workers == 1 and not args.scheduler else anywhere(**given),
        segmenter.described, reading, filters, args.workers, args.scheduler,
    )  # fmt: skip
    _report(summary, args.out)


def _report(summary: pd.DataFrame, out: Path) -> None:
    failed = summary[summary["problem"] != ""]
    done = summary[summary["problem"] == ""]
    if len(done):
        images = f"{len(done):,} image{'s' * (len(done) > 1)}"
        print(f"{int(done['particles'].sum()):,} particles in {images}; lengths in {done['unit'].iloc[0]}.")
    print(f"{out}: labels/, overlays/, particles.csv, summary.csv, run.json")
    for problem in failed["problem"]:
        print(f"left out: {problem}", file=sys.stderr)
    if len(failed):
        sys.exit(1)
