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
# # What to train, and what else could
#
# **Does the gain come from LoRA itself, from where it sits, or from what it is trained for?** Full fine-tuning
# reaches a Dice of {{ rivals / every weight / predictor dice }} % where LoRA reaches {{ rivals / LoRA* / predictor
# dice }} %, a difference of {{ rivals / every weight - LoRA* / predictor dice }} points; training the mask decoder
# alone differs by {{ rivals / mask decoder alone - LoRA* / predictor dice }}. A U-Net from scratch differs by {{
# rivals / U-Net from scratch - LoRA* / predictor dice }}. LoRA trains {{ rivals / LoRA / trainable_parameters }}
# numbers for this, full fine-tuning {{ rivals / every weight / trainable_parameters }}. Where the adapter sits
# matters less than that.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% [markdown]
# ## The runs
#
# Three experiments, each around the main configuration, which has several seeds: other methods, other places for the
# adapter, other objectives. Runs that differ in their seed alone are one configuration; the page reads them and does
# none (`experiments.sweep` would, as on [rank](rank.ipynb)).

# %%
import pandas as pd

from lorasam_core import charts, plots, stats
from lorasam_core.config import UNRATED
from lorasam_core.experiments import records
from lorasam_core.report import page as report

kept = records.read_edition(report.edition_folder(profile, edition, data))
page = report.Page(kept, "results/rivals")
page.banner(written=True)

# %%
runs = kept.runs[kept.runs["experiment"].isin(["rivals", "where", "objective"])]
runs = runs.assign(configuration=runs["name"].str.replace(r", seed \d+$", "", regex=True))
references = runs[runs["method"] == "lora"].groupby("experiment")["configuration"].first().to_dict()
untrained = set(runs.loc[runs["steps"] == 0, "configuration"])

# %% [markdown]
# A mask generator has two thresholds for its masks, chosen here for each model and seed by the greatest F1 on
# validation images. What finds particles without a mask generator has no such thresholds, and its F1 is what it is; a
# watershed's one setting is chosen on the same validation images.

# %%
words = {"predictor dice": "Dice", "point iou_rated": "IoU from one point", **report.instance_measures(kept)}
scores = kept.scores.merge(runs, on="run")
own = scores[scores["method"].isin(UNRATED) & (scores["measure"] == "generator f1")]
scores = pd.concat([scores, own.assign(measure="generator_tuned f1")])
scores = scores.assign(measure=scores["measure"].map(words)).dropna(subset=["measure"])

# %% [markdown]
# Each configuration is compared with LoRA as it was trained for the main run, on the same images. What another seed
# may do is estimated from the seeds of the latter, and taken to be the same for every configuration that is trained.

# %%
rows = []
for (experiment, measure), part in scores.groupby(["experiment", "measure"], sort=False):
    reference = references.get(experiment)
    if reference in set(part["configuration"]):
        noise = stats.seed_noise(part[part["configuration"] == reference])
        compared = stats.verdict(stats.paired(part, "configuration", reference), noise, untrained)
        rows += compared.assign(experiment=experiment, measure=measure).to_dict("records")
columns = ["experiment", "measure", "configuration", "difference", "low", "high", "seeds", "verdict"]
differences = pd.DataFrame(rows, columns=columns)

# %%
differences["difference, points"] = stats.as_text(differences, sign=True)
table = stats.mean_interval(scores, ["experiment", "measure", "configuration"])
table["mean, %"] = stats.as_text(table)
columns = ["experiment", "measure", "configuration", "difference, points", "verdict"]
table = table.merge(differences[columns], how="left").fillna({"difference, points": "–", "verdict": "–"})

# %% [markdown]
# ## Against other methods: the foreground
#
# Which pixels are particle? The frozen model, LoRA, and the same model with its mask decoder or every weight trained
# are asked with a box around the whole image, our reading of how the study asks its predictor. A U-Net
# {cite:p}`ronneberger2015unet` that starts from nothing, and Otsu's threshold, which learns nothing at all, give the
# mask directly. A watershed divides that mask without changing it.

# %%
rivals = runs[runs["experiment"] == "rivals"]
methods = table[table["experiment"] == "rivals"].sort_values("mean", ascending=False)
columns = ["configuration", "mean, %", "difference, points", "verdict"]
against = f"difference to {references.get('rivals', 'LoRA')}, points"
names = {"configuration": "method", "difference, points": against}
shown = methods[methods["measure"] == "Dice"]
caption = "Foreground: test Dice with 95 % intervals over groups, and the paired difference."
names["mean, %"] = "test Dice, %"
page.table(shown[columns].rename(columns=names), "rivals-foreground", caption, rivals["run"], shown)

# %% [markdown]
# The study reports no other method than LoRA and the frozen model.
#
# ## Against other methods: single particles
#
# A foreground can be right and every particle lost in it. AP50 and F1 count instances. Those of a U-Net and of the
# threshold are the connected parts of the foreground, so that particles which touch are one unless a watershed divides
# them; they have no score to be ranked by, hence no AP.

# %%
instances = methods[methods["measure"].isin(["AP50", "F1, thresholds by validation"])]
shown = instances.sort_values("measure", kind="stable")
caption = "Single particles: test AP50 and F1 with 95 % intervals over groups, and the paired difference."
names["mean, %"] = "test value, %"
page.table(shown[["measure", *columns]].rename(columns=names), "rivals-instances", caption, rivals["run"], shown)

