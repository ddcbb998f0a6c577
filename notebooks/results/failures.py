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
# # Failures
#
# **What goes wrong in the mask generator's output, and what can its filters do about it?** It answers with many masks
# that match no particle, and misses particles all the same. With one pair of thresholds for both models the F1 is {{
# main / frozen / generator f1 }} % frozen and {{ main / main* / generator f1 }} % adapted; with thresholds chosen for
# each on validation images, {{ main / frozen / generator_tuned f1 }} and {{ main / main* / generator_tuned f1 }} %.
# Thresholds trade one error for another, and the ratings by which they filter hardly tell a good mask from a bad one.

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
from lorasam_core.experiments import records
from lorasam_core.report import page as report

kept = records.read_edition(report.edition_folder(profile, edition, data))
page = report.Page(kept, "results/failures")
page.banner(written=True)

# %%
runs = kept.runs[(kept.runs["experiment"] == "main") & kept.runs["method"].isin(["frozen", "lora"])]
runs = runs.assign(model=runs["method"].map({"frozen": "frozen", "lora": "adapted"}))
runs[["run", "name", "model", "seed", "generator", "seconds"]]

# %% [markdown]
# ## What goes wrong
#
# The mask generator paints its masks into one picture of instances, the best rated on top. A labelled particle and an
# instance *match*, one to one, when their IoU is at least a half. A *merge* is an instance that covers at least half
# of two particles or more; a *split* is a particle in which two instances or more lie, each with at least half of its
# own area. The masks are those that pass one of three sets of filters: the runs' own, equal for both models; the
# study's; and thresholds chosen for each model and seed on validation images.

# %%
filters = {"generator": "own", "generator_study": "the study's", "generator_tuned": "by validation"}
scores = kept.scores.merge(runs[["run", "model", "seed"]], on="run")
parts = scores["measure"].str.split(" ", n=1)
scores = scores.assign(filters=parts.str[0].map(filters), measure=parts.str[1]).dropna(subset="filters")
images = scores.pivot(index=["run", "model", "filters", "id", "group"], columns="measure", values="value")
images = images.reset_index().reindex(columns=[*images.index.names, "f1", "ap50", "dice", "merges", "splits"])

# %% [markdown]
# The records keep the F1 of each image, and every particle and instance with its size. From the F1 and the two numbers
# follows how many match. All errors are shares of an image's particles or of its instances.

# %%
tables = {"own": kept.table("particles"), "by validation": kept.table("tuned_particles")}
painted = pd.concat([table.assign(filters=name) for name, table in tables.items()])
painted = painted.reindex(columns=["run", "id", "filters", "source"]).astype(str)
counts = pd.crosstab([painted["run"], painted["id"], painted["filters"]], painted["source"])
counts = counts.reindex(columns=["predicted", "true"], fill_value=0).reset_index()
found = counts.merge(images, on=["run", "id", "filters"])
found["match"] = (found["f1"] * (found["predicted"] + found["true"]) / 2).round()

# %%
keys = ["run", "model", "filters", "id", "group"]
wrong = found[[*keys, "f1"]].rename(columns={"f1": "F1"})
wrong["particles without a match"] = 1 - found["match"] / found["true"]
wrong["instances without a match"] = 1 - found["match"] / found["predicted"]
wrong["merges, of the instances"] = found["merges"] / found["predicted"]
wrong["splits, of the particles"] = found["splits"] / found["true"]
shares = wrong.sort_values(["filters", "model"], ascending=False).melt(keys, var_name="share")

# %%
rows, change = [], ["difference, points", "verdict"]
for (share, filtered), part in shares.groupby(["share", "filters"], sort=False):
    models = stats.compared(part, "model", "frozen", "adapted", untrained=["frozen"]).set_index("model")
    row = {"share, %": share, "filters": filtered, **models["mean, %"]}
    rows.append(row | dict(models.reindex(["adapted"])[change].iloc[0]))
if rows:
    caption = "What goes wrong on test images: shares in %, and what adapting changes."
    page.table(pd.DataFrame(rows, dtype=object).fillna("–"), "failures-errors", caption, found["run"])

# %% [markdown]
# A difference is taken on the images on which both models could be measured, a mean on all that could: the two need not
# agree.
#
# The verdict counts a difference when it is clear of what other images and another seed may do together. Seeds weigh
# heavily here: thresholds chosen for each of them let very different numbers of masks pass. A model that rates its
# masks higher passes more of them through the same filters, and with them gets more instances that match nothing. So
# give each model thresholds of its own before you blame the adapter.
#
# ## The worst images
#
# The test images with the lowest AP50 under the runs' own filters, for the first adapted run.

