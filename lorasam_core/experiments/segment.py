"""A folder of micrographs in; masks, overlays and tables of particles out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skimage.io import imsave

from lorasam_core import plots
from lorasam_core.data.databar import cropped
from lorasam_core.data.readers import read_image
from lorasam_core.data.sample import DataError
from lorasam_core.data.scale import Scale, scale_of
from lorasam_core.errors import out_of_memory
from lorasam_core.experiments.executor import execute
from lorasam_core.experiments.files import read_json, write_json
from lorasam_core.experiments.outputs import ANEW, RUN, alone, begin, replace, sha256, write_labels
from lorasam_core.masks.segmenter import RATINGS
from lorasam_core.masks.tiles import Found
from lorasam_core.measure import sizes
from lorasam_core.models.devices import environment

SUMMARY = [
    "image", "file", "particles", "at_border", "coverage", "D10", "D50", "D90", "unit", "pixel_size", "pixel_size_from",
    "height", "width", "data_bar", "seconds", "sha256", "problem",
]  # fmt: skip


@dataclass(frozen=True)
class Filters:
    """Which particles are kept. Diameters: of the disc of equal area, in pixels, or with `nm` in nm; border: keep those
    that the image's edge cuts; largest_share: of the image, a particle that covers more is its background.
    """

    min_diameter: float | None = None
    max_diameter: float | None = None
    nm: bool = False
    min_circularity: float = 0.0
    border: bool = True
    largest_share: float = 0.5

    def keep(self, table: pd.DataFrame, scale: Scale | None, pixels: int) -> pd.Series:
        """Of a table in pixels which rows stay, bool; `pixels`: those of the image."""
        diameter = table["equivalent_diameter"] * (scale.nm if self.nm and scale else 1.0)
        kept = (table["circularity"] >= self.min_circularity) & (table["area"] <= self.largest_share * pixels)
        kept &= diameter.between(self.min_diameter or 0, self.max_diameter or np.inf)
        return kept if self.border else kept & ~table["touches_border"]


@dataclass(frozen=True)
class Reading:
    """How the images are read: rows of the data bar, nm a pixel of all, of each by its id, page of a TIFF."""

    crop_bottom: str | int = "auto"
    pixel_size: float | None = None
    pixel_sizes: Mapping[str, float] | None = None
    page: int | None = None


READING, FILTERS = Reading(), Filters()


def segment_folder(
    files: Mapping[str, Path], out: str | Path, segment: Callable[[np.ndarray], Found], described: Mapping[str, Any],
    reading: Reading = READING, filters: Filters = FILTERS, workers: int = 1, scheduler: str = "",
) -> pd.DataFrame:  # fmt: skip
    """Segment images by id; returns summary.csv, a row an image.

    segment: image -> `Found` with the columns RATINGS, such as a `masks.segmenter.Segmenter`; where others than this
    process are to work, `masks.segmenter.anywhere`. described: what it is, JSON-ready. workers, scheduler: as
    `executor.execute` takes them; the results are the same. Writes into `out`: labels/ID.tif (uint16, from 65,536
    particles on uint32; of the size of the image, rows of a data bar empty), overlays/ID.png, particles.csv (a row a
    particle), summary.csv, run.json. Lengths are in nm where every image has a scale, else in pixels.

    What was done stays done: called again with the same settings it goes on, and does an image whose file changed
    anew. An image that cannot be used is named in the summary's column `problem`, and the others are done.
    Raises ValueError where `out` holds results of other settings or images, or another process writes there.
    """
    out = Path(out)
    settings = {
        "model": described, "filters": asdict(filters), "lorasam": version("lorasam"),
        "reading": {name: getattr(reading, name) for name in ("crop_bottom", "page", "pixel_size")},
    }  # fmt: skip
    with alone(out):
        state = out / "state"
        whole = (p.relative_to(state) for p in state.rglob("*.json") if not p.name.startswith("."))
        done = sorted(p.as_posix().removesuffix(".json") for p in whole)
        if not done:  # nothing that other settings could disagree with
            (out / RUN).unlink(missing_ok=True)
        if others := [i for i in done if i not in files]:
            raise ValueError(f"{out} holds results of other images ({others[0]}); choose another folder.")
        begin(out, settings, environment=environment(), begun=_now())
        for name in ("labels", "overlays", "state"):
            (out / name).mkdir(exist_ok=True)
        jobs = [(i, (i, Path(path), out, segment, reading, filters)) for i, path in files.items()]
        rows = execute(_one, jobs, workers, scheduler, unit="image", stops=True)[0]
        summary = _tables([rows[i] for i in files], out)
        begun = read_json(out / RUN, ANEW)
        named = ["image", "file", "sha256", "pixel_size", "pixel_size_from", "data_bar"]
        images = summary[named].astype(object).where(summary[named].notna(), None).to_dict("records")
        write_json(out / RUN, begun | {"finished": _now(), "images": images})
    return summary


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one(
    i: str, path: Path, out: Path, segment: Callable[[np.ndarray], Found], reading: Reading, filters: Filters
) -> dict[str, Any]:
    """Do one image unless it is done: its masks first, its state last, which one that fails has not. Its summary."""
    state, begun = out / "state" / f"{i}.json", time.perf_counter()
    row: dict[str, Any] = {"image": i, "file": str(path), "sha256": "", "problem": ""}
    labels_file, overlay = out / "labels" / f"{i}.tif", out / "overlays" / f"{i}.png"
    for file in (state, labels_file, overlay):  # an id may hold the folders of its image
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        scale = scale_of(path, reading.pixel_size, reading.pixel_sizes, id=i)
        row |= {"sha256": sha256(path), "pixel_size": scale and scale.nm, "pixel_size_from": scale and scale.source}
        before = _done(state)
        if before and all(before.get(key) == row[key] for key in ("sha256", "pixel_size")) and labels_file.exists():
            return before
        if filters.nm and scale is None:
            raise DataError(f"{path} has no scale, which diameters in nm need; give --pixel-size, or pixels.")
        image = read_image(path, page=reading.page)
        part, bottom = _without_bar(image, reading.crop_bottom, path)
        labels, particles = _kept(segment(part), part, scale, filters)
        labels = np.pad(labels, ((0, bottom), (0, 0)))
        write_labels(labels_file, labels)
        picture = plots.outlines(image, labels)
        replace(overlay, lambda to: imsave(to, picture, check_contrast=False))
        row |= {
            "height": image.shape[0], "width": image.shape[1], "data_bar": bottom, "particles": len(particles),
            "at_border": int(particles["touches_border"].sum()), "coverage": float((labels > 0).mean()),
            "seconds": round(time.perf_counter() - begun, 2),
        }  # fmt: skip
        write_json(state, {"summary": row, "particles": particles.to_dict("list")})
        return row
    except ValueError as error:
        row["problem"] = str(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        row["problem"] = f"{path} needs more memory than there is; give a smaller --tile, or --device cpu."
    except OSError:
        if path.is_file():
            raise
        row["problem"] = f"{path} is gone; put it back, or leave it out."
    for path in (state, labels_file, overlay):  # of the file as it was before
        path.unlink(missing_ok=True)
    return row


def _done(state: Path) -> dict[str, Any]:
    """The summary of an image that is done; empty where there is none, or its file is damaged: it is done again."""
    try:
        found = read_json(state)
        summary, table = found["summary"], pd.DataFrame(found["particles"])
        numbers = table.drop(columns="unit").select_dtypes(["number", "bool"]) if len(table) else table
        texts = [summary[name] for name in ("image", "file", "sha256", "problem")]
        counts = [summary[name] for name in ("particles", "at_border", "height", "width", "data_bar")]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}
    whole = {*sizes.COLUMNS, *RATINGS, "mean_grey"} <= {*table} and numbers.shape[1] >= table.shape[1] - 1
    typed = all(type(text) is str for text in texts) and all(type(count) is int for count in counts)
    return summary if whole and typed and len(table) == summary["particles"] else {}


def _without_bar(image: np.ndarray, bottom: str | int, path: Path) -> tuple[np.ndarray, int]:
    try:
        return cropped(image, bottom)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _kept(found: Found, image: np.ndarray, scale: Scale | None, filters: Filters) -> tuple[np.ndarray, pd.DataFrame]:
    """Labels and table, in pixels, of the particles that the filters keep, numbered from 1."""
    table = sizes.measure(found.labels, image=image)
    table[list(RATINGS)] = found.scores[table["label"] - 1]
    table = table[filters.keep(table, scale, found.labels.size)].reset_index(drop=True)
    numbers = np.zeros(len(found.scores) + 1, np.int64)
    numbers[table["label"]] = np.arange(1, len(table) + 1)
    return numbers[found.labels], table.assign(label=np.arange(1, len(table) + 1))


def _tables(rows: list[dict[str, Any]], out: Path) -> pd.DataFrame:
    """Write particles.csv, an image at a time, and summary.csv; returns the latter."""
    done = [row for row in rows if not row["problem"]]
    scaled = all(row["pixel_size"] for row in done)
    measured = sizes.measure(np.zeros((1, 1), int), image=np.zeros((1, 1), np.uint8))
    columns = ["image", *measured.columns, *RATINGS, "pixel_size"]

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            pd.DataFrame(columns=columns).to_csv(file, index=False)
            for row in done:
                state = read_json(out / "state" / f"{row['image']}.json")
                table = pd.DataFrame(state["particles"])
                table = sizes.in_nm(table, row["pixel_size"]) if scaled else table
                found = sizes.size_distribution(table)
                row |= {name: found[name] for name in ("D10", "D50", "D90")} | {"unit": "nm" if scaled else "px"}
                table = table.assign(image=row["image"], pixel_size=row["pixel_size"])
                table[columns].to_csv(file, header=False, index=False)

    replace(out / "particles.csv", write)
    summary = pd.DataFrame(rows).reindex(columns=SUMMARY)
    replace(out / "summary.csv", lambda to: summary.to_csv(to, index=False))
    return summary
