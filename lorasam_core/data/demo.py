"""A small folder as a microscope leaves it, of generated particles: what the pages on your own particles begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image, ImageDraw, ImageFont

from lorasam_core.data.particles import generate

SIZE = (384, 512)  # of the micrograph, pixels
BAR = 36  # rows of the data bar under it


def write_demo(folder: str | Path, images: int = 5, seed: int = 9) -> Path:
    """Write images/NAME.tif, labels/NAME.tif and groups.csv, unless they are there; returns the folder.

    images: uint8 TIFF with a data bar of BAR rows under SIZE, and the scale in ImageJ's tags; labels: uint16 ids of the
    same size, 0 in the bar. Three images show one specimen.
    """
    folder, rows = Path(folder), []
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(3, 3 + images):
        sample = generate(seed, index, SIZE)
        nm = sample.pixel_size or 1.0
        name = f"{sample.group}-{index % 3 + 1}.tif"
        rows.append((Path(name).stem, sample.group))
        if not (folder / "labels" / name).exists():
            picture = np.vstack([sample.image, _bar(nm)])
            scale = {"resolution": (1 / nm, 1 / nm), "metadata": {"unit": "nm"}}
            tifffile.imwrite(folder / "images" / name, picture, imagej=True, **scale)
            labels = np.pad(sample.labels, ((0, BAR), (0, 0))).astype(np.uint16)
            tifffile.imwrite(folder / "labels" / name, labels)
    pd.DataFrame(rows, columns=["id", "group"]).to_csv(folder / "groups.csv", index=False)
    return folder


def _bar(nm: float) -> np.ndarray:
    """The data bar, uint8 (BAR, width): voltage, working distance, a scale bar of a round length."""
    width = SIZE[1]
    rounds = [first * 10**power for power in range(6) for first in (1, 2, 5)]
    round_length = max(length for length in rounds if length <= nm * width / 4)
    long = round(round_length / nm)
    bar = Image.new("L", (width, BAR), 0)
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(14)
    draw.text((10, 9), "15.0 kV   WD 8.4 mm", fill=255, font=font)
    draw.rectangle((width - long - 90, 16, width - 90, 19), fill=255)
    text = f"{round_length / 1000:g} um" if round_length >= 1000 else f"{round_length} nm"
    draw.text((width - 78, 9), text, fill=255, font=font)
    return np.asarray(bar)