# %%
first = runs.loc[runs["model"] == "adapted", "run"][:1]
worst = found[found["run"].isin(first) & (found["filters"] == "own")].sort_values(["ap50", "dice", "id"])[:10]
shown = pd.DataFrame({"test image": worst["id"]})
shown[["AP50, %", "F1, %", "Dice, %"]] = (100 * worst[["ap50", "f1", "dice"]]).map("{:.1f}".format)
columns = {"true": "particles", "predicted": "instances", "match": "matches", "merges": "merges", "splits": "splits"}
shown[[*columns.values()]] = worst[[*columns]].astype(int)
if len(worst):
    caption = "The ten test images with the lowest AP50, the lowest first."
    page.table(shown, "failures-worst", caption, first, worst)

# %% [markdown]
# What happened to each particle needs the masks themselves, and so the adapter and the images: where the edition has
# both, the mask generator is asked again for these images. A particle is of the first kind that fits
# (`measure.errors`): *found*, matched; *merged*, by half under an instance that covers another by half too; *split*;
# *missed*, by less than half under any instance; *outline off*, covered and yet not matched. An instance is *invented*
# when it lies mostly outside all particles. Labels are made by people: what counts as invented may be a particle that
# nobody has labelled.

# %%
from functools import partial

from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator
from lorasam_core.measure import errors
from lorasam_core.measure.metrics import paint
from lorasam_core.models import devices
from lorasam_core.models.lora import load_adapter

record = next((r for r in kept.records if r.run_id in set(first) and r.adapter and len(worst)), None)
samples, note = report.picture_samples(kept, ids=list(worst["id"])) if record else ([], "")
if record:
    sam = report.load_base(record.config, device := devices.resolve_device("auto"))
    load_adapter(sam, record.adapter)
    settings = STUDY_SETTINGS if record.config.generator == "study" else QUICK_SETTINGS
    generator = MaskGenerator(sam, autocast=partial(devices.autocast, record.config.precision, device), **settings)

# %%
instances, kinds = {}, []
for s in samples:
    masks = generator.generate(s.image)
    ratings = [mask["predicted_iou"] for mask in masks]
    instances[s.id] = paint([mask["segmentation"] for mask in masks], ratings, s.labels.shape)
    of_true, of_found = errors.kinds(instances[s.id], s.labels)
    counted = {kind: int((of_true == kind).sum()) for kind in errors.PARTICLES}
    kinds.append({"test image": s.id, **counted, "invented": int((of_found == "invented").sum())})
if kinds:
    shown = pd.DataFrame(kinds)
    shown.loc[len(shown)] = ["together", *shown.iloc[:, 1:].sum()]
    page.table(shown, "failures-kinds", f"Labelled particles by kind, and invented instances. {note}", first)

# %% tags=["hide-input"]
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

