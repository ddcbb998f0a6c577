"""lorasam check: what a folder of micrographs holds, what cannot be used, and what to do about it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.segmentation import mark_boundaries

from lorasam_core.data.annotations import Annotations
from lorasam_core.data.check import MODEL_SIDE, SMALL, Checked, check_folder
from lorasam_core.data.folders import SHEET
from lorasam_core.data.label_files import MASKS
from lorasam_core.data.readers import labels_of, read_image
from lorasam_core.data.sample import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = 40  # of the table
FINDINGS = 20
THUMBNAILS, COLUMNS, SIDE, TITLE = 48, 6, 256, 24  # at most, a row, pixels, characters a line
OUTLINE, RED = (1.0, 0.65, 0.0), (232, 17, 45)


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam check", description=__doc__)
    command.add_argument("folder", type=Path, help="micrographs, in images/ or as they are; with or without labels")
    command.add_argument("--json", action="store_true", help="print everything as one JSON document, and nothing else")
    command.add_argument("--sheet", default=SHEET, metavar="FILE.png",
                         help='contact sheet with outlines (default: %(default)s; "" for none)')  # fmt: skip
    command.add_argument("--pixel-size", type=float, help="nm a pixel of all; else from pixel_size.csv or the file")
    command.add_argument("--page", type=int, help="of files that hold several, from 1")
    command.add_argument("--mask", choices=MASKS, default="auto", help="which of a mask's two values is particle")
    command.add_argument("--ignore", type=int, metavar="ID", help="value of label files that becomes background")
    return command


def main(arguments: Sequence[str]) -> None:
    """The command; exit status 1 where something cannot be used, 2 for wrong options."""
    args = parser().parse_args(arguments)
    reading = {"mask": args.mask, "ignore": args.ignore, "page": args.page}
    checked = check_folder(args.folder, pixel_size=args.pixel_size, **reading)
    if args.sheet:
        from lorasam_core import plots

        plots.save(contact_sheet(checked, **reading), args.sheet)
    if args.json:
        images = json.loads(checked.table.to_json(orient="records"))  # missing values become null
        findings = [finding._asdict() for finding in checked.findings]
        document = {"folder": str(args.folder), "images": images, "findings": findings, "sheet": args.sheet or None}
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        print(_lines(checked.table))
        for severity, text, remedy in checked.findings[:FINDINGS]:
            print(f"\n{severity}: {text}.\n    {remedy[:1].upper()}{remedy[1:]}.")
        if (more := len(checked.findings) - FINDINGS) > 0:
            print(f"\n... and {more} more findings; --json lists all.")
        if args.sheet:
            print(f"\nContact sheet: {args.sheet}")
    if any(finding.severity == "error" for finding in checked.findings):
        sys.exit(1)


def _lines(table: pd.DataFrame) -> str:
    """The table for a terminal: a line an image, lengths in pixels, what nothing has left out."""

    def column(name: str, form: str = "{}", factor: float = 1) -> pd.Series:
        return table[name].map(lambda value: "" if pd.isna(value) else form.format(value * factor))

    channels = column("channels", " x {}").replace(" x 1", "")
    scale = column("pixel_size", "{:.4g} nm") + " " + table["pixel_size_from"]
    shown = pd.DataFrame({
        "image": table["id"], "format": table["format"], "width": column("width"), "height": column("height"),
        "bits": column("bits") + channels, "contrast": column("contrast", "{:.0f} %", 100),
        "pixel size": scale.str.strip(), "labels": table["read_as"].replace("none", ""),
        "particles": column("particles"), "diameter": column("median_diameter", "{:.1f}"),
        "in model": column("diameter_in_model", "{:.1f}"), "small": column("small", "{:.0f} %", 100),
        "touch": column("touching", "{:.0f} %", 100), "usable": np.where(table["problem"] == "", "", "NO"),
    })  # fmt: skip
    shown = shown.loc[:, (shown != "").any()].set_index("image").rename_axis(None)  # an index stands at the left
    lines = [shown[:LINES].to_string()]
    if len(shown) > LINES:
        lines.append(f"... and {len(shown) - LINES} more")
    if "diameter" in shown:
        lines.append(
            "\ndiameter: median, in pixels; in model: where the model is shown the whole image, its longest side "
            f"{MODEL_SIDE} pixels; small: under {SMALL} of these"
        )
    return "\n".join(lines)


def contact_sheet(
    checked: Checked, *, mask: str = "auto", ignore: int | None = None, page: int | None = None
) -> Figure:
    """Thumbnails with the outlines of the labels, titled by id; those that cannot be used are framed in red.

    At most 48, evenly spaced. mask, ignore, page: how the files are read, as `read_labels` says.
    """
    from lorasam_core import plots

    count = len(checked.table)
    chosen = np.linspace(0, count - 1, min(count, THUMBNAILS)).round().astype(int)
    pictures, colors = {}, {}
    for row in checked.table.iloc[chosen].to_dict("records"):
        picture = _thumbnail(row["file"], checked.labels.get(row["id"]), {"mask": mask, "ignore": ignore, "page": page})
        title = "\n".join(row["id"][k : k + TITLE] for k in range(0, len(row["id"]), TITLE))
        if row["problem"]:
            height, width = picture.shape[:2]
            picture = plots.mark_box(picture, np.array([0, 0, width - 1, height - 1]), SIDE // 40, RED)
            colors[title] = plots.INSET_RED
        pictures[title] = picture
    return plots.panels(pictures, columns=COLUMNS, width=2 * COLUMNS, colors=colors)


def _thumbnail(path: str, source: Path | Annotations | None, reading: dict[str, Any]) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3), the longest side 256 pixels; grey where the image cannot be read."""
    try:
        image = read_image(path, reading["page"])
    except DataError:
        return np.full((SIDE * 3 // 4, SIDE, 3), 200, np.uint8)
    height, width = image.shape[:2]
    size = tuple(max(1, round(side * SIDE / max(height, width))) for side in (width, height))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = small if small.ndim == 3 else np.stack([small] * 3, axis=-1)
    try:
        shape = (height, width)
        labels = labels_of(source, shape, **reading)[0] if source else np.zeros(shape, np.int32)
    except DataError:
        return small
    outlined = mark_boundaries(small, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), OUTLINE, mode="inner")
    return np.round(255 * outlined).astype(np.uint8)
