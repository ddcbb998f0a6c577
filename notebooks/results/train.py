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
# # Training
#
# **What does adapting change?** The predictor's Dice goes from {{ main / frozen / predictor dice }} % frozen to {{ main
# / main* / predictor dice }} % adapted, a difference of {{ main / main* - frozen / predictor dice }} points over three
# seeds. For single particles no such change is shown: F1, with thresholds chosen on validation images, differs by {{
# main / main* - frozen / generator_tuned f1 }}, and other seeds may do as much.
#
# One run: the frozen base, an adapter, a loss, and a number of steps. As it stands this page shows the main run of the
# edition. Give any setting below another value, and it trains that run instead (or finds it finished).

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
rank: int = 0  # rank of A and B; 0: the main run's (so for every setting below)
alpha: float = 0.0  # numerator of the scaling; 0: the main run's
scaling: str = ""  # alpha/r, alpha/sqrt(r) or none
targets: str = ""  # what is adapted, of q, k, v, proj, lin1, lin2, such as "q,v"
objective: str = ""  # semantic, instance or mixed
steps: int = 0  # optimiser steps
batch_size: int = 0  # images a step
learning_rate: float = 0.0  # the highest, after warming up
crop_size: int = 0  # side of the training crops, pixels of the image
seed: int = -1  # of A, of the order of the images and of the prompts; -1: the main run's

# %% [markdown]
# ## The run

# %%
import numpy as np
import pandas as pd

from lorasam_core import charts, experiments, plots, stats
from lorasam_core.experiments import records, study
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "main", folder, data)
kept = records.read_edition(folder)
page = report.Page(kept, "results/train")
page.banner(written=True)

# %% tags=["hide-input"]
asked = {"rank": rank, "alpha": alpha, "scaling": scaling, "objective": objective, "steps": steps}
asked |= {"batch_size": batch_size, "learning_rate": learning_rate, "crop_size": crop_size}
changes = {key: value for key, value in asked.items() if value}
if targets:
    changes["targets"] = tuple(targets.split(","))
if seed >= 0:
    changes["seed"] = seed

# %%
run = next(record for record in kept.experiment("main") if record.config.method == "lora")
if changes:
    run = experiments.run_one(run.config.replace(name="custom", **changes), report.output_folder(kept))
    kept = kept.with_run(run, "custom")
frozen = kept.runs["experiment"].eq("main") & kept.runs["method"].eq("frozen")
adapted = kept.runs["experiment"].eq("custom" if changes else "main") & kept.runs["method"].eq("lora")
runs = kept.runs[frozen | adapted]
runs[["run", "name", "seed", "steps", "images_seen", "seconds"]].round()

# %%
settings = [
    "model", "image_size", "data", "objective", "rank", "factor", "targets", "steps", "batch_size", "learning_rate",
    "optimizer", "weight_decay", "crop_size", "precision", "trainable_parameters",
]  # fmt: skip
values = runs.loc[runs["run"] == run.run_id, settings].iloc[0].dropna()
values["targets"] = ", ".join(values["targets"])
values["trainable_parameters"] = f"{values['trainable_parameters']:,}"
shown = values.map(plots.setting).rename(lambda name: name.replace("_", " "))
shown = shown.rename_axis("setting").reset_index(name="value")
page.table(shown, "train-settings", f"Settings of the run `{run.run_id}`.", [run])

# %% [markdown]
# The objective `semantic` prompts with the box of the whole image and asks for all particles in one mask, our reading
# of the study; `instance` prompts with points and boxes and asks for single particles, and trains the model's own
# rating of its masks; `mixed` alternates them. The factor is what $BA$ is multiplied by. Training, validation and test
# never share a specimen, and the adapter that is kept is the best by validation.
#
# ## Curves

# %%
caption = "Loss, accuracy and mIoU by step. Diamonds: the last values reported by the study (ViT-B, its own data)."
alt = "Three charts over the optimiser step, each with a line for training and one for validation."
figure = charts.curves(run.history, reported=study.STUDY["curves"])
page.figure(figure, "train-curves", caption, alt, [run], run.history)

# %% [markdown]
# Validation asks for the whole image alone. In training a `mixed` run averages both objectives and the loss of the
# rating, so that the gap between the lines is no sign of over-fitting, and the diamonds belong to the whole-image
# objective. The learning rate has fallen to zero at the end: a level line there does not say that more steps would not
# help. The run sees {{ main / main / images_seen }} training images, each drawn anew; the study reports 40 epochs of
# 5,820 images that were made before.
#
# ## On the test images
#
# No run was trained or stopped by the test images. *Frozen* is the base without an adapter. Differences are paired,
# image by image, and an image counts with its mean over the seeds; what another seed may do is estimated for each
# metric from the adapted runs, and is not known of a single run: its verdicts are of images alone. Judge by the
# predictor's Dice, our reading of the study's measure, and for single particles by the F1 with thresholds by
# validation; the others describe.

