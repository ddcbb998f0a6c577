"""What `lorasam adapt` is going to do with a labelled folder: settings from its images, and which of them measure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorasam_core.config import RunConfig
from lorasam_core.data.databar import unlabelled_bar
from lorasam_core.data.folders import list_folder
from lorasam_core.data.readers import Record, read_record
from lorasam_core.data.sample import DataError, Sample
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.splits import Split, split_by_group
from lorasam_core.masks.guided import GUIDED_SETTINGS
from lorasam_core.masks.segmenter import LEAST_TILE, way_of_asking
from lorasam_core.models.lora import adapter_path, read_adapter
from lorasam_core.models.lora.files import SHIPPED

SHIPS = "emps"  # what training goes on from where nothing else is said
OF_START = ("alpha", "scaling", "targets", "blocks", "dropout", "image_size")  # of the run's settings
RANK = 32
RATE, FEW_STEPS, FAST = 1e-3, 200, 2e-3  # learning rate; that of a fresh adapter which has this many steps at most
# of the model's input: what particles of the diameters D10 and D50 are to span at least, and those of D90 at most
D10_SEEN, D50_SEEN, D90_SEEN = 16 / 512, 40 / 512, 1 / 3
LEAST_CROP = 160  # pixels; below it, windows show the model nothing but blur
STEPS = ((1, 60), (4, 120), (16, 200), (64, 400))  # training images at most, optimiser steps
MOST_STEPS = 800
SPLIT_GROUPS = 10  # from here on a split 7:2:1; fewer groups are cross-validated
FOLDS = 3
MOST_CHOOSE = (
    24  # images for a threshold, where these do not measure as well: each takes seconds, and more say the same
)
INTERVAL_GROUPS = 6  # fewer give no interval that could be trusted


class Held(NamedTuple):
    """An image that is asked after training."""

    part: str  # folder, validation or test
    id: str


@dataclass(frozen=True)
class Plan:
    """sets: by folder, validation and test, as far as given. folds: ids held out in each, of a cross-validation.

    train: ids for the adapter that is written. choose, test: images that choose thresholds, and that measure; an image
    that does both has its threshold chosen by other groups. start: adapter to go on from. diameters: D10, D50, D90 of
    the labelled particles, pixels of the image. guided: settings of the mask generator; usual: its score threshold
    where no image can choose one. reasons: setting to why. settings: all that decides the result, JSON-ready.
    """

    sets: Mapping[str, SampleSet]
    folds: tuple[tuple[str, ...], ...]
    train: tuple[str, ...]
    choose: tuple[Held, ...]
    test: tuple[Held, ...]
    config: RunConfig
    start: Path | None
    diameters: tuple[float, float, float]
    particles: int
    guided: Mapping[str, Any]
    usual: float
    reasons: Mapping[str, str]
    settings: Mapping[str, Any]

    def place(self, held: Held) -> int:
        """Its position in its set."""
        return self.sets[held.part].ids.index(held.id)

    def sample(self, held: Held) -> Sample:
        """The image, decoded."""
        return self.sets[held.part][self.place(held)]

    def group(self, held: Held) -> str:
        """Its group, which images of another folder never share."""
        return f"{held.part}/{self.sets[held.part].groups[held.id]}"


def prepare(
    folder: str | Path, validation: str | Path | None = None, test: str | Path | None = None, *,
    start: str | None = None, rank: int | None = None, steps: int | None = None, learning_rate: float | None = None,
    batch_size: int = 4, crop: int | None = None, folds: int | None = None, seed: int = 0, model: str | None = None,
    checkpoint: str | None = None, device: str = "auto", mask: str = "auto", ignore: int | None = None,
    page: int | None = None, pixel_size: float | None = None, points: int | None = None,
) -> Plan:  # fmt: skip
    """Read the labelled folders (`list_folder`) and choose settings, each with its reason, and what measures.

    start: adapter to go on from, "none" for a fresh one of `rank`; None: the one that ships, if it does and fits the
    model. crop: pixels of a training window and of a tile. points: a side of a tile's grid. folds: of a
    cross-validation, in place of a split. mask, ignore, page, pixel_size: as `list_folder` says. Raises
    DataError for folders that cannot be used, two that share an image, or no particle in the first, and ValueError for
    settings.
    """
    for name, value in {"steps": steps, "rank": rank, "learning rate": learning_rate, "batch size": batch_size}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; give a number above 0.")
    if crop is not None and crop < LEAST_TILE:
        raise ValueError(f"crop is {crop}; give at least {LEAST_TILE} pixels.")
    places = {"folder": folder, "validation": validation, "test": test}
    reading = {"mask": mask, "ignore": ignore, "page": page, "pixel_size": pixel_size}
    sets = {part: _read(place, reading) for part, place in places.items() if place is not None}
    _require_apart(sets)
    diameters, particles, longest = particle_sizes(sets["folder"])
    if start is None:
        usual_base = model in (None, "lite") and checkpoint is None
        start = SHIPS if usual_base and (SHIPPED / f"{SHIPS}.safetensors").is_file() else "none"
    path = None if start == "none" else adapter_path(start)
    given: dict[str, Any] = {"rank": rank or RANK, "base_name": model or "lite"}
    if path is not None:
        given = read_adapter(path)[0]
    for name, asked, found in (("model", model, given["base_name"]), ("rank", rank, given["rank"])):
        if asked not in (None, found):
            raise ValueError(f"{name} is {asked}, and that of {start} is {found}; leave it out, or give --start none.")
    held, train_ids, choose, measured = _parts(sets, folds, seed)
    if not set(choose) & set(measured):
        choose = tuple(choose[int(place)] for place in np.linspace(0, len(choose) - 1, min(len(choose), MOST_CHOOSE)))
    number = steps or next((value for most, value in STEPS if len(train_ids) <= most), MOST_STEPS)
    side = crop or crop_size(diameters, longest)
    quick = path is None and number <= FEW_STEPS
    rate = learning_rate or (FAST if quick else RATE)
    config = RunConfig(
        data=sets["folder"].name, checkpoint=checkpoint, steps=number, crop_size=side, batch_size=batch_size,
        learning_rate=rate, seed=seed, device=device, model=given["base_name"], rank=given["rank"],
        **{key: given[key] for key in OF_START if key in given},
        virtual_size=number * batch_size,  # no view is shown twice
        # the last state is kept: to choose one by a handful of images, most of them shown smaller than the windows
        # that train, is to choose by noise
        validate_every=number,
    )  # fmt: skip
    shares = ", ".join(f"{diameter / side:.0%}" for diameter in diameters)
    reasons = {
        "start": "a fresh adapter" if path is None else f"{path.name}, an adapter that training goes on from",
        "crop": f"{side} pixels, " + ("as asked, " if crop else "")
        + f"of which particles span {shares} (D10, D50, D90: {', '.join(f'{d:.0f}' for d in diameters)} pixels)",
        "steps": f"{number}, " + ("as asked" if steps else f"for {count(len(train_ids), 'training image')}"),
        "learning rate": f"{rate:g}, "
        + ("as asked" if learning_rate else "high, for few steps from nothing" if quick else "the usual one"),
        "batch size": f"{count(batch_size, 'window')} a step, and no view is shown twice",
    }  # fmt: skip
    guided = GUIDED_SETTINGS | ({} if path is None else way_of_asking(given, path).get("guided", {}))
    usual = float(guided.pop("score_thresh"))
    guided |= {} if points is None else {"points_per_side": points}
    settings = {key: value for key, value in config.to_dict().items() if key not in ("device", "data")} | {
        "start": start if path is None else f"{path.name} {_digest(path.read_bytes())}",
        "guided": guided, "folds": len(held), "lorasam": version("lorasam"),
        **{f"images of {part}": images.fingerprint for part, images in sets.items()},
        **{f"groups of {part}": _digest(str(sorted(images.groups.items())).encode()) for part, images in sets.items()},
    }  # fmt: skip
    return Plan(
        sets, held, train_ids, choose, measured, config, path, diameters, particles, guided, usual, reasons, settings
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _read(folder: str | Path, reading: Mapping[str, Any]) -> SampleSet:
    """The labelled images of a folder with any number of groups, every file read once."""
    records, notes = list_folder(folder, labelled_only=True, **reading)
    load = partial(_load, {record.id: record for record in records})
    groups = {record.id: record.group for record in records}
    whole = Split(tuple(groups), (), ())
    return SampleSet(Path(folder).resolve().name, str(folder), groups, load, whole, notes).check()


def _load(records: dict[str, Record], i: str) -> tuple[Sample, bool]:
    """A sample without the rows of a data bar, which is neither particle nor background, as `lorasam segment` asks."""
    sample, binary = read_record(records[i])
    end = len(sample.image) - unlabelled_bar(sample.image, sample.labels)
    return replace(sample, image=sample.image[:end], labels=sample.labels[:end]), binary


def _require_apart(sets: Mapping[str, SampleSet]) -> None:
    """Raise DataError where two folders share an image, whatever its labels."""
    seen: dict[bytes, Held] = {}
    for part, images in sets.items() if len(sets) > 1 else ():
        for i, sample in zip(images.ids, images, strict=True):
            before = seen.setdefault(hashlib.sha256(sample.image.tobytes()).digest(), Held(part, i))
            if before.part != part:
                there, here = sets[before.part].source, images.source
                raise DataError(f"{i} of {here} is {before.id} of {there} too; keep it in one, or nothing is measured.")


def particle_sizes(images: SampleSet) -> tuple[tuple[float, float, float], int, int]:
    """D10, D50, D90 of the discs of equal area, pixels; the number of particles; the longest side, a multiple of 32."""
    areas = np.concatenate([np.bincount(sample.labels.ravel())[1:] for sample in images])
    areas = areas[areas > 0]
    if not len(areas):
        raise DataError(f"{images.source} has no labelled particle; label some, in one image at least.")
    d10, d50, d90 = np.percentile(np.sqrt(4 * areas / np.pi), (10, 50, 90))
    longest = max(max(sample.shape) for sample in images)
    return (float(d10), float(d50), float(d90)), len(areas), max(LEAST_TILE, -(-longest // 32) * 32)


def crop_size(diameters: tuple[float, float, float], longest: int) -> int:
    """Side of a training window, pixels, a multiple of 32: small enough to show the small particles (D10, D50, D90) to
    the model and large enough for the large ones, from LEAST_CROP to the longest side of the images.
    """
    d10, d50, d90 = diameters
    side = max(min(d10 / D10_SEEN, d50 / D50_SEEN), d90 / D90_SEEN)
    return int(np.clip(32 * round(side / 32), min(LEAST_CROP, longest), longest))


def _parts(
    sets: Mapping[str, SampleSet], folds: int | None, seed: int
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], tuple[Held, ...], tuple[Held, ...]]:
    """Ids held out in each fold, those that train the adapter, the images that choose thresholds, and that measure."""
    images = sets["folder"]
    ids, names = images.ids, sorted(set(images.groups.values()))
    other = {part: tuple(Held(part, i) for i in data.ids) for part, data in sets.items()}
    if folds is not None and "validation" in sets:
        raise ValueError("with a validation folder there is no cross-validation; leave out --folds or --validation.")
    if folds is not None and not 2 <= folds <= len(names):
        raise ValueError(f"folds is {folds}, and {images.source} has {count(len(names), 'group')}; give 2 to as many.")
    if "validation" in sets:
        return (), ids, other["validation"], other.get("test", other["validation"])
    if len(names) == 1:
        return (), ids, (), other.get("test", ())
    if folds is None and len(names) >= SPLIT_GROUPS:
        split = split_by_group(images.groups, (8, 2, 0) if "test" in sets else (7, 2, 1), seed)
        choose, measured = (tuple(Held("folder", i) for i in part) for part in (split.val, split.test))
        return (), split.train, choose, other.get("test", measured)
    order = np.random.default_rng(seed).permutation(names)
    parts = [set(part) for part in np.array_split(order, folds or min(FOLDS, len(names)))]
    held = tuple(tuple(i for i in ids if images.groups[i] in part) for part in parts)
    return held, ids, other["folder"], other.get("test", other["folder"])


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


LIMITS = {  # what the numbers can and cannot say
    "one image": "The image is of one group, so that nothing is held out: how good the adapter is on other images is "
    "not known. Label one of another specimen, or give --test.",
    "one group": "All images are of one group, so that nothing is held out: how good the adapter is on other images is "
    "not known. Label one of another specimen, or give --test.",
    "apart": "Measured on {asked} that took no part in training and chose no threshold.",
    "folds": "Measured by cross-validation on {asked}: each is asked of an adapter that was trained without its fold, "
    "one of {folds}. The adapter that is written is trained on all of them and was not measured.",
    "validation": "Measured on {asked} of the validation folder, which took no part in training.",
    "others choose": "The threshold of each group was chosen by the other groups; that of the adapter by all of them.",
    "none chooses": "No image is left to choose the score threshold, which stays at {usual:g}.",
    "few groups": "{groups} can give no interval: differences may be chance.",
    "files": "Each file counts as a group: where several show one specimen, groups.csv must say so, or the numbers are "
    "too good.",
}


def limits(plan: Plan) -> list[str]:
    """The sentences of LIMITS that hold for a plan, and the notes of its folders."""
    images, groups = plan.sets["folder"], {plan.group(held) for held in plan.test}
    both = bool(set(plan.test) & set(plan.choose))
    apart = "test" in plan.sets or not both
    holds = {
        "one image": not plan.test and len(images) == 1, "one group": not plan.test and len(images) > 1,
        "apart": bool(plan.test) and apart, "folds": bool(plan.test) and not apart and bool(plan.folds),
        "validation": bool(plan.test) and not apart and not plan.folds,
        "others choose": both, "none chooses": not plan.choose, "few groups": 0 < len(groups) < INTERVAL_GROUPS,
        "files": len(images) > 1 and all(i == group for i, group in images.groups.items()),
    }  # fmt: skip
    number = count(len(groups), "group")
    facts = {"asked": f"{count(len(plan.test), 'image')} in {number}", "groups": number, "folds": len(plan.folds)}
    said = [sentence.format(**facts, usual=plan.usual) for name, sentence in LIMITS.items() if holds[name]]
    return [*said, *(note for data in plan.sets.values() for note in data.notes)]
