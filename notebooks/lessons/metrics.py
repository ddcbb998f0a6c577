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
# # Metrics, worked by hand
#
# {doc}`../method` defines the metrics of this book. Here they are computed on five particles that are small enough to
# count their pixels, and compared with the functions that make every other number.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import experiments, plots, stats
from lorasam_core.experiments.records import read_edition
from lorasam_core.measure import metrics
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "metrics", folder, data)
page = report.Page(read_edition(folder), "lessons/metrics")
page.banner()

# %% [markdown]
# ## Five particles
#
# One is found, two are merged into one prediction, one is split into two, one is missed; and one prediction is of
# nothing. So there are as many predictions as particles: by their number alone nothing seems wrong.

# %%
import numpy as np

true, pred = np.zeros((2, 12, 18), dtype=int)
rectangles = [(1, 5, 1, 6), (1, 5, 8, 11), (1, 5, 12, 15), (7, 11, 1, 7), (7, 11, 9, 12)]
for number, (top, bottom, left, right) in enumerate(rectangles, start=1):
    true[top:bottom, left:right] = number
rectangles = [(1, 5, 1, 5), (1, 5, 8, 15), (7, 11, 1, 5), (7, 11, 5, 7), (8, 11, 14, 17)]
for number, (top, bottom, left, right) in enumerate(rectangles, start=1):
    pred[top:bottom, left:right] = number
scores = np.array([0.95, 0.90, 0.80, 0.50, 0.60])  # of predictions 1 to 5

# %%
import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

mpl.rcParams.update(plots.STYLE)
figure = Figure(figsize=(8, 2.9))
for axes, (title, numbers) in zip(figure.subplots(1, 2), {"true": true, "predicted": pred}.items()):
    text = np.where(numbers > 0, numbers.astype(str), "")
    sns.heatmap(numbers, annot=text, fmt="", cmap="Pastel1", mask=numbers == 0, cbar=False, linewidths=0.5, ax=axes)
    axes.set(title=title, xticks=[], yticks=[], aspect="equal")
caption = "Particles and predictions, pixel by pixel, with their numbers."
alt = "Two grids of pixels: five rectangles; and five others, of which one covers two of the first and two halve one."
page.figure(figure, "metrics-example", caption, alt)

# %% [markdown]
# ## Dice and IoU of the foreground
#
# Everything that is predicted against everything that is there: what both have, over what they have in all.

# %%
p, t = pred > 0, true > 0
both, either = (p & t).sum(), (p | t).sum()
dice, iou = 2 * both / (p.sum() + t.sum()), both / either
assert dice == metrics.dice(p, t) and iou == metrics.iou(p, t)
print(f"Dice = 2 · {both} / ({p.sum()} + {t.sum()}) = {dice:.3f},  IoU = {both} / {either} = {iou:.3f}")

# %% [markdown]
# ## Which prediction is of which particle?
#
# All that follows rests on the IoU of single predictions (rows) with single particles (columns). The table of their
# common pixels is a cross-tabulation of the two label images.

# %%
import pandas as pd

common = pd.crosstab(pred.ravel(), true.ravel(), rownames=["prediction"], colnames=["particle"])
areas, sizes = common.sum(axis=1), common.sum(axis=0)  # in pixels, of predictions and of particles; 0 is background
union = -common.sub(areas, axis=0).sub(sizes, axis=1)
overlap = (common / union).loc[1:, 1:]
assert np.allclose(overlap, metrics.mask_iou_matrix(pred, true))
page.table(overlap.round(2).reset_index(), "metrics-pairs", "IoU of predictions (rows) with particles (columns).")

# %% [markdown]
# The merged prediction covers two particles whole, and has too small an IoU with either.
#
# ## AP50, step by step
#
# Predictions are taken in the order of their scores. Each claims the free particle that it overlaps best, if the IoU is
# at least 0.5. After each one, precision and recall are noted. The envelope is the highest precision from there on, and
# AP50 is its mean over 101 recalls from 0 to 1; a recall that is never reached counts as 0.

# %%
rows, free = [], set(overlap.columns)
for prediction in 1 + np.argsort(-scores):
    best = overlap.loc[prediction, list(free)].idxmax()
    hit = overlap.loc[prediction, best] >= 0.5
    free -= {best} if hit else set()
    rows.append((prediction, scores[prediction - 1], hit))
steps = pd.DataFrame(rows, columns=["prediction", "score", "hit"])
steps["precision"] = steps["hit"].cumsum() / (steps.index + 1)
steps["recall"] = steps["hit"].cumsum() / len(sizes[1:])
steps["envelope"] = steps["precision"][::-1].cummax()
page.table(steps.round(2), "metrics-steps", "Precision and recall after each prediction.")

