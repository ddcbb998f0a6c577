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
# # Rank
#
# **How many dimensions does the update need?** On this base no rank from 4 to 256 differs detectably from rank 32; a
# difference of a point is not excluded. From rank 4, with {{ rank / rank 4 / trainable_parameters }} numbers to
# train, to rank 256, with {{ rank / rank 256 / trainable_parameters }}, the predictor's Dice stays between {{ rank /
# rank 4 / predictor dice }} and {{ rank / rank 128 / predictor dice }} %. The study reports a gain of
# fourteen points from rank 128 to rank 512 of 768; here the same shares of the width, 32 and 128 of 192, differ by {{
# rank / rank 128 - rank 32 / predictor dice }} points.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %% [markdown]
# ## The runs
#
# Each run differs from the others in its rank alone. `experiments.sweep` does those that are missing and leaves
# finished ones as they are; `records` reads them as two tables, a row a run and a row a score.
# Runs may have shared the processor: their seconds do not compare ranks.

# %%
from lorasam_core import charts, experiments, plots, stats
from lorasam_core.experiments import records, study
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "rank", folder, data, workers)
kept = records.read_edition(folder)
page = report.Page(kept, "results/rank")
page.banner(written=True)

# %%
dice = kept.scores[kept.scores["measure"] == "predictor dice"].merge(kept.runs, on="run")
sweep = dice[dice["experiment"] == "rank"]
kept.runs[kept.runs["experiment"] == "rank"][["run", "name", "rank", "learning_rate", "steps", "seconds"]]

# %% [markdown]
# ## Measured, and reported by the study
#
# Means over test images with 95 % intervals over papers or specimens, and the difference to the lowest of the study's
# ranks on the same images. A difference counts when it is clear of what other images and another seed may do together;
# what seeds do is estimated from three runs of one configuration. The study's Dice stands beside ours to compare the
# *shape* of the result: its model, data and machine are others.

# %%
reference = study.equivalent("rank", kept.runs["model"].iloc[0])[0]
reference = reference if reference in set(sweep["rank"]) else sweep["rank"].min()
means = stats.mean_interval(sweep, "rank").sort_values("rank")
noise = stats.seed_noise(dice[dice["experiment"] == "noise"])
differences = stats.verdict(stats.paired(sweep, "rank", reference), noise)

# %%
table = means.merge(differences[["rank", "difference", "verdict"]], on="rank", how="left")
table["trainable"] = table["rank"].map(sweep.groupby("rank")["trainable_parameters"].first())
model = kept.runs["model"].iloc[0]
table["reported"] = [study.reported("rank", rank, model)[0] for rank in table["rank"]]
table = table.astype({"reported": float})
shown = table[["rank"]].assign(
    **{"trainable parameters": table["trainable"].map("{:,}".format), "test Dice, %": stats.as_text(table)},
    difference=(100 * table["difference"]).map("{:+.1f}".format).replace("+nan", "–"),
    verdict=table["verdict"].fillna("–"),
    **{f"test Dice, %, {study.REPORTED}": table["reported"].map("{:.2f}".format).replace("nan", "–")},
)
caption = f"Test Dice of the predictor by rank, the difference to rank {reference} in points, and the study's Dice."
page.table(shown, "rank", caption, sweep["run"], table)

# %%
frozen = stats.mean_interval(dice[dice["method"] == "frozen"].drop_duplicates("id"), "method")
caption = (
    "Test Dice by rank. Bars are 95 % intervals over groups, diamonds are reported by the study, the band is frozen."
)
alt = "Dice over the ranks with error bars, the study's reported Dice beside it, the frozen model as a band."
figure = charts.ablation_chart(table, "rank", frozen)
page.figure(figure, "rank-dice", caption, alt, sweep["run"], table)

# %% [markdown]
# The measured line is level where the reported one climbs. The bars reflect the sampling of test images, and they are
# wide because micrographs differ; the verdicts are drawn from paired differences, which are far narrower. Seeds may
# move a single run by more than any of these differences.
#
# ## Rank or step size?
#
# Two things change with the rank: how many directions the update has, and how large a step of the optimiser is,
# because $s\,BA$ grows with the number of its columns unless the factor $s$ divides it ([the layer's
# page](lora_layer.ipynb) derives both). If the rank counts, the Dice changes with it under any rule. If only the step
# counts, it stays level under the rule that keeps the step, and at one rank the rules differ. Here nothing differs:
# at the best learning rate rank 256 reaches {{ scaling / rank 256, alpha?r / predictor dice }} % with the factor
# divided by $r$ and {{ rank / rank 256 / predictor dice }} % undivided.

