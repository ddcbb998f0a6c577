"""The adapter that ships as `--adapter emps`: `lorasam adapt`, with EMPS' own split in place of a folder's."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from lorasam_core.config import RunConfig
from lorasam_core.data import SampleSet, load_dataset
from lorasam_core.experiments.adapt import Adapted, adapt
from lorasam_core.experiments.adapt_plan import Held, Plan, particle_sizes
from lorasam_core.masks.guided import GUIDED_SETTINGS
from lorasam_core.models.sam import load_sam

STEPS = 1000
CHOOSE, MEASURE = 40, 24  # validation images that choose the threshold; test images, those of the base's table


def plan(data: SampleSet, device: str = "auto", steps: int = STEPS) -> Plan:
    """Train on EMPS' training images (its papers' split), choose on validation images, measure on test images."""
    sets = {part: data.subset(name) for part, name in (("folder", "train"), ("validation", "val"), ("test", "test"))}
    config = RunConfig(
        data=data.name, steps=steps, batch_size=8, crop_size=512, learning_rate=1e-3, objective="mixed",
        prompts_per_image=4, augmentation="wide", rank=32, alpha=32, targets=("q", "v"),
        virtual_size=steps * 8, validate_every=steps, device=device,
    )  # fmt: skip
    diameters, particles, _ = particle_sizes(sets["folder"])
    guided = dict(GUIDED_SETTINGS)
    usual = float(guided.pop("score_thresh"))
    settings = {key: value for key, value in config.to_dict().items() if key not in ("device", "data")} | {
        "start": "a fresh adapter", "base": load_sam(config.model).base_hash, "guided": guided,
        "lorasam": version("lorasam"), "data": data.fingerprint, "split": data.split.hash,
    }  # fmt: skip
    return Plan(
        sets, (), sets["folder"].ids, spread(sets["validation"], "validation", CHOOSE),
        spread(sets["test"], "test", MEASURE), config, None, diameters, particles, guided, usual, {}, settings,
    )  # fmt: skip


def spread(images: SampleSet, part: str, count: int) -> tuple[Held, ...]:
    """`count` images, evenly through the set."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    return tuple(Held(part, images.ids[place]) for place in places)


def make(out: Path, to: Path, device: str = "auto") -> Adapted:
    """Train, or go on, in `out`; copy the adapter `to`, and print what it measures."""
    result = adapt(plan(load_dataset("emps"), device), out)
    to.write_bytes(result.adapter.read_bytes())
    print(result.rows.groupby("model")[["dice", "ap50", "f1"]].mean().round(4))
    print(f"{to}: score threshold {result.threshold:g}, {result.minutes:.0f} minutes of training; report: {out}")
    return result