# %%
recalls = np.linspace(0, 1, 101)
envelope = [steps.loc[steps["recall"] >= r, "envelope"].max() for r in recalls]  # NaN where it is never reached
ap50 = np.nan_to_num(envelope).mean()
assert np.isclose(ap50, metrics.average_precision(pred, scores, true))
print(f"AP50 = {ap50:.3f}; AP, the mean over ten IoU from 0.50 to 0.95 that a hit needs, is")
print(f"{metrics.average_precision(pred, scores, true, metrics.COCO_THRESHOLDS):.3f}: it asks for better outlines")

# %%
figure = Figure(figsize=(5, 3))
axes = figure.subplots()
axes.fill_between(recalls, np.nan_to_num(envelope), step="pre", alpha=0.3)
axes.plot(steps["recall"], steps["precision"], "o--", color="black")
axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.05))
caption = "Precision over recall after each prediction; the area under the envelope is AP50."
alt = "Dots joined by a dashed line that falls as false predictions come, and a filled staircase above it."
page.figure(figure, "metrics-precision-recall", caption, alt, data=steps)

# %% [markdown]
# ## F1 and panoptic quality
#
# Both count hits (TP), false predictions (FP) and missed particles (FN) without any score. PQ also asks how well the
# hits fit.

# %%
fits = overlap.to_numpy()[overlap >= 0.5]
tp, fp, fn = len(fits), len(overlap) - len(fits), len(overlap.columns) - len(fits)
f1, pq = 2 * tp / (2 * tp + fp + fn), fits.sum() / (tp + fp / 2 + fn / 2)
assert np.isclose(f1, metrics.f1(pred, true)) and np.isclose(pq, metrics.panoptic_quality(pred, true))
print(f"TP {tp}, FP {fp}, FN {fn}: F1 {f1:.3f}, PQ {pq:.3f}")

# %% [markdown]
# ## Merges and splits
#
# A merge is a prediction that covers at least half of two particles or more; a split is a particle in which two
# predictions or more lie, each with at least half of its own pixels.

# %%
inner = common.loc[1:, 1:]
merged = (inner.div(sizes[1:], axis=1) >= 0.5).sum(axis=1) > 1
split = (inner.div(areas[1:], axis=0) >= 0.5).sum(axis=0) > 1
assert (merged.sum(), split.sum()) == metrics.merges_and_splits(pred, true)
print("merges:", *merged[merged].index, " splits:", *split[split].index)

# %% [markdown]
# ## What Dice cannot see
#
# Now the merged prediction is cut in two. Not one pixel changes between foreground and background, and Dice does not
# move. Every metric of single particles does.

# %%
cut, cut_scores = pred.copy(), np.append(scores, 0.85)
cut[1:5, 12:15] = 6
rows = {}
for name, found, rated in (("merged", pred, scores), ("cut", cut, cut_scores)):
    row = {"Dice": metrics.dice(found > 0, true > 0), "AP50": metrics.average_precision(found, rated, true)}
    row |= {"F1": metrics.f1(found, true), "PQ": metrics.panoptic_quality(found, true)}
    row["largest particle, pixels"] = np.bincount(found[found > 0]).max()
    rows[name] = row
table = pd.DataFrame(rows).T.rename_axis("prediction").reset_index().round(3)
page.table(table, "metrics-dice-blind", "The same pixels as one prediction and as two, by every metric.")

# %% [markdown]
# ## How sure is a mean?
#
# Images of one specimen resemble each other. Here are made-up sets of 72 images, six from each of twelve specimens,
# whose true mean is 0.7. The bootstrap draws them again and again, either whole specimens or single images, as if each
# were a specimen of its own. A 95 % interval should hold the true mean in 95 of 100 sets.

# %%
rng, rows = np.random.default_rng(0), []
specimens = np.repeat(np.arange(12), 6)
for number in range(200):
    values = rng.normal(rng.normal(0.7, 0.08, 12)[specimens], 0.04)  # specimens differ more than their images
    for drawn, groups in {"specimens": specimens, "single images": np.arange(72)}.items():
        _, low, high = stats.bootstrap_interval(values, groups)
        rows.append((number, drawn, low, high, low <= 0.7 <= high))
sets = pd.DataFrame(rows, columns=["set", "drawn", "low", "high", "holds"])
sets["width"] = sets["high"] - sets["low"]
shown = sets.groupby("drawn", sort=False)[["holds", "width"]].mean().round(3).reset_index()
shown.columns = ["drawn", "share that holds the true mean", "mean width"]
page.table(shown, "metrics-coverage", "95 % intervals of the mean of 200 made-up sets.", data=sets)

# %% [markdown]
# Single images give an interval that is far too narrow, and every interval in this book is therefore drawn over groups
# (with as few groups as this even the right way claims a little too much). What these metrics say of the adapted model
# is on [the page of the main run](train.ipynb).
