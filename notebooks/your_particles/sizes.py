# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Size distributions
#
# **How large are the particles, and how sure is that?** From masks to D10, D50 and D90 in nm, by number and by volume,
# with intervals, corrected for the particles that the edge of an image cuts. As it stands this page measures the
# labels of the demonstration of [look](look.ipynb) and, beside them, what the base model finds in the same images. With
# your masks, here or on the command line:
#
# ```bash
# lorasam sizes masks                      # what lorasam segment wrote, or a folder of label images
# lorasam sizes masks-a masks-b            # two samples, compared
# ```

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
folder: str = ""  # of masks: output of segment, or of label images; "": a demonstration is made
second: str = ""  # of masks to compare with; "": none, or what the model finds in the demonstration
pixel_size: float = 0.0  # nm a pixel; 0: from pixel_size.csv, the output of segment, or the images
points: int = 32  # along a side of the grid, where the demonstration is segmented

# %%
import pandas as pd

from lorasam_core import charts, experiments
from lorasam_core.data.demo import write_demo
from lorasam_core.experiments.records import read_edition, root
from lorasam_core.report import page as report

place = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "sizes", place, data)
page = report.Page(read_edition(place), "your_particles/sizes")
page.banner()
own = page.folder / "your-particles"
samples = {"particles": root() / folder} if folder else {"labels": write_demo(own / "demo")}

# %%
if second:
    samples["second"] = root() / second
elif not folder:
    from lorasam_core.cli import main

    samples["found"] = own / f"masks-of-{points}-points"
    main(["segment", str(own / "demo"), "--out", str(samples["found"]), "--points", str(points)])

# %% [markdown]
# ## One row a particle
#
# The equivalent diameter is that of a disc of equal area. Feret diameters are the largest distance and the smallest
# width of the outline's convex hull; circularity is 1 for a disc.

# %%
from lorasam_core.measure.folder import distributions, measure_folder

tables = {name: measure_folder(place, pixel_size or None) for name, place in samples.items()}
every = pd.concat([t.assign(sample=name) for name, parts in tables.items() for t in parts.values()])
columns = ["image", "label", "equivalent_diameter", "feret_max", "circularity", "touches_border", "unit"]
shown = every[columns].head(6).round({"equivalent_diameter": 1, "feret_max": 1, "circularity": 2})
caption = "The first particles; lengths in nm where the images have a scale, else in pixels. The data hold more."
page.table(shown.rename(columns=lambda name: name.replace("_", " ")), "your-sizes", caption, data=every)

# %% [markdown]
# ## The distribution
#
# A particle that the edge cuts has no known size and is left out. That favours small ones, for a large particle is cut
# more often; with the Miles-Lantuéjoul correction each whole particle counts for those of its size that were cut.
# By volume, which laser diffraction reports, a few large particles decide, and intervals are wide.

# %%
rows = []
for name, parts in tables.items():
    for weight in ("number", "volume"):
        whole = distributions(parts, weight, border_correction=True).iloc[-1]
        rows.append({"sample": name, **whole})
summary = pd.DataFrame(rows)

# %%
from lorasam_core.measure.sizes import readable_unit

shown = summary[["sample", "weight", "count", "cut"]].copy()
by, unit = readable_unit(summary["D50"].median(), summary["unit"].iloc[0])
for name in ("D10", "D50", "D90"):
    low, high = summary[f"{name}_low"] / by, summary[f"{name}_high"] / by
    shown[f"{name}, {unit}"] = [f"{v:.3g} [{a:.3g}, {b:.3g}]" for v, a, b in zip(summary[name] / by, low, high)]
shown["span"] = summary["span"].round(2)
caption = "Whole particles, those that were cut, and diameters with 95 % intervals over images or, of few, particles."
page.table(shown, "your-distribution", caption, data=summary)

# %%
from lorasam_core.measure.sizes import size_weights

drawn, weights = {}, {}
for name, parts in tables.items():
    table = pd.concat(parts.values())
    table = table[~table["touches_border"]]
    drawn[name] = table["equivalent_diameter"].to_numpy()
    weights[name] = size_weights(table, "number", border_correction=True)
caption = "Left, the share of particles smaller than a diameter, with D10, D50 and D90; right, the share of each class."
alt = "Cumulative curves of equivalent diameters, and histograms of the same samples."
figure = charts.size_plot(drawn, summary["unit"].iloc[0], weights)
page.figure(figure, "your-size-curves", caption, alt, data=every)

# %% [markdown]
# An interval says what other images of the same powder would change. It says nothing about what the model misses: if
# small particles are overlooked everywhere, every image agrees, and the interval is narrow around a wrong value. Label
# two or three images by hand and put them beside the model's, as here.
#
# ## How many particles are enough?

# %%
from lorasam_core.measure.sizes import geometric_deviation, particles_needed

rows = []
for name, parts in tables.items():
    spread = geometric_deviation(pd.concat(parts.values()), border_correction=True)
    needed = {f"D50 to {p} %": particles_needed(spread, p / 100) for p in (10, 5, 2)}
    rows.append({"sample": name, "geometric standard deviation": round(spread, 2), **needed})
caption = "Particles that a precision needs in 95 of 100 samples, were the distribution log-normal (ISO 13322-1)."
page.table(pd.DataFrame(rows), "particles-needed", caption)

# %% [markdown]
# ## Are the two samples different?

# %%
from lorasam_core.measure.sizes import compare_sizes

both = [pd.concat(parts.values(), ignore_index=True) for parts in tables.values()]
found = compare_sizes(*both, border_correction=True) if len(both) == 2 else {}
pd.Series({name: value if name == "unit" else f"{value:.3g}" for name, value in found.items()}, dtype=object)

# %% [markdown]
# `difference` is the second D50 minus the first, with its 95 % interval from `low` to `high`; `ks` and `p` are
# Kolmogorov and Smirnov's, which take particles for independent and so find too much where an image holds many alike.