# %%
labels = report.MEASURES
scores = kept.scores.merge(runs, on="run")
scores["series"] = np.where(scores["method"] == "frozen", "frozen", "adapted")
rows = []
for measure, label in labels.items():
    part = scores[scores["measure"] == measure]
    if part["series"].nunique() == 2:
        noise = stats.seed_noise(part[part["series"] == "adapted"])
        compared = stats.verdict(stats.paired(part, "series", "frozen"), noise, ["frozen"])
        rows += compared.assign(metric=label).to_dict("records")
differences = pd.DataFrame(rows).set_index("metric")

# %%
means = scores.assign(metric=scores["measure"].map(labels)).dropna(subset=["metric"])
means = stats.mean_interval(means, ["metric", "series"])
texts = means.assign(text=stats.as_text(means)).pivot(index="metric", columns="series", values="text")
shown = {
    "frozen": texts["frozen"],
    "adapted": texts["adapted"],
    "gain, points": stats.as_text(differences, sign=True),
    "verdict": differences["verdict"],
}
shown = pd.DataFrame(shown).reindex(differences.index).reset_index(names="metric, %")
caption = "Frozen and adapted on the test images: means with 95 % intervals over groups, and the paired difference."
page.table(shown, "main", caption, runs["run"], differences.reset_index())

# %%
change = differences.reset_index().assign(panel="adapted - frozen")
caption = f"Paired differences with 95 % intervals over groups. {charts.KEY}"
alt = "For each metric a point with an interval on an axis of differences from frozen to adapted."
figure = charts.difference_chart(change, "metric", "panel")
page.figure(figure, "main-metrics", caption, alt, runs["run"], change)

# %% [markdown]
# The means have wide intervals because micrographs differ; paired differences are far narrower, and the verdicts are
# drawn from them. Where no thresholds were chosen, the mask generator's are one pair for both models, chosen for the
# frozen one: a loss there may be one of the model's ratings and not of its masks ([failures](failures.ipynb)).
#
# The Dice of the union cannot see whether two touching particles were taken for one. AP50, F1 and PQ can, and are the
# stricter test. Merges and splits say which way it went wrong.

# %%
counted = scores[scores["measure"].isin(["generator merges", "generator splits"])]
counts = counted.groupby(["measure", "series"])["value"].mean().unstack().reindex(columns=["frozen", "adapted"])
counts = counts.round(1).rename(lambda name: name.removeprefix("generator ")).reset_index(names="an image")
caption = "Masks that swallow two particles or more, and particles in several masks: means over test images."
page.table(counts, "main-counts", caption, runs["run"])

# %% [markdown]
# ## What seeds do
#
# Nothing differs between these runs but the seed of $A$, of the order of the images and of the prompts. The last column
# is half a 95 % prediction interval for the difference of two single runs (Student's $t$).

# %%
judged = ["predictor dice", "point iou_rated", *report.instance_measures(kept)]
adapted = scores[(scores["series"] == "adapted") & scores["measure"].isin(judged)]
least = {measure: 100 * stats.seed_noise(part) for measure, part in adapted.groupby("measure")}
seeds = 100 * adapted.pivot_table(index="measure", columns="seed", values="value").add_prefix("seed ")
seeds["two runs may differ by, points"] = pd.Series(least)
seeds = seeds.loc[[measure for measure in judged if measure in seeds.index]]
shown = seeds.map("{:.1f}".format).replace("nan", "–").rename(labels).reset_index(names="test value, %")
caption = "Test values by seed, and what seeds alone may do to the difference of two runs in 19 of 20 cases."
page.table(shown, "main-seeds", caption, runs["run"], seeds.reset_index())

# %% [markdown]
# Three seeds are few to estimate a spread from, and $t$ pays for that: a difference of two runs that is not larger than
# the last column is no finding. Thresholds are chosen anew for each seed, which is why their F1 moves most.
#
# ## Longer
#
# Does the number of steps decide? The main configuration with all its seeds, and one run with more steps: a schedule of
# its own, more views of the same images.

# %%
both = kept.runs[kept.runs["experiment"].isin(["main", "longer"]) & (kept.runs["method"] == "lora")]
longer = kept.scores[kept.scores["measure"].isin(judged)].merge(both, on="run")
rows = []
for measure in judged if longer["experiment"].nunique() == 2 else ():
    part = longer[longer["measure"] == measure]
    found = stats.compared(part, "experiment", "main", "main").set_index("experiment")
    row = {"metric": labels[measure], "main, %": found.loc["main", "mean, %"]}
    row["more steps, %"] = found.loc["longer", "mean, %"]
    rows.append(row | dict(found.loc["longer", ["difference, points", "verdict"]]))
if rows:
    caption = "The main configuration and one run with more steps: means with 95 % intervals over groups."
    page.table(pd.DataFrame(rows), "longer", caption, both["run"])

# %% [markdown]
# ## Four test images
#
# Averages hide images. The test images are ordered by the Dice of the adapted mask generator's union, of which the
# study reports four cases; ours are the first, the last and two between, evenly spaced.

