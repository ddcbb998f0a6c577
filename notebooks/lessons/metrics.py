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
from lorasam_core import experiments
from lorasam_core.measure import metrics
from lorasam_core.report import page as report
from lorasam_core.report.chapters import lesson_plots, worked
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "metrics", folder, data)
page = report.Page(read_edition(folder), "lessons/metrics")
page.banner()

# %% [markdown]
# ## Five particles
#
# One is found, two are merged into one prediction, one is split into two, one is missed; and one prediction is of
# nothing.

# %%
import numpy as np

true, pred, scores = worked.example()
names = {"predicted": {i: f"{i}\n{score:.2f}" for i, score in enumerate(scores, start=1)}}
figure = lesson_plots.label_grids({"true": true, "predicted": pred}, names)
caption = "Particles and predictions, pixel by pixel, with their numbers; below those of predictions the scores."
alt = "Two grids of pixels: five rectangles; and five others, of which one covers two of the first and two halve one."
page.figure(figure, "metrics-example", caption, alt)
page.say(f"{true.max()} particles and {pred.max()} predictions: by their number alone nothing seems wrong.")

# %% [markdown]
# ## Dice and IoU of the foreground
#
# Everything that is predicted against everything that is there: four counts of pixels.

# %%
p, t = pred > 0, true > 0
common, either = (p & t).sum(), (p | t).sum()
dice, iou = 2 * common / (p.sum() + t.sum()), common / either
assert dice == metrics.dice(p, t) and iou == metrics.iou(p, t)
page.say(
    f"{p.sum()} pixels are predicted, {t.sum()} are true, {common} are both, {either} are either.",
    f"Dice is 2 · {common} / ({p.sum()} + {t.sum()}) = {dice:.3f}, IoU is {common} / {either} = {iou:.3f}.",
    "`metrics.dice` and `metrics.iou` say the same.",
)

# %% [markdown]
# ## Which prediction is of which particle?
#
# All that follows rests on the IoU of single predictions with single particles.

# %%
pairs = worked.pair_table(pred, true)
shown = pairs.assign(iou=pairs["iou"].map("{:.2f}".format)).rename(columns={"iou": "IoU"}).astype(str)
page.table(shown, "metrics-pairs", "Predictions and particles that share pixels, counted.", data=pairs)
hits = pairs[pairs["iou"] >= 0.5]
alone = sorted(set(range(1, pred.max() + 1)) - set(pairs["prediction"]))
page.say(
    f"{len(hits)} pairs have an IoU of 0.5 or more. Prediction {', '.join(map(str, alone))} shares no pixel with a",
    "particle. The merged prediction covers two particles whole, and has too small an IoU with either.",
)

# %% [markdown]
# ## AP50, step by step
#
# Predictions are taken in the order of their scores. Each claims the free particle that it overlaps best, if the IoU is
# at least 0.5. After each one, precision and recall are noted.

# %%
masks, particles = worked.instances(pred), worked.instances(true)
steps = worked.precision_recall(masks, scores, particles)
caption = "Precision and recall after each prediction. The envelope is the highest precision from there on."
page.table(worked.shown_steps(steps), "metrics-steps", caption, data=steps)

# %%
recalls = worked.at_recalls(steps)
caption = "Precision over recall. Numbers are those of the predictions; the area under the envelope is AP50."
alt = "Five dots joined by a dashed line that falls as false predictions come, and a staircase above it."
figure = lesson_plots.precision_recall_chart(steps, recalls)
page.figure(figure, "metrics-precision-recall", caption, alt, data=recalls)

# %%
ap = recalls["precision"].mean()
assert abs(ap - metrics.average_precision(masks, scores, particles)) < 1e-12
spans = recalls.groupby("precision", sort=False).size()
sums = " + ".join(f"{count} · {value:.3f}" for value, count in spans.items())
page.say(f"AP50 = ({sums}) / {len(recalls)} = {ap:.3f}, as `metrics.average_precision` says.")

# %% [markdown]
# A stricter threshold asks for better outlines. AP is the mean over ten of them, from 0.50 to 0.95.

# %%
import pandas as pd

limits = metrics.COCO_THRESHOLDS
strict = [worked.at_recalls(worked.precision_recall(masks, scores, particles, x))["precision"].mean() for x in limits]
mean = sum(strict) / len(strict)
assert abs(mean - metrics.average_precision(masks, scores, particles, limits)) < 1e-12
table = pd.DataFrame([[f"{v:.3f}" for v in strict]], columns=[f"{x:.2f}" for x in limits])
page.table(table, "metrics-strict", "AP by the IoU that a hit needs.")
page.say(f"Their mean, AP, is {mean:.3f}.")

# %% [markdown]
# ## F1 and panoptic quality
#
# Both count hits, false predictions (FP) and missed particles (FN) without any score. PQ also asks how well the hits
# fit.

