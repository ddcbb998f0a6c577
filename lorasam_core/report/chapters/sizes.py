"""Particle sizes, predicted against true: the error on what people measure. Imports no torch.

D10, D50 and D90 are number-weighted quantiles of the equivalent diameter. Particles that the edge of an image cuts
are left out on both sides, as in `particles.size_distribution`: their size is not known. Errors are relative and taken
image by image. What is pooled over images is first divided by the true D50 of its image: lengths in nm and in pixels
have no common unit, and the spread of magnifications would hide the error of the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from lorasam_core.config import UNRATED
from lorasam_core.experiments.records import Record
from lorasam_core.measure.sizes import size_distribution
from lorasam_core.report.tables import run_ids, shown
from lorasam_core.stats import bootstrap_interval

QUANTITIES = ("D10", "D50", "D90", "mean", "count")
NAMES = {"mean": "mean diameter", "count": "number of particles"}
DISTANCES = {"wasserstein": "Wasserstein distance / true mean diameter", "ks": "Kolmogorov-Smirnov distance"}
Series = Mapping[str, Sequence[Record]]  # frozen and adapted, each one run a seed


def particle_table(record: Record, tuned: bool = False) -> pd.DataFrame:
    """The particles of a run's test images; tuned: of the masks under thresholds chosen on validation images, which
    for what has no mask generator are all that it finds. Empty where the run did not keep them.
    """
    return record.table("tuned_particles" if tuned and record.config.method not in UNRATED else "particles")


def measured(records: Sequence[Record], tuned: bool = False) -> list[Record]:
    """The runs that kept particle sizes (`particle_table`)."""
    return [record for record in records if len(particle_table(record, tuned))]


def image_sizes(records: Sequence[Record], tuned: bool = False) -> pd.DataFrame:
    """One row a run and test image: run, id, group, unit (nm or px), each of QUANTITIES as NAME_predicted and
    NAME_true, and the DISTANCES between the two distributions. NaN where an image has no particle to measure.
    tuned: as in `particle_table`.
    """
    rows = []
    for record in records:
        found = particle_table(record, tuned)
        for (i, group), particles in found.groupby(["id", "group"], sort=False) if len(found) else ():
            rows.append({"run": record.run_id, "id": i, "group": group} | compare(particles))
    pairs = [f"{name}_{source}" for name in QUANTITIES for source in ("predicted", "true")]
    return pd.DataFrame(rows, columns=["run", "id", "group", "unit", *pairs, *DISTANCES])


def compare(particles: pd.DataFrame) -> dict[str, float | str]:
    """Predicted against true sizes of one image, as the columns of `image_sizes` from `unit` on.

    particles: columns source (predicted, true), diameter, unit, touches_border. wasserstein: the mean distance that
    diameters would have to move, as a share of the true mean; ks: the largest gap between the cumulative curves.
    Raises ValueError for particles in different units.
    """
    row: dict[str, float | str] = {"unit": str(size_distribution(particles, column="diameter")["unit"])}
    whole = particles[~particles["touches_border"].astype(bool)]
    diameters = {}
    for source in ("predicted", "true"):
        diameters[source] = whole.loc[whole["source"] == source, "diameter"].to_numpy(float)
        figures = size_distribution(whole[whole["source"] == source], column="diameter")
        row |= {f"{name}_{source}": float(figures[name]) for name in QUANTITIES}
    return row | distances(diameters["predicted"], diameters["true"])


def distances(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """DISTANCES between two samples of diameters (N,) and (M,); NaN where one of them is empty."""
    if not len(predicted) or not len(true):
        return dict.fromkeys(DISTANCES, float("nan"))
    steps = np.concatenate([predicted, true])
    curves = [np.searchsorted(np.sort(sample), steps, side="right") / len(sample) for sample in (predicted, true)]
    gap = np.abs(curves[0] - curves[1]).max()  # scipy's test also makes a p-value, with warnings for few particles
    return {"wasserstein": float(wasserstein_distance(predicted, true) / true.mean()), "ks": float(gap)}


def image_errors(records: Sequence[Record], tuned: bool = False) -> pd.DataFrame:
    """Long table, one row a test image and quantity, the mean over the runs: id, group, quantity, error, size.

    error: (predicted - true) / true, NaN for a distance; size: its absolute value, or the distance. Only what could be
    measured: an image without a true particle has no relative error, one without a predicted particle no diameter.
    tuned: as in `particle_table`.
    """
    found = image_sizes(records, tuned)
    parts = []
    for name in (*QUANTITIES, *DISTANCES):
        if name in DISTANCES:
            error, size = pd.Series(np.nan, found.index), found[name].astype(float)
        else:
            true = found[f"{name}_true"].astype(float)
            error = (found[f"{name}_predicted"].astype(float) - true) / true.where(true > 0)
            size = error.abs()
        parts.append(found[["id", "group"]].assign(quantity=name, error=error, size=size))
    rows = pd.concat(parts).dropna(subset=["size"])
    return rows.groupby(["id", "group", "quantity"], sort=False)[["error", "size"]].mean().reset_index()


def size_errors(series: Series, tuned: bool = False) -> pd.DataFrame:
    """Long table, a row a quantity and series: quantity, series, error, error_low, error_high (mean and interval over
    groups), size, size_low, size_high (the same of the absolute error), half (its median), n, groups; and in the rows
    of `adapted` change, change_low, change_high: absolute error adapted - frozen on the change_n images in which both
    could be measured. Errors are 0 to 1. tuned: as in `particle_table`.
    """
    tables = {name: image_errors(records, tuned) for name, records in series.items()}
    rows = []
    for quantity in (*QUANTITIES, *DISTANCES):
        for name, table in tables.items():
            found = table[table["quantity"] == quantity]
            if found.empty:
                continue
            row = {"quantity": quantity, "series": name, "half": found["size"].median(), "n": len(found)}
            row |= _interval("error", found) | _interval("size", found) | {"groups": found["group"].nunique()}
            if name == "adapted" and "frozen" in tables:
                both = tables["frozen"].merge(found, on=["id", "group", "quantity"], suffixes=("_before", ""))
                row |= _interval("change", both.assign(change=both["size"] - both["size_before"]))
                row["change_n"] = len(both)
            rows.append(row)
    numbers = [f"{key}{end}" for key in ("error", "size", "change") for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["quantity", "series", *numbers, "change_n", "half", "n", "groups"])
    table.attrs.update(made_by="lorasam_core.report.chapters.sizes.size_errors", runs=run_ids(*series.values()))
    return table


def _interval(name: str, rows: pd.DataFrame) -> dict[str, float]:
    found = bootstrap_interval(rows[name].to_numpy(float), rows["group"].to_numpy())
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def error_table(errors: pd.DataFrame) -> pd.DataFrame:
    """`size_errors` as the reader sees them: a row a quantity and model, in % with intervals."""
    rows = [
        {
            "quantity": DISTANCES.get(row["quantity"], NAMES.get(row["quantity"], row["quantity"])),
            "model": row["series"],
            "mean error, %": shown(row["error"], row["error_low"], row["error_high"], sign=True),
            "mean absolute error, %": shown(row["size"], row["size_low"], row["size_high"]),
            "half of the images within, %": shown(row["half"]),
            "change of the absolute error, points": shown(
                row["change"], row["change_low"], row["change_high"], sign=True
            ),
            "images": str(row["n"]),
            "images of the change": f"{row['change_n']:.0f}" if np.isfinite(row["change_n"]) else "–",
        }
        for _, row in errors.iterrows()
    ]
    columns = [
        "quantity", "model", "mean error, %", "mean absolute error, %", "half of the images within, %",
        "change of the absolute error, points", "images", "images of the change",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    table.attrs.update(errors.attrs | {"made_by": "lorasam_core.report.chapters.sizes.error_table"})
    return table


def pooled(series: Series) -> dict[str, np.ndarray]:
    """Diameters of all test images together, each divided by the true D50 of its image: labels, then each series.

    Several runs of a series are put together. Images without a true particle to measure are left out.
    """
    out: dict[str, np.ndarray] = {}
    for name, records in series.items():
        parts = []
        for record in records:
            found = record.table("particles")
            if found.empty:
                continue
            found = found[~found["touches_border"].astype(bool)]
            true = found[found["source"] == "true"]
            scale = found["id"].map(true.groupby("id")["diameter"].median())
            found = found.assign(relative=found["diameter"] / scale).dropna(subset=["relative"])
            out.setdefault("labels", found.loc[found["source"] == "true", "relative"].to_numpy(float))
            parts.append(found.loc[found["source"] == "predicted", "relative"].to_numpy(float))
        if parts:
            out[name] = np.concatenate(parts)
    return out


def pooled_rows(series: Series) -> pd.DataFrame:
    """Of the `pooled` diameters: series, count (a run), D10, D50, D90, mean (in true D50), DISTANCES to the labels."""
    found, rows = pooled(series), []
    for name, sizes in found.items():
        seeds = len(measured(series.get(name, ()))) or 1
        quantiles = np.percentile(sizes, (10, 50, 90)) if len(sizes) else np.full(3, np.nan)
        row = {"series": name, "count": len(sizes) / seeds} | dict(zip(("D10", "D50", "D90"), quantiles, strict=True))
        row["mean"] = sizes.mean() if len(sizes) else float("nan")
        rows.append(row | ({} if name == "labels" else distances(sizes, found["labels"])))
    table = pd.DataFrame(rows, columns=["series", "count", "D10", "D50", "D90", "mean", *DISTANCES])
    table.attrs.update(made_by="lorasam_core.report.chapters.sizes.pooled_rows", runs=run_ids(*series.values()))
    return table


def pooled_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`pooled_rows` as the reader sees them."""
    table = pd.DataFrame({"particles": rows["series"], "number": [f"{v:,.0f}" for v in rows["count"]]})
    for name in ("D10", "D50", "D90", "mean", *DISTANCES):
        table[DISTANCES.get(name, name)] = [f"{v:.2f}" if np.isfinite(v) else "–" for v in rows[name].astype(float)]
    table.attrs.update(rows.attrs | {"made_by": "lorasam_core.report.chapters.sizes.pooled_table"})
    return table


