"""An adapter for one's own particles, from one labelled image on: trained, measured on images held out, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core.experiments import adapt_report
from lorasam_core.experiments.adapt_plan import Held, Plan
from lorasam_core.experiments.files import read_json, write_json
from lorasam_core.experiments.outputs import ANEW, alone, begin, replace
from lorasam_core.masks.picture import picture
from lorasam_core.masks.predictor import Autocast
from lorasam_core.masks.segmenter import WHOLE, Segmenter
from lorasam_core.masks.thresholds import THRESHOLDS, best_threshold, kept
from lorasam_core.masks.tiles import tile_boxes
from lorasam_core.measure import metrics
from lorasam_core.measure.evaluation import predict_foreground
from lorasam_core.measure.sizes import measure, size_distribution
from lorasam_core.models import devices
from lorasam_core.models.lora import add_lora, load_adapter, save_adapter
from lorasam_core.models.lora.files import SHIPPED
from lorasam_core.models.sam import load_sam
from lorasam_core.training import checkpoint, trainable
from lorasam_core.training.loop import train

COLUMNS = ("model", "set", "id", "group", "threshold", *adapt_report.MEASURES, "found", "labelled")
GUESS = 4  # training images at most whose score the history shows


@dataclass(frozen=True)
class Adapted:
    """What came of a plan. rows: measured.csv, a row a model and image; scores are shares, not %. threshold: that of
    the adapter. answers: by model, a file for each image (npz: labels, scores, dice, ap50, and f1 by THRESHOLDS).
    minutes: of all trainings.
    """

    plan: Plan
    out: Path
    rows: pd.DataFrame
    threshold: float
    answers: Mapping[str, Mapping[Held, Path]]
    minutes: float

    @property
    def adapter(self) -> Path:
        """The file of the adapter."""
        return self.out / "adapter.safetensors"

    def labels(self, model: str, held: Held) -> np.ndarray:
        """Instances, int (H, W), that a model found under the threshold that it was measured with."""
        row = self.rows[(self.rows["model"] == model) & (self.rows["set"] == held.part) & (self.rows["id"] == held.id)]
        return _labels(self.answers[model][held], float(row["threshold"].iloc[0]))


def adapt(plan: Plan, out: str | Path, callbacks: Sequence[Any] = ()) -> Adapted:
    """Do what a plan says, and write adapter.safetensors, measured.csv and report.html into `out`.

    What was done stays done: called again with the same settings it goes on, on one CPU thread to the same bits.
    callbacks: as `training.loop.train`'s. Raises ValueError where `out` holds results of other settings or another
    process writes there, and for a model that does not load.
    """
    out = Path(out)
    state = out / "state"
    with alone(out):
        begin(out, plan.settings)
        state.mkdir(exist_ok=True)
        frozen = _frozen(plan, state / "frozen.safetensors")
        start = plan.start or frozen
        images = tuple(dict.fromkeys(plan.choose + plan.test))
        named = {"frozen": frozen}
        if plan.start is not None:
            named[plan.start.stem if plan.start.parent == SHIPPED else "start"] = plan.start
        answers = {name: _asked(plan, path, images, state / name) for name, path in named.items()}
        answers["adapted"] = {}
        for number, ids in enumerate(plan.folds, 1):
            fold, rest = state / f"fold-{number}", tuple(i for i in plan.train if i not in ids)
            path = _trained(plan, start, rest, fold, f"fold {number} of {len(plan.folds)}", callbacks)
            asked = [held for held in images if held.part == "folder" and held.id in ids]
            answers["adapted"] |= _asked(plan, path, asked, fold)
        final = _trained(plan, start, plan.train, state / "adapted", "adapter", callbacks)
        asked = [held for held in images if held not in answers["adapted"]]
        answers["adapted"] |= _asked(plan, final, asked, state / "adapted")
        result = measured(plan, out, answers)
        _write_adapter(result, final)
        result.rows.round(4).to_csv(out / "measured.csv", index=False)
        adapt_report.write(result, pd.read_csv(final.with_name("history.csv")), out / "report.html")
    return result


def _sam(plan: Plan, adapter: Path) -> Sam:
    sam = load_sam(
        plan.config.model, plan.config.checkpoint, plan.config.image_size, devices.resolve_device(plan.config.device)
    )
    load_adapter(sam, adapter)
    return sam


def _frozen(plan: Plan, path: Path) -> Path:
    """A fresh adapter, which leaves the model as it is: what the frozen model is asked by, and where training begins
    without one to go on from.
    """
    if not path.is_file():
        sam = load_sam(plan.config.model, plan.config.checkpoint, plan.config.image_size)
        torch.manual_seed(plan.config.seed)
        save_adapter(add_lora(sam, trainable.lora_config(plan.config)), path)
    return path


def _trained(plan: Plan, start: Path, ids: Sequence[str], folder: Path, name: str, callbacks: Sequence[Any]) -> Path:
    """The adapter that training on these images gives."""
    done = folder / "done.json"
    if not done.is_file():
        images = plan.sets["folder"].select(ids)
        shown = images.draw(min(GUESS, len(images)))  # nothing is chosen by their score, and what is held out stays so
        result = train(_sam(plan, start), images, shown, plan.config.replace(name=name), folder, callbacks)
        write_json(done, {key: result[key] for key in ("seconds", "steps")} | {"images": list(ids)})
        (folder / checkpoint.FILE).unlink(missing_ok=True)
    return folder / "adapter.safetensors"


def _asked(plan: Plan, adapter: Path, images: Sequence[Held], folder: Path) -> dict[Held, Path]:
    """A file for each image with what the adapted model makes of it, as `Adapted` says."""
    folder.mkdir(exist_ok=True)
    files = {held: folder / f"{held.part}-{plan.place(held):04d}.npz" for held in images}
    missing = [held for held, path in files.items() if not path.is_file()]
    if not missing:
        return files
    config = plan.config
    segmenter = Segmenter(
        str(adapter), checkpoint=config.checkpoint, device=config.device, tile=config.crop_size,
        score_thresh=THRESHOLDS[0], **plan.guided,
    )  # fmt: skip
    for held in tqdm(missing, f"ask {folder.name}", unit="image", disable=None):
        sample = plan.sample(held)
        found = segmenter(sample.image)
        f1 = [metrics.f1(kept(found.labels, found.scores[:, 0], t), sample.labels) for t in THRESHOLDS]
        ap50 = metrics.average_precision(found.labels, found.scores[:, 0], sample.labels)
        dice = metrics.dice(
            _foreground(segmenter.sam, sample.image, segmenter.side, segmenter.autocast), sample.labels > 0
        )
        answer: dict[str, Any] = {"labels": found.labels, "scores": found.scores[:, 0], "f1": f1, "ap50": ap50}
        replace(files[held], partial(np.savez_compressed, dice=dice, **answer))
    return files


def _foreground(sam: Sam, image: np.ndarray, side: int, autocast: Autocast = nullcontext) -> np.ndarray:
    """`predict_foreground`, bool (H, W), by the tiles in which a Segmenter looks; where two disagree, background."""
    ask = partial(predict_foreground, sam, autocast=autocast)
    if max(image.shape[:2]) <= WHOLE * side:
        return ask(image)
    height, width = image.shape[:2]
    votes: np.ndarray = np.zeros((height, width), np.int32)
    for y0, x0, y1, x1 in tile_boxes((height, width), side, side // 4):
        votes[y0:y1, x0:x1] += np.where(ask(image[y0:y1, x0:x1]), 1, -1)
    return votes > 0


def _labels(path: Path, threshold: float) -> np.ndarray:
    with np.load(path) as answer:
        return kept(answer["labels"], answer["scores"], threshold)


def measured(plan: Plan, out: Path, answers: Mapping[str, Mapping[Held, Path]]) -> Adapted:
    """Thresholds, none of them chosen by the group that it is applied to, and measures of what the models answered."""
    rows, thresholds = [], {}
    for model, files in answers.items():
        f1 = pd.DataFrame([_f1(plan, held, files[held]) for held in plan.choose], columns=["group", *THRESHOLDS])
        thresholds[model] = best_threshold(f1, plan.usual)
        for held in plan.test:
            threshold = best_threshold(f1, plan.usual, plan.group(held))
            rows.append({"model": model} | _row(plan, held, files[held], threshold))
    seconds = sum(float(read_json(done, ANEW)["seconds"]) for done in out.glob("state/*/done.json"))
    return Adapted(plan, out, pd.DataFrame(rows, columns=COLUMNS), thresholds["adapted"], answers, seconds / 60)


def _f1(plan: Plan, held: Held, path: Path) -> dict[Any, Any]:
    with np.load(path) as answer:
        return {"group": plan.group(held), **dict(zip(THRESHOLDS, answer["f1"].tolist(), strict=True))}


def _row(plan: Plan, held: Held, path: Path, threshold: float) -> dict[str, Any]:
    sample = plan.sample(held)
    found = _labels(path, threshold)
    d50, labelled = (size_distribution(measure(labels))["D50"] for labels in (found, sample.labels))
    with np.load(path) as answer:
        scores = {name: float(answer[name]) for name in ("dice", "ap50")}
    return {"set": held.part, "id": held.id, "group": plan.group(held), "threshold": threshold, **scores} | {
        "f1": metrics.f1(found, sample.labels), "d50_error": float(d50) / float(labelled) - 1,
        "found": np.count_nonzero(np.bincount(found.ravel())[1:]),
        "labelled": np.count_nonzero(np.bincount(sample.labels.ravel())[1:]),
    }  # fmt: skip


def _write_adapter(result: Adapted, trained: Path) -> None:
    """The trained adapter with what its use needs and where it comes from in its metadata."""
    plan, images = result.plan, result.plan.sets["folder"]
    sam = _sam(plan, trained)
    scale = sam.image_encoder.img_size / plan.config.crop_size
    d10, d50, d90 = (round(diameter * scale, 2) for diameter in plan.diameters)
    sizes = [sample.pixel_size for sample in images if sample.pixel_size is not None]
    segment = {
        "crop_size": plan.config.crop_size, "diameter": d50, "diameters": [d10, d50, d90],
        "guided": {**plan.guided, "score_thresh": result.threshold},
    }  # fmt: skip
    card = {
        "images": len(images), "groups": len(set(images.groups.values())), "particles": plan.particles,
        "pixel_size": [min(sizes), max(sizes)] if sizes else None, "start": plan.settings["start"],
        "settings": plan.settings, "measured": adapt_report.means(result.rows), "lorasam": plan.settings["lorasam"],
        "date": datetime.now(UTC).date().isoformat(), "data_fingerprint": images.fingerprint,
    }  # fmt: skip
    save_adapter(sam, result.adapter, segment=segment, card=card, picture=picture(sam))
