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
# # Sizes
#
# **How far off are the sizes?** Too far to measure with: whatever the model and its filters, only a minority of the
# test images have a D50 within 10 % of the labels', and adapting makes no detectable difference to that. Few people
# segment particles for their outlines; they want a size distribution: how large is the typical particle, how fine the
# finest tenth, how coarse the coarsest. This page takes those figures from the masks of the mask generator and from
# the labels of the same test images.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lorasam_core import plots, stats
from lorasam_core.config import DIVIDED
from lorasam_core.experiments import records
from lorasam_core.report import page as report

kept = records.read_edition(report.edition_folder(profile, edition, data))
page = report.Page(kept, "results/size_errors")
page.banner(written=True)

# %% [markdown]
# The frozen and the adapted model under two sets of filters: the runs' own, equal for both, and thresholds chosen on
# validation images for each model and seed ([failures](failures.ipynb)). Beside them, where it was measured, a
# watershed on Otsu's threshold, which learns nothing, and one on the foreground of a U-Net that learnt from the same
# images ([rivals](rivals.ipynb)). Neither has filters; they stand with the second set.

# %%
listed = kept.runs[kept.runs["experiment"].isin(["main", "rivals"])]
main = listed[(listed["experiment"] == "main") & listed["method"].isin(["frozen", "lora"])]
main = main.assign(model=main["method"].map({"frozen": "frozen", "lora": "adapted"}))
divided = listed[listed["method"].isin(DIVIDED)].drop_duplicates("run")
divided = divided.assign(model=divided["name"])
columns = ["run", "id", "group", "source", "diameter", "unit", "touches_border"]
own, tuned, guided = (
    kept.table(name).reindex(columns=columns) for name in ("particles", "tuned_particles", "guided_particles")
)
tuned = guided if len(guided) else tuned
particles = pd.concat([
    own.merge(main[["run", "model"]], on="run").assign(filters="own"),
    tuned.merge(main[["run", "model"]], on="run").assign(filters="by validation"),
    own.merge(divided[["run", "model"]], on="run").assign(filters="by validation"),
])  # fmt: skip

# %% [markdown]
# ## What is compared
#
# The size of a particle is its **equivalent diameter**, that of the disc of equal area. D10, D50 and D90 are the
# diameters that a tenth, half and nine tenths of the particles stay below, each particle counting once. Laser
# diffraction weights each by its volume: its D10, D50 and D90 answer another question.
#
# - **Particles that the edge of the image cuts are left out**, of labels and masks alike: their size is not known.
# - **Errors are relative, per image**, $(\text{found} - \text{labelled}) / \text{labelled}$, so that nm and pixels
#   compare.
# - **An image without a whole labelled particle** drops out. **An image in which no whole particle was found** has no
#   D50: it counts in the number of particles and as *not* within 10 %, and is missing from the errors of diameters.

# %%
whole = particles[~particles["touches_border"].astype(bool)].astype({"diameter": float})
keys = ["filters", "model", "run", "id", "group", "unit"]
labels, found = (
    whole[whole["source"] == source].groupby(keys, sort=False)["diameter"] for source in ("true", "predicted")
)
every = labels.size()  # images with a whole labelled particle
errors = pd.DataFrame({
    "D10": found.quantile(0.1) / labels.quantile(0.1) - 1,
    "D50": found.median() / labels.median() - 1,
    "D90": found.quantile(0.9) / labels.quantile(0.9) - 1,
    "number of particles": found.size().reindex(every.index, fill_value=0) / every - 1,
}).reindex(every.index)  # fmt: skip

# %% [markdown]
# ## How many images are read right?
#
# One number for a user: the share of the test images whose D50 lies within 10 % of that of the labels.

# %%
rows, untrained = [], ["frozen", *divided.loc[divided["method"] == "watershed", "model"]]
within = (errors["D50"].abs() <= 0.1).astype(float).rename("value").reset_index()
for filters, part in within.groupby("filters", sort=False):
    base = "frozen" if "frozen" in set(part["model"]) else part["model"].iloc[0]
    shares = stats.compared(part, "model", base, "adapted", untrained).assign(filters=filters)
    rows.append(shares.rename(columns={"mean, %": "D50 within 10 %, % of the images"}))
columns = ["filters", "model", "D50 within 10 %, % of the images", "difference, points", "verdict", "images"]
if rows:
    caption = "Test images whose D50 is within 10 % of the labels', and the paired difference to the frozen model."
    page.table(pd.concat(rows)[columns].astype(object).fillna("–"), "size-within", caption, particles["run"].unique())

# %% [markdown]
# ## Errors of the size figures
#
# The *mean absolute error* is what to expect of one image; the difference and its verdict are of this one, and *lower*
# is better. The *mean error* keeps its sign: it is what remains when many images are averaged. In images with few
# particles D10 and D90 are little more than the smallest and the largest of them.

