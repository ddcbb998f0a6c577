"""lorasam adapt: train an adapter on your labelled micrographs, from one image on, and say what it gained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lorasam_core.data.label_files import MASKS


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam adapt", description=__doc__)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="images/ with labels/ or masks/ of some or all; "
                         "optional: groups.csv (id, group) and pixel_size.csv (id, pixel_size in nm)")  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help="folder for the results; called again it goes on")
    held = command.add_argument_group("what measures (default: images of FOLDER that are held out, by group)")
    held.add_argument("--validation", type=Path, metavar="FOLDER", help="labelled images that choose the threshold")
    held.add_argument("--test", type=Path, metavar="FOLDER", help="labelled images that measure, and nothing else")
    held.add_argument(
        "--folds", type=int, help="of the cross-validation (default: 3; from 10 groups on one split instead)"
    )
    how = command.add_argument_group("training (default: from the images, with the reason)")
    how.add_argument("--start", help="adapter to go on from: a file, emps, which ships, or none")
    how.add_argument("--rank", type=int, help="of a fresh adapter")
    how.add_argument("--steps", type=int, help="optimiser steps")
    how.add_argument("--learning-rate", type=float, help="of AdamW")
    how.add_argument("--batch-size", type=int, default=4, help="windows a step")
    how.add_argument("--crop", type=int, metavar="PIXELS", help="side of a window, and of the tiles later")
    how.add_argument("--points", type=int, help="points along a side of each tile's grid")
    how.add_argument("--seed", type=int, default=0, help="of windows, folds and a fresh adapter")
    how.add_argument("--model", help="base model, where --start does not name it: lite, vit_b, vit_l or vit_h")
    how.add_argument("--checkpoint", help="a local file of the base model's weights")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    images = command.add_argument_group("images and labels")
    images.add_argument("--pixel-size", type=float, help="nm a pixel of all; else from pixel_size.csv or the file")
    images.add_argument("--mask", choices=MASKS, default="auto", help="which of two values is particle")
    images.add_argument("--ignore", type=int, metavar="ID", help="a value of the labels that is background")
    images.add_argument("--page", type=int, help="page to read, from 1, where a TIFF holds several")
    return command


def main(arguments: Sequence[str]) -> None:
    """The command; raises ValueError, with one sentence, for what cannot be used."""
    given = vars(parser().parse_args(arguments))
    out = given.pop("out")

    from lorasam_core.experiments.adapt import adapt  # imports torch: options are checked first
    from lorasam_core.experiments.adapt_plan import count, limits, prepare
    from lorasam_core.experiments.adapt_report import command, table

    plan = prepare(given.pop("folder"), **given)
    images = plan.sets["folder"]
    print(f"{images.name}: {count(len(images), 'image')} in {count(len(set(images.groups.values())), 'group')}")
    for name, reason in plan.reasons.items():
        print(f"  {name:14} {reason}")
    print(*limits(plan), sep="\n", flush=True)
    result = adapt(plan, out)
    if plan.test:
        print(f"\n{table(result.rows).to_string(index=False)}")
    print(f"\n{out}: adapter.safetensors (score threshold {result.threshold:g}), measured.csv, report.html")
    print(command(result))