# %%
tp = len(hits)
fp, fn = pred.max() - tp, true.max() - tp
f1 = 2 * tp / (2 * tp + fp + fn)
pq = hits["iou"].sum() / (tp + fp / 2 + fn / 2)
assert abs(f1 - metrics.f1(pred, true)) < 1e-12 and abs(pq - metrics.panoptic_quality(pred, true)) < 1e-12
fits = " + ".join(f"{v:.3f}" for v in hits["iou"])
page.say(
    f"TP = {tp}, FP = {fp}, FN = {fn}. F1 is {2 * tp} / ({2 * tp} + {fp} + {fn}) = {f1:.3f}; PQ is",
    f"({fits}) / ({tp} + {fp} / 2 + {fn} / 2) = {pq:.3f}. `metrics.f1` and `metrics.panoptic_quality` agree.",
)

# %% [markdown]
# ## Merges and splits
#
# A merge is a prediction that covers at least half of two particles or more; a split is a particle in which two
# predictions or more lie, each with at least half of its own pixels.

# %%
covers = pairs[2 * pairs["common"] >= pairs["of particle"]].groupby("prediction").size()
holds = pairs[2 * pairs["common"] >= pairs["of prediction"]].groupby("particle").size()
merged, divided = covers[covers > 1], holds[holds > 1]
assert (len(merged), len(divided)) == metrics.merges_and_splits(pred, true)
page.say(
    f"Prediction {', '.join(map(str, merged.index))} covers {merged.max()} particles: a merge.",
    f"Particle {', '.join(map(str, divided.index))} holds {divided.max()} predictions: a split.",
    "`metrics.merges_and_splits` counts one of each.",
)

# %% [markdown]
# ## What Dice cannot see
#
# Now the merged prediction is cut in two. Not one pixel changes between foreground and background.

# %%
_, cut, cut_scores = worked.example(cut=True)
names["cut"] = {i: f"{i}\n{score:.2f}" for i, score in enumerate(cut_scores, start=1)}
caption = "The predictions as they were, and with the merged one cut between the two particles."
alt = "Two grids of predictions; the rectangle that covers two particles in the first is two in the second."
page.figure(lesson_plots.label_grids({"predicted": pred, "cut": cut}, names), "metrics-cut", caption, alt)
assert ((cut > 0) == (pred > 0)).all()

# %%
rows = []
for name, found, rated in (("merged", pred, scores), ("cut", cut, cut_scores)):
    ap50 = metrics.average_precision(found, rated, true)
    instance = metrics.f1(found, true), metrics.panoptic_quality(found, true)
    rows.append((name, metrics.dice(found > 0, true > 0), ap50, *instance, *metrics.merges_and_splits(found, true)))
data_table = pd.DataFrame(rows, columns=["prediction", "Dice", "AP50", "F1", "PQ", "merges", "splits"])
shown = data_table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else str(v))
page.table(shown, "metrics-dice-blind", "Both predictions, by every metric.", data=data_table)

# %%
largest = [np.bincount(labels[labels > 0]).max() for labels in (pred, cut, true)]
gap = data_table.set_index("prediction")[["Dice", "AP50"]].diff().iloc[-1]
page.say(
    f"From merged to cut Dice changes by {gap['Dice']:.3f} and AP50 by {gap['AP50']:+.3f}. Sizes show the difference",
    f"too: the largest particle has {largest[0]} pixels when merged, {largest[1]} when cut, and {largest[2]} in truth.",
)

# %% [markdown]
# ## How sure is a mean?
#
# Images of one specimen resemble each other. Here are made-up sets of 72 images, six from each of twelve specimens,
# whose true mean is known. The bootstrap draws them again and again, either whole specimens or single images.

# %%
truth = 0.7
table = worked.coverage(repeats=200, mean=truth, groups=12, images=6)
caption = "95 % intervals of the mean of 50 made-up sets, drawn in two ways; dashed: the true mean."
alt = "Two panels of vertical intervals: long ones that mostly cross a dashed line, short ones that often miss it."
page.figure(lesson_plots.coverage_chart(table, truth), "metrics-coverage", caption, alt, data=table)
page.say(worked.coverage_sentence(table))

# %% [markdown]
# Every interval in this book is therefore drawn over groups. What it would be otherwise, for this edition's main run:

# %%
runs = [r for r in report.records_of(page.edition, "main") if r.config.method == "lora"][:1]
for run in runs:
    images = run.per_image[run.per_image["evaluator"] == "generator"]
    both = worked.two_intervals(images["dice"], images["group"])
    where = f"the mean Dice of {len(images)} test images from {images['group'].nunique()} groups"
    page.say(worked.grouping_sentence(both, where))
page.say("" if runs else "This edition has no main run to show it on.")

# %% [markdown]
# What these metrics say of the adapted model is on [the page of the main run](train.ipynb).
