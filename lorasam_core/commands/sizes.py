"""lorasam sizes: size distributions of masks, with intervals and border correction; one sample, or two compared."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.data.label_files import MASKS
from lorasam_core.data.sample import DataError
from lorasam_core.measure import sizes
from lorasam_core.measure.folder import distributions, measure_folder


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam sizes", description=__doc__)
    command.add_argument("place", type=Path, metavar="PLACE", help="what lorasam segment wrote, or label files")
    command.add_argument("second", type=Path, nargs="?", metavar="PLACE2", help="a sample to compare the first with")
    command.add_argument("--out", type=Path, help="folder for tables and figure (default: sizes/ in PLACE)")
    command.add_argument("--pixel-size", type=float, metavar="NM",
                         help="nm a pixel of all; else from pixel_size.csv, the segment run or the images")  # fmt: skip
    command.add_argument("--weight", choices=tuple(sizes.POWERS), default="number",
                         help="what a particle counts for; volume is what laser diffraction reports")  # fmt: skip
    command.add_argument("--no-border-correction", action="store_true",
                         help="leave cut particles out without weighting the others for it")  # fmt: skip
    command.add_argument("--precision", type=float, default=5.0, metavar="PERCENT", help="precision wanted of D50")
    labels = command.add_argument_group("labels that can be read in two ways")
    labels.add_argument("--mask", choices=MASKS, default="auto", help="which of two values is particle")
    labels.add_argument("--ignore", type=int, metavar="VALUE", help="a value of the labels that is background")
    labels.add_argument("--page", type=int, help="page to read, from 1, where a file holds several")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Raises ValueError for labels, scales and options that cannot be used."""
    args = parser().parse_args(arguments)
    if not args.precision > 0:
        raise ValueError(f"--precision is {args.precision}; give per cent above 0.")
    asked: dict[str, Any] = {"weight": args.weight, "border_correction": not args.no_border_correction}
    places = [place for place in (args.place, args.second) if place]
    same = len({place.resolve().name for place in places}) < len(places)
    found = {
        str(place) if same else place.resolve().name: measure_folder(
            place, args.pixel_size, mask=args.mask, ignore=args.ignore, page=args.page
        )
        for place in places
    }
    tables = {name: pd.concat(parts.values(), ignore_index=True) for name, parts in found.items()}
    rows = pd.concat([distributions(parts, **asked).assign(sample=name) for name, parts in found.items()])
    if rows["unit"].nunique() > 1:
        raise DataError(f"{places[0]} and {places[1]} are not both in nm; give --pixel-size, or both of them a scale.")
    out = args.out or (args.place if args.place.is_dir() else args.place.parent) / "sizes"
    out.mkdir(parents=True, exist_ok=True)
    pd.concat([table.assign(sample=name) for name, table in tables.items()]).to_csv(out / "sizes.csv", index=False)
    rows.to_csv(out / "distribution.csv", index=False)
    _draw(tables, str(rows["unit"].iloc[0]), out, **asked)
    for name, table in tables.items():
        _report(name, rows[rows["sample"] == name], table, args.precision / 100)
    if len(tables) > 1:
        _compare(*tables.values(), **asked)
    print(f"{out}: sizes.csv, distribution.csv, distribution.png, distribution.svg")


def _draw(tables: Mapping[str, pd.DataFrame], unit: str, out: Path, weight: str, border_correction: bool) -> None:
    from lorasam_core import charts, plots  # they import matplotlib, which takes a second

    shown, counts = {}, {}
    for name, table in tables.items():
        whole = table[~table["touches_border"].astype(bool)]
        shown[name] = whole["equivalent_diameter"].to_numpy(float)
        counts[name] = sizes.size_weights(whole, weight, border_correction)
    for suffix in ("png", "svg"):
        plots.save(charts.size_plot(shown, unit, counts, weight), out / f"distribution.{suffix}")


def _report(name: str, rows: pd.DataFrame, table: pd.DataFrame, precision: float) -> None:
    """Print the row of a whole sample, and whether D50 is as precise as it is wanted."""
    row, images = rows.iloc[-1], rows["image"].iloc[:-1]
    print(
        f"{name}: {row['count']:,} whole particles in {len(images):,} images; {row['cut']:,} cut by the edge left out"
    )
    if not row["count"]:
        return
    by, unit = sizes.readable_unit(row["D50"], row["unit"])
    corrected = ", corrected for those that were cut" if row["border_correction"] else ""
    drawn = "images" if (rows["count"].iloc[:-1] > 0).sum() >= sizes.FEW_IMAGES else "particles"
    print(f"  equivalent diameter, {unit}, by {row['weight']}{corrected}; 95 % intervals over {drawn}")
    for figure in sizes.FIGURES:
        value, low, high = row[[figure, f"{figure}_low", f"{figure}_high"]] / (1 if figure == "span" else by)
        print(f"  {figure:4} {value:10.4g}  [{low:.4g}, {high:.4g}]")
    if row["count"] < 2:
        return
    half = max(row["D50_high"] - row["D50"], row["D50"] - row["D50_low"]) / row["D50"]
    needed = float(f"{max(1, row['count'] * (half / precision) ** 2):.2g}")  # intervals shrink with the number's root
    deviation = sizes.geometric_deviation(table, row["border_correction"])
    iso = sizes.particles_needed(deviation, precision, row["weight"])
    print(
        f"  D50 to {100 * precision:g} % needs about {needed:,.0f} particles like these: "
        f"{'enough' if half <= precision else 'too few'} are there, which reach {100 * half:.2g} %.\n"
        f"  ISO 13322-1 asks for {iso:,} where a log-normal distribution is fitted, of geometric standard deviation "
        f"{deviation:.3g} as here."
    )


def _compare(first: pd.DataFrame, second: pd.DataFrame, **asked: Any) -> None:
    found = sizes.compare_sizes(first, second, **asked)
    by, unit = sizes.readable_unit(float(first["equivalent_diameter"].median()), str(found["unit"]))
    change, low, high = (float(found[name]) / by for name in ("difference", "low", "high"))
    print(
        f"second minus first: D50 {change:+.4g} {unit} [{low:+.4g}, {high:+.4g}]; p = {found['p']:.2g} by Kolmogorov "
        "and Smirnov, number-weighted, particles taken for independent"
    )