# %%
compared = differences[differences["experiment"] == "rivals"]
compared = compared[compared["measure"] != "IoU from one point"]
caption = f"Paired differences to LoRA with 95 % intervals over groups. {charts.KEY}"
alt = "For each method a point with an interval on an axis of differences to LoRA, in a panel for each metric."
if len(compared):
    figure = charts.difference_chart(compared, "configuration")
    page.figure(figure, "rivals-differences", caption, alt, rivals["run"], compared)

# %% [markdown]
# Left of zero LoRA is better. The grey is widest for F1, because the thresholds are chosen anew for each seed, on a few
# validation images. The intervals reflect other test images, not other settings of a rival; and what starts from
# nothing may vary more with its seed than LoRA does: [the same training on two kinds of processor](how-equal) parts a
# U-Net further.
#
# ## What it costs
#
# What has to be made, kept and shipped for every new material. A LoRA adapter is a small file beside one base; whoever
# trains more ships more. Memory is the training's, of the whole process.

# %%
cost = rivals.drop_duplicates("configuration")
shown = {
    "method": cost["configuration"],
    "trained numbers": cost["trainable_parameters"].map("{:,.0f}".format),
    "MB to ship": (4e-6 * cost["trainable_parameters"]).map("{:.1f}".format),
    "steps": cost["steps"],
    "learning rate": cost["learning_rate"].map(plots.setting),
    "minutes of a core": (cost["processor_seconds"].astype(float) / 60).map("{:.0f}".format),
    "memory, MB": cost["training_memory_mb"].astype(float).map("{:,.0f}".format),
}

# %%
shown = pd.DataFrame(shown).astype(object).replace("nan", "–")
shown.loc[cost["steps"] == 0, list(shown)[1:]] = "–"
caption = (
    "What each method costs for a new material: weights in float32; the processor time and memory of its training."
)
page.table(shown, "rivals-cost", caption, rivals["run"], cost)

# %% [markdown]
# The learning rates of the rivals are usual ones for such methods; none was tuned, while LoRA's was compared in [a
# sweep](learning_rate.ipynb). All methods that train take as many steps, and a network that starts from nothing may
# need more. So this page shows how methods compare as they were run here, not what tuning would do to a gap.
#
# ## Where: which matrices, which blocks
#
# The study put LoRA into the attention layers of the image encoder. *q*, *k* and *v* make queries, keys and values of
# the attention, *proj* brings its output back, and the MLP holds the other two linear layers. Blocks with windows let a
# token see its surroundings, those with global attention the whole image.

# %%
where = runs[runs["experiment"] == "where"]
numbers = where.drop_duplicates("configuration").set_index("configuration")["trainable_parameters"]
places = table[(table["experiment"] == "where") & (table["measure"] == "Dice")]
places = places.assign(trainable=places["configuration"].map(numbers)).sort_values("trainable")
places["trainable parameters"] = places["trainable"].map("{:,.0f}".format)
against = f"difference to {references.get('where', 'q, v; all blocks')}, points"
names = {"configuration": "adapted", "mean, %": "test Dice, %", "difference, points": against}
shown = places[["configuration", "trainable parameters", *columns[1:]]].rename(columns=names)
caption = "Where the adapter sits: test Dice with 95 % intervals over groups, and the paired difference."
page.table(shown, "where", caption, where["run"], places)

# %%
compared = differences[differences["experiment"] == "where"]
caption = f"Paired differences to the main configuration with 95 % intervals over groups. {charts.KEY}"
alt = "For each place of the adapter a point with an interval on an axis of differences, in three panels."
if len(compared):
    figure = charts.difference_chart(compared, "configuration")
    page.figure(figure, "where-differences", caption, alt, where["run"], compared)

# %% [markdown]
# A hollow point whose interval is clear of zero is within what another seed may do. Each interval stands alone: of
# twenty comparisons of equals, about one excludes zero by chance. And no detectable difference is no proof of equality:
# the interval says how large a loss is not excluded.
#
# ## What it is asked for
#
# The objective `semantic`, our reading of the study's, prompts with the whole image and wants all particles in one
# mask. `instance` prompts with points and boxes, wants single particles, and trains the model's rating of its own
# masks. `mixed` alternates the two. The mask generator lives on points and on that rating, of which a model that is
# only ever asked for the union is taught neither.

# %%
asked = table["measure"].isin(["Dice", "IoU from one point", "AP50"])
objectives = table[(table["experiment"] == "objective") & asked]
against = f"difference to {references.get('objective', 'mixed')}, points"
names = {"configuration": "objective", "mean, %": "test value, %", "difference, points": against}
shown = objectives[["measure", *columns]].rename(columns=names)
caption = "What the adapter is trained for: test values with 95 % intervals over groups, and the paired difference."
page.table(shown, "objective", caption, runs.loc[runs["experiment"] == "objective", "run"], objectives)

# %% [markdown]
# The steps are the same for all, so `mixed` spends half as many on each of its two questions as the others do on their
# one.
#
# ## What to take away
#
# - To go further than LoRA, train every weight, and pay with a file as large as the model.
# - Before you train for single particles, try a threshold and a watershed: LoRA is not shown to do better.
# - Start with *q* and *v* in all blocks: no other place for the adapter is shown to do better.
