"""lorasam draft: a draft of the labels of each micrograph, with a number on every particle, for you to correct."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lorasam_core.commands.segment import add_model, add_reading, add_tiles


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam draft", description=__doc__)
    command.add_argument(
        "places", nargs="+", type=Path, metavar="FOLDER|FILE", help="micrographs; several may be given"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the drafts; called again it goes on, and "
                         "what you have worked on stays")  # fmt: skip
    command.add_argument("--accept", nargs="+", metavar="NAME", help="draft nothing; the labels of these images are "
                         "right as they are: they go to OUT/labelled, for training")  # fmt: skip
    add_model(command)
    asked = command.add_argument_group("mask generator (default: what the adapter says)")
    asked.add_argument("--points", type=int, help="points along a side of each tile's grid")
    asked.add_argument("--score", type=float, help="least score of a mask, 0 to 1")
    add_tiles(asked)
    add_reading(command)
    return command


def main(arguments: Sequence[str]) -> None:
    """The command; exit status 1 where an image could not be used, 2 for wrong options."""
    args = parser().parse_args(arguments)
    if args.crop_bottom not in ("auto", "none") and not args.crop_bottom.isdigit():
        raise ValueError(f"--crop-bottom is {args.crop_bottom!r}; give auto, none or a number of pixels.")

    from lorasam_core.data.folders import list_images, pixel_sizes, read_groups

    files, notes = list_images(args.places)
    for note in notes:
        print(note, file=sys.stderr)
    if args.accept:
        _accept(args.out, args.accept, files)
        return
    sizes: dict[str, float] = {}
    groups: dict[str, str] = {}
    for folder in sorted({path.parent for path in files.values()}):
        ids = [i for i, path in files.items() if path.parent == folder]
        above = folder.parent if folder.name == "images" else folder
        sizes |= pixel_sizes(folder, ids) | pixel_sizes(above, ids)
        groups |= read_groups(above, ids)

    from lorasam_core.experiments.draft import draft_folder
    from lorasam_core.experiments.labelling import training_folder
    from lorasam_core.experiments.segment import Reading
    from lorasam_core.masks.segmenter import Segmenter  # imports torch: options and files are checked first

    settings = {"points_per_side": args.points, "score_thresh": args.score}
    segmenter = Segmenter(
        args.adapter, model=args.model, checkpoint=args.checkpoint, device=args.device, tile=args.tile,
        diameter=args.diameter, **{key: value for key, value in settings.items() if value is not None},
    )  # fmt: skip
    reading = Reading(args.crop_bottom, args.pixel_size, sizes, args.page)
    table = draft_folder(files, args.out, segmenter, reading, groups)
    unusable = table.loc[table["problem"] != "", "image"].tolist()
    _report(table, args.out, *training_folder(args.out, files, without=unusable))


def _accept(out: Path, names: Sequence[str], files: Mapping[str, Path]) -> None:
    from lorasam_core.experiments.draft import accept
    from lorasam_core.experiments.labelling import training_folder

    table = accept(out, names, files)
    unusable = table.loc[table["problem"] != "", "image"].tolist()
    _say_accepted(*training_folder(out, files, without=unusable))


def _say_accepted(training: Path, images: int) -> None:
    command = f"lorasam adapt {shlex.quote(str(training))} --out ADAPTER"
    print(f"accepted: {_images(images)}; to adapt the model to them: {command}")


def _report(table: pd.DataFrame, out: Path, training: Path, accepted: int) -> None:
    done = table[table["problem"] == ""]
    drafted = done[done["state"] == "draft"]
    if len(drafted):
        print(f"{int(drafted['particles'].sum()):,} particles in the drafts of {_images(len(drafted))}.")
    for state, left in done[done["state"] != "draft"].groupby("state"):
        print(f"left as they are, {state}: {', '.join(left['image'])}")
    print(f"{out}: ID/overlay.png, ID/labels.tif, ID/log.jsonl, drafts.csv")
    if accepted:
        _say_accepted(training, accepted)
    for problem in table.loc[table["problem"] != "", "problem"]:
        print(f"left out: {problem}", file=sys.stderr)
    if len(done) < len(table):
        sys.exit(1)


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count > 1)}"