orange, blue, green, pink, yellow = plots.OTHER
colors = dict(zip(errors.KINDS, (plots.LABELS, pink, blue, orange, green, yellow)))
palette = np.array([(0, 0, 0), *map(to_rgb, colors.values())]) * 255
for k, s in enumerate(samples[:3], start=1):
    pictures = {"input": plots.rgb(s.image), "labels": plots.instance_mosaic(s.image, s.labels)}
    pictures["adapted"] = plots.instance_mosaic(s.image, instances[s.id])
    pictures["errors"] = palette[errors.kind_map(instances[s.id], s.labels)].astype(np.uint8)
    figure = plots.panels(pictures)
    handles = [Patch(color=color, label=kind) for kind, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    alt = "A micrograph, its labels, the instances of the adapted model, and the labels coloured by what went wrong."
    page.figure(figure, f"failure-{k}", f"Number {k} of the table, {s.id}. {note}", alt, first)

# %% [markdown]
# What to try depends on the kind. Missed particles ask for a finer grid of points or looser filters, merged ones for
# labels in which touching particles are told apart, split ones for larger training crops, invented ones for stricter
# filters. This book tries the filters.
#
# ## What the model thinks of its masks
#
# The generator asks at every point of a grid and gets three masks for each, far more than there are objects. No label
# says which to keep: the model rates them itself. The *predicted IoU* is a forecast of a small network beside the mask
# decoder; the *stability* is the share of a mask that stays when the cut through its logits moves ([the mask
# generator](generator.ipynb)). Two thresholds filter by them. The predicted IoU also decides between duplicates, and
# orders the masks for average precision.
#
# An adapter changes the features under both ratings; a loss on pixels alone trains neither. So the ratings have to be
# compared with the truth again: these are masks of validation images before the two filters (where an edition did not
# keep them, masks of test images after the filters), each beside the labelled particle that it fits best.

# %%
masks = next((table for table in map(kept.table, ("calibration", "annotations")) if len(table)), pd.DataFrame())
masks = masks.reindex(columns=["run", "id", "group", "iou", "predicted_iou", "stability_score"])
masks = masks.astype({"run": str}).merge(runs[["run", "model"]], on="run")
masks["bin"] = np.floor(10 * masks["predicted_iou"]).clip(0, 9)
bins = masks.groupby(["model", "bin"])[["predicted_iou", "iou"]].mean()
bins["share"] = masks.groupby(["model", "bin"]).size() / masks.groupby("model").size()
off = ((bins["predicted_iou"] - bins["iou"]).abs() * bins["share"]).groupby("model").sum()

# %% tags=["hide-input"]
if len(bins):
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(6.2, 3.4))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "--", color=plots.LABELS, linewidth=1, label="as rated")
        styles = {"x": "predicted_iou", "y": "iou", "hue": "model", "palette": plots.COLORS, "ax": axes}
        sns.lineplot(bins, **styles, legend=False)
        sns.scatterplot(bins, **styles, size="share", sizes=(10, 160))
        axes.set(xlabel="predicted IoU", ylabel="true IoU", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption = "True over predicted IoU of masks in ten bins; a dot's area is the share of the masks in its bin."
    alt = "True over predicted IoU for the frozen and the adapted model, beside the diagonal."
    page.figure(figure, "filters-calibration", caption, alt, masks["run"].unique(), bins.reset_index())

# %% [markdown]
# Masks that are worth what their rating says lie on the diagonal; under it the model promises too much. A threshold
# can correct ratings that are off, but not a wrong order. The *rank correlation* (Spearman's) asks for the order
# alone: 100 % where a better mask always has the higher rating, zero where the rating says nothing. It is taken within
# an image, of five masks at least, because the generator sorts the masks of one image at a time.

# %%
rows = []
for keys, part in masks.groupby(["run", "model", "id", "group"]):
    order = part[["iou", "predicted_iou", "stability_score"]].rank().corr()["iou"]
    row = dict(zip(["run", "model", "id", "group"], keys))
    row["predicted - true IoU"] = (part["predicted_iou"] - part["iou"]).mean()
    row["rank correlation of the predicted IoU"] = order["predicted_iou"] if len(part) >= 5 else np.nan
    row["rank correlation of the stability"] = order["stability_score"] if len(part) >= 5 else np.nan
    rows.append(row)

# %%
columns = ["run", "model", "id", "group"]
ratings = pd.DataFrame(rows, columns=None if rows else columns).melt(columns, var_name="rating").dropna()
rows = []
for rating, part in ratings.groupby("rating", sort=False):
    models = stats.compared(part, "model", "frozen", "adapted", untrained=["frozen"]).set_index("model")
    row = {"mean over images, %": rating, **models["mean, %"]}
    rows.append(row | dict(models.reindex(["adapted"])[change].iloc[0]))
if rows:
    rows.append({"mean over images, %": "expected calibration error, of all masks", **(100 * off).map("{:.1f}".format)})
    caption = "How far the ratings are off, and how well they order the masks of an image."
    page.table(pd.DataFrame(rows, dtype=object).fillna("–"), "filters-ratings", caption, masks["run"].unique())

# %% [markdown]
# The *expected calibration error* is the distance of the dots from the diagonal, averaged over the masks
# {cite:p}`guo2017calibration`. A filter, average precision and the painting of masks over one another need the order
# more than the value.
#
# ## Other thresholds
#
# On validation images the generator was asked with every pair of thresholds of a grid. These images were not trained
# on, and they are not the test images: a threshold chosen on the images by which it is then judged looks better than
# it is.

# %%
pair = ["pred_iou_thresh", "stability_score_thresh"]
swept = kept.table("thresholds").reindex(columns=["run", "id", "group", *pair, "f1"])
swept = swept.astype({"run": str}).merge(runs[["run", "model", "seed"]], on="run")
grid = 100 * swept.groupby(["model", *pair], sort=False)["f1"].mean()
grids = {model: grid[model].unstack() for model in grid.index.unique("model")}

# %% tags=["hide-input"]
with mpl.rc_context(plots.STYLE):
    figure = Figure(figsize=(0.6 + 3.7 * max(1, len(grids)), 3.3))
    panels = figure.subplots(1, max(1, len(grids)), squeeze=False).flat
    for axes, (model, values) in zip(panels, grids.items()):
        scale = {"vmin": grid.min(), "vmax": grid.max(), "cmap": "cividis"}
        sns.heatmap(values, ax=axes, annot=True, fmt=".1f", cbar=False, annot_kws={"fontsize": 8}, **scale)
        axes.set(xlabel="stability, at least", ylabel="predicted IoU, above")
        axes.set_title(model, color=plots.COLORS[model])
        axes.tick_params(axis="y", rotation=0)
if grids:
    caption = "F1 on validation images, in %, by the two thresholds; a model's seeds are averaged."
    alt = "A grid of numbers for each model: rows are thresholds of the predicted IoU, columns of the stability."
    page.figure(figure, "filters-thresholds", caption, alt, swept["run"].unique(), grid.reset_index())

# %% [markdown]
# Few images stand behind the grid: read whole rows and columns, not the difference between neighbours. How firm is a
# choice? Draw the papers or specimens of the validation images anew, with replacement, and choose again.

# %%
rows, draw = [], np.random.default_rng(0)
for (model, seed), part in swept.groupby(["model", "seed"], sort=False):
    f1 = part.pivot(index=["id", "group"], columns=pair, values="f1")
    groups = f1.groupby("group")
    drawn = draw.integers(groups.ngroups, size=(1000, groups.ngroups))
    sums, sizes = groups.sum().to_numpy()[drawn].sum(axis=1), groups.size().to_numpy()[drawn].sum(axis=1)
    again = (sums / sizes[:, None]).argmax(axis=1)
    best, ahead = f1.mean().argmax(), f1.mean().nlargest(2).diff().iloc[-1]
    row = {"model": model, "seed": seed, **dict(zip(["predicted IoU", "stability"], f1.columns[best]))}
    row["ahead of the next pair, points"] = f"{-100 * ahead:.1f}"
    rows.append(row | {"chosen again, % of draws": f"{100 * (again == best).mean():.0f}"})
if rows:
    caption = "The pair of the greatest F1 on validation images, and how often 1,000 draws of their groups choose it."
    page.table(pd.DataFrame(rows), "filters-choice", caption, swept["run"].unique())

# %% [markdown]
# And what does the choice do to test images? Differences are to the runs' own filters, on the same images. The study's
# are its thresholds on this grid of points; it asks at far more points, on enlarged crops too.

# %%
rows = []
tested = scores[scores["measure"].isin(["f1", "ap50"])].sort_values("measure", ascending=False, kind="stable")
for (measure, model), part in tested.groupby(["measure", "model"], sort=False):
    found = stats.compared(part, "filters", "own", "own")  # of one run, the frozen model's, there is no seed noise
    passed = scores[(scores["measure"] == "n_pred") & (scores["model"] == model)].groupby("filters")["value"].mean()
    found["masks an image"] = found["filters"].map(passed).map("{:.1f}".format)
    rows.append(found.assign(model=model, **{"test metric": {"f1": "F1", "ap50": "AP50"}[measure]}))

# %%
if rows:
    shown = pd.concat(rows)
    shown = shown[["test metric", "model", "filters", "masks an image", "mean, %", "difference, points", "verdict"]]
    caption = "The same masks under three sets of filters, on test images."
    page.table(shown.astype(object).fillna("–"), "filters-test", caption, tested["run"].unique())

# %% [markdown]
# F1 counts every instance; AP50 orders the masks by their rating and hardly minds many of a low one, so that a filter
# mostly takes from it. The seeds behind a verdict here are those of the runs' own filters.
#
# ## What to take away
#
# - Thresholds are part of a model. Choose them for yours on validation images, as [your own
#   particles](adapt.ipynb) does, and judge the choice on others: few images choose differently when drawn anew.
# - The study's thresholds belong to the ratings of the study's model. Check that any mask passes before you copy them.
# - Where the ratings order the masks of an image poorly, a threshold can do only so much. To try: train the
#   rating as well, or rate the masks by something else, their outline or their grey values.