# %%
tables = {"own": [], "by validation": []}
tall = errors.reset_index().melt(keys, var_name="figure").dropna()
for (filters, figure), part in tall.groupby(["filters", "figure"], sort=False):
    size = part.assign(value=part["value"].abs())
    base = "frozen" if "frozen" in set(part["model"]) else part["model"].iloc[0]
    means = stats.compared(size, "model", base, "adapted", untrained).assign(figure=figure)
    means["mean error, %"] = stats.as_text(stats.mean_interval(part, "model"), sign=True)
    tables[filters].append(means.rename(columns={"mean, %": "mean absolute error, %"}))

# %%
columns = ["figure", "model", "mean absolute error, %", "difference, points", "verdict", "mean error, %", "images"]
names = {"own": "size-errors", "by validation": "size-errors-tuned"}
for filters, parts in tables.items():
    if parts:
        caption = f"Errors of size figures on test images; filters: {filters}. Differences are to the frozen model."
        page.table(
            pd.concat(parts)[columns].astype(object).fillna("–"), names[filters], caption, particles["run"].unique()
        )

# %% [markdown]
# The two sides of a difference are compared on the images that both can be measured in. Masks that pass only a loose
# filter are mostly small: they add particles and pull the D10 down. Where masks overlap, the better rated one is on
# top, and what is left of the other counts as a particle, however small it is.
#
# ## Image by image
#
# Under the runs' own filters: a point is an image, and one on the line is read without error.

# %%
pairs = pd.DataFrame({"labels": labels.median(), "found": found.median()}).dropna().reset_index()
pairs = pairs[pairs["filters"] == "own"].groupby(["model", "unit", "id"], sort=False)[["labels", "found"]].mean()
pairs = pairs.reset_index()

# %% tags=["hide-input"]
units, models = list(pairs["unit"].unique()), pairs["model"].unique()
palette = {name: plots.COLORS.get(name, plots.OTHER[k % len(plots.OTHER)]) for k, name in enumerate(models)}
with mpl.rc_context(plots.STYLE):
    figure = Figure(figsize=(2.2 + 3.4 * len(units), 3.6))
    for k, unit in enumerate(units, start=1):
        axes, part = figure.add_subplot(1, len(units), k), pairs[pairs["unit"] == unit]
        ends = [part["labels"].min(), part["labels"].max()]
        axes.plot(ends, ends, color=plots.LABELS, linewidth=1, label="equal")
        style = {"hue": "model", "style": "model", "palette": palette, "alpha": 0.7}
        sns.scatterplot(part, x="labels", y="found", ax=axes, **style)
        axes.set(xlabel=f"D50 of the labels, {unit}", ylabel=f"D50 found, {unit}", xscale="log", yscale="log")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

# %%
if units:
    caption = "D50 of every test image in which whole particles are labelled and found; a mean over the seeds."
    alt = "Scatter of the D50 found over that of the labels with the diagonal, frozen in blue and adapted in vermilion."
    page.figure(figure, "size-agreement", caption, alt, main["run"], pairs)

# %% [markdown]
# ## All particles together
#
# Magnifications differ from micrograph to micrograph, and some scales are not known. So each diameter is divided by
# the labels' D50 of its image before all are put together: a typical particle has the size one.

# %%
pooled = whole[whole["filters"] == "own"]
scale = pooled[pooled["source"] == "true"].groupby("id")["diameter"].median()
pooled = pooled.assign(relative=pooled["diameter"] / pooled["id"].map(scale)).dropna(subset="relative")
pooled["particles"] = pooled["model"].where(pooled["source"] == "predicted", "labels")
sources = pooled.groupby("particles")
table = sources["relative"].quantile([0.1, 0.5, 0.9]).unstack().set_axis(["D10", "D50", "D90"], axis=1).round(2)
table["number, a run"] = (sources.size() / sources["run"].nunique()).round().astype(int)
curves = sources["relative"].quantile(np.arange(0.01, 1, 0.01)).rename_axis(["particles", "share"]).reset_index()

# %%
if len(table):
    caption = "All test particles together: diameters in units of the labels' D50 of their image."
    table = table.reindex(["labels", "frozen", "adapted"]).dropna()
    page.table(table.reset_index(), "size-pooled", caption, main["run"])

# %% tags=["hide-input"]
if len(table):
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(6.2, 3.2))
        axes = figure.subplots()
        style = {"hue": "particles", "style": "particles", "palette": plots.COLORS, "estimator": None, "sort": False}
        sns.lineplot(curves, x="relative", y=100 * curves["share"], ax=axes, **style)
        axes.set(xlabel="diameter / D50 of the labels", ylabel="particles smaller, %", xscale="log", ylim=(0, 101))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption = "The same as cumulative curves, from the 1st to the 99th percentile."
    alt = "Cumulative curves of relative diameters: labels in grey, frozen in blue, adapted in vermilion."
    page.figure(figure, "size-curves", caption, alt, main["run"], curves)

# %% [markdown]
# Images with many particles weigh more here; above, every image weighs the same. A model that finds too many particles
# where there are few, and too few where there are many, can be off either way.
#
# ## What to take away
#
# - Report the error of a size beside the size. Measure it on images of your own, with labels, and per image.
# - Filters decide about sizes as much as the model does: choose thresholds before you measure, on other images than
#   those that you report.
# - To try: leave out what is smaller than a few pixels, on both sides alike, and look at the D10 again.