# %%
rules = dice[dice["experiment"].isin(["rank", "scaling"])].copy()
rules["rule"] = rules["scaling"].where(rules["factor"] < 1, "none")
by_rule = stats.mean_interval(rules, ["rule", "rank", "factor"]).sort_values(["rule", "rank"])
shown = by_rule[["rule", "rank"]].assign(
    **{"factor of B A": by_rule["factor"].map("{:.3g}".format), "test Dice, %": stats.as_text(by_rule)}
)
caption = "Test Dice by scaling rule and rank, all at one learning rate."
page.table(shown, "rank-scaling", caption, rules["run"], by_rule)

# %% [markdown]
# A rate that is already the best has no room for a larger step to show. At a tenth of it, where a larger step is known
# to help ([learning rate](learning_rate.ipynb)), rank 256 without a division is {{ scaling_low_rate / rank 256 at
# 0.0001 - rank 32 at 0.0001 / predictor dice }} points from rank 32, and divided by $r$ {{ scaling_low_rate / rank 256
# at 0.0001, alpha?r - rank 32 at 0.0001 / predictor dice }}. That is what an effect of the step alone would look like,
# but no more than images and seeds may do together.

# %%
lower = dice[dice["experiment"] == "scaling_low_rate"]
if len(lower):
    compared = stats.verdict(stats.paired(lower, "name", lower["name"].iloc[0]), noise)
    shown = compared[["name"]].assign(
        **{"difference, points": stats.as_text(compared, sign=True), "verdict": compared["verdict"]}
    )
    caption = f"Test Dice against *{lower['name'].iloc[0]}*, paired on the same images."
    page.table(shown, "rank-low-rate", caption, lower["run"], compared)

# %% [markdown]
# ## The rank that was used
#
# A trained rank is a limit. How much of it an update $s\,BA$ uses shows in its singular values: the *effective rank*
# {cite:p}`roy2007effective` is the exponential of the entropy of their shares, as many as there are if all are equal,
# and one if one is all there is.

# %%
import pandas as pd

values = [{"run": r.run_id, **row} for r in kept.records for row in r.metrics.get("spectrum", [])]
spectrum = pd.DataFrame(values, columns=["run", "matrix", "norm", "effective_rank", "rank_90", "rank_99"])
spectrum = spectrum.merge(sweep[["run", "rank"]].drop_duplicates(), on="run")
used = spectrum.groupby("rank")[["effective_rank", "rank_90", "rank_99"]].median().round(1).reset_index()
used.columns = ["rank", "effective rank", "values for 90 % of the energy", "values for 99 %"]
caption = "What the learnt updates used of their rank: medians over all adapted matrices."
page.table(used, "rank-used", caption, spectrum["run"])

# %% [markdown]
# An update of rank 256 uses far less than its limit. Whether it needs what it uses is another question: an adapter can
# be cut down to its largest singular values after training, which is the nearest update of that rank, and asked again.

# %%
cut = pd.DataFrame(
    [
        {"rank": r.config.rank, "singular values kept": int(left), **found}
        for r in kept.experiment("rank")
        for left, found in r.metrics.get("truncated", {}).items()
    ]
)
if len(cut):
    caption = "Test Dice of an adapter cut down, without training, to its largest singular values."
    shown = cut[["rank", "singular values kept"]].assign(**{"test Dice, %": stats.as_text(cut)})
    page.table(shown, "rank-cut", caption, sweep["run"], cut)

# %% [markdown]
# ## One image, three ranks
#
# A number can hide what kind of error it counts. These are the mask generator's instances on one test image, where the
# edition has the adapters; a published one has none of this sweep, and shows the image and its labels only.

# %%
from lorasam_core.masks.generator import QUICK_SETTINGS, MaskGenerator
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lora import load_adapter

(sample,), note = report.picture_samples(kept, count=1)
pictures = {"input": plots.rgb(sample.image), "labels": plots.instance_mosaic(sample.image, sample.labels)}
for record in [r for r in kept.experiment("rank") if r.adapter][:3]:
    sam = report.load_base(record.config, resolve_device("auto"))
    load_adapter(sam, record.adapter)
    found = MaskGenerator(sam, **QUICK_SETTINGS).generate(sample.image)
    pictures[f"rank {record.config.rank}: {len(found)} masks"] = plots.instance_mosaic(sample.image, found)

# %%
alt = "A micrograph, its labels, and the instances found at increasing ranks, each in a random colour on black."
page.figure(plots.panels(pictures), "rank-instances", f"One test image and what is found in it. {note}", alt)

# %% [markdown]
# ## What to take away
#
# - Start with a small rank. On this base rank 4 trains an eighth of what rank 32 does, and no test here tells them
#   apart.
# - Before you raise the rank, raise the learning rate: with a factor that does not divide by the rank, a larger rank
#   *is* a larger step.
# - The study's climb from rank 128 to 512 does not repeat. Rank 512 of 768 is past the rank at which $A$ and $B$ hold
#   more numbers than the matrix they update: a step that grows with the rank is one possible reading of that climb,
#   which this page cannot confirm.