# %%
union = scores[(scores["measure"] == "generator dice") & scores["run"].isin([run.run_id, *kept.runs["run"][frozen]])]
ordered = 100 * union.pivot_table(index="id", columns="series", values="value").sort_values("adapted")
cases = ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, 4).round().astype(int))].reset_index()
theirs = pd.DataFrame(sorted(study.STUDY["test_cases"].values(), key=lambda pair: pair[1]))
shown = {
    "test image": cases["id"],
    "Dice, %: frozen": cases["frozen"].map("{:.2f}".format),
    "adapted": cases["adapted"].map("{:.2f}".format),
    f"Dice, %: frozen, {study.REPORTED}": theirs[0].map("{:.2f}".format),
    f"adapted, {study.REPORTED}": theirs[1].map("{:.2f}".format),
}
shown = pd.DataFrame(shown).fillna("–").rename_axis("case").reset_index()
caption = "Dice of the mask generator's union by case, from the lowest up, and of the study's four cases."
page.table(shown.assign(case=shown["case"] + 1), "cases", caption, union["run"], cases)

# %% [markdown]
# The two models differ in the adapter alone. An edition without the adapter's file has no pictures here.

# %%
from functools import partial

from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator
from lorasam_core.measure.evaluation import predict_foreground
from lorasam_core.measure.metrics import dice
from lorasam_core.models import devices, lora

device = devices.resolve_device("auto")
autocast = partial(devices.autocast, run.config.precision, device)  # as the runs were judged
sams = {name: report.load_base(run.config, device) for name in ("frozen", "adapted") if run.adapter}
if run.adapter:
    lora.load_adapter(sams["adapted"], run.adapter)
samples, note = report.picture_samples(kept, ids=list(cases["id"])) if run.adapter else ([], "")

# %%
settings = STUDY_SETTINGS if run.config.generator == "study" else QUICK_SETTINGS
generators = [MaskGenerator(sam, autocast=autocast, **settings) for sam in sams.values()]
found = [[generator.generate(s.image) for generator in generators] for s in samples]  # frozen, adapted
names = [*("lowest", "second", "third")[: len(samples) - 1], "highest"]
cased = [s.id for s in samples] == list(cases["id"])  # else others stand in

# %% [markdown]
# Each instance has a random colour. The red box is where the two outputs differ most, enlarged in the corner.

# %%
for name, s, masks in zip(names, samples, found):
    unions = [plots.instance_mosaic(s.image, some).any(axis=-1) for some in masks]
    before, after = (100 * dice(union, s.foreground) for union in unions)
    titles = ("input", f"frozen, Dice {before:.1f} %", f"adapted, Dice {after:.1f} %")
    figure = plots.comparison(s.image, *masks, plots.pick_inset(*unions), titles)
    caption = f"{f'Case {name}' if cased else 'Stand-in'}: {s.id}, mask generator. {note}"
    alt = "A micrograph and the instances that the frozen and the adapted model find in it, with an enlarged region."
    page.figure(figure, f"case-{name}", caption, alt, [run])

# %% [markdown]
# What to look for in the enlarged regions: particles that touch and were taken for one, particles that lie beneath
# others, and edges. The Dice in the titles counts none of these apart.
#
# ## The whole in one picture
#
# The case in the middle, of four the second, as the predictor and the mask generator see it. The predictor's answer to
# one box around the whole image is laid over it in blue: what the model itself takes for particles, before any grid of
# points or post-processing.

# %%
pictures, k = {}, (len(samples) - 1) // 2
for s, masks in list(zip(samples, found))[k : k + 1] if samples else ():
    old, new = (predict_foreground(sam, s.image, autocast=autocast) for sam in sams.values())
    pictures = {"input": plots.rgb(s.image), "frozen: predictor": plots.overlay(s.image, old)}
    pictures["adapted: predictor"] = plots.overlay(s.image, new)
    pictures["labels"] = plots.instance_mosaic(s.image, s.labels)
    pictures["frozen: mask generator"] = plots.instance_mosaic(s.image, masks[0])
    pictures["adapted: mask generator"] = plots.instance_mosaic(s.image, masks[1])

# %% tags=["hide-input"]
colors = {title: plots.COLORS.get(title.split(":")[0], "black") for title in pictures}
place = f"Test case {k + 1} of {len(samples)}, from the lowest Dice up" if cased else "Stand-in"
caption = f"{place}: input and labels, the frozen model, the adapted model. {note}"
alt = "Six pictures: a micrograph and its labels; the frozen and the adapted predictor's mask in blue; their instances."
if pictures:
    figure = plots.panels(pictures, plots.pick_inset(old, new), columns=3, colors=colors)
    page.figure(figure, "main-picture", caption, alt, [run])

# %% [markdown]
# ## What to take away
#
# - Adapt to see the foreground: there the gain is clear of images and seeds.
# - Report several seeds: one run may differ from the next by as much as many an ablation finds.
# - Look at the images with the lowest score before you trust a mean ([failures](failures.ipynb)).