def percentiles(series: Series) -> pd.DataFrame:
    """The cumulative curves of the `pooled` diameters: series, percent (1 to 99), diameter (in true D50)."""
    percent = np.arange(1, 100)
    parts = [
        pd.DataFrame({"series": name, "percent": percent, "diameter": np.percentile(sizes, percent)})
        for name, sizes in pooled(series).items()
        if len(sizes)
    ]
    table = pd.concat(parts) if parts else pd.DataFrame({"series": [], "percent": [], "diameter": []})
    table.attrs.update(made_by="lorasam_core.report.chapters.sizes.percentiles", runs=run_ids(*series.values()))
    return table


def agreement(series: Series, quantity: str = "D50") -> pd.DataFrame:
    """One row a series and test image: series, id, unit, true, predicted (the mean over runs) of one quantity."""
    parts = []
    for name, records in series.items():
        columns = {f"{quantity}_true": "true", f"{quantity}_predicted": "predicted"}
        found = image_sizes(records).rename(columns=columns).dropna(subset=["true", "predicted"])
        means = found.astype({"true": float, "predicted": float}).groupby(["id", "unit"], sort=False)
        if len(found):
            parts.append(means[["true", "predicted"]].mean().reset_index().assign(series=name))
    names = ["series", "id", "unit", "true", "predicted"]
    table = pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)
    table.attrs.update(made_by="lorasam_core.report.chapters.sizes.agreement", runs=run_ids(*series.values()))
    return table
