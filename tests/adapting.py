"""What tests of adapting share: a labelled folder of discs, an adapter to start from, settings of a tiny run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from skimage.io import imsave

from lorasam_core.experiments.adapt_plan import prepare
from lorasam_core.models.lora import LoRAConfig, add_lora, save_adapter
from lorasam_core.models.sam import load_sam
from tests.disc_set import disc_sample


def small_start(folder, image_size=128, points=10):
    """The file of a fresh adapter of the compact model at a small input, whose mask generator asks few points."""
    sam = add_lora(load_sam("lite", image_size=image_size), LoRAConfig(rank=2))
    path = folder / "start.safetensors"
    save_adapter(sam, path, segment={"guided": {"points_per_side": points, "score_thresh": 0.25}})
    return str(path)


def make(folder, count, first=0, names=None, groups=None, shape=(128, 144)):
    """A labelled folder of discs of 16 to 24 pixels."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    names = names or [f"image{i}" for i in range(first, first + count)]
    for i, name in enumerate(names, first):
        sample = disc_sample(i, shape)
        imsave(folder / "images" / f"{name}.png", sample.image, check_contrast=False)
        imsave(folder / "labels" / f"{name}.png", sample.labels.astype(np.uint16), check_contrast=False)
    if groups:
        pd.DataFrame({"id": names, "group": groups}).to_csv(folder / "groups.csv", index=False)
    return folder


def plan_of(folder, start, **options):
    return prepare(folder, start=start, device="cpu", **{"steps": 2, "batch_size": 1, "crop": 128} | options)
