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
# # Labels
#
# **How many labelled images does an adapter need, and do they serve another material?** With 64 images the Dice is {{
# labels / 64 images / predictor dice }} %, with all of them {{ main / main* / predictor dice }} %, and no test here
# tells the two apart; with one or two images it falls below the frozen model's {{ main / frozen / predictor dice }}
# %. For single particles more labels are not shown to help, under these thresholds. And labels of another material
# can harm: an adapter that learnt from generated particles reaches {{ other_material / trained on generated particles
# / predictor dice }} % on micrographs.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% [markdown]
# ## The runs
#
# Training images are drawn once, and a larger number holds the smaller one. Every run takes as many steps as the
# others, so that one with few images sees each of them more often; each chooses its best state on the same validation
# images, whose labels come on top. The U-Net starts from random weights, at a usual learning rate that was not tuned.
# The frozen model has learnt from 0 images.

# %%
from pathlib import Path

import pandas as pd

from lorasam_core import charts, stats
from lorasam_core.experiments import records
from lorasam_core.report import page as report

kept = records.read_edition(report.edition_folder(profile, edition, data))
page = report.Page(kept, "results/labels")
page.banner(written=True)

# %%
total = kept.info["images"]["train"]
drawn = kept.runs[kept.runs["experiment"] == "labels"]
if drawn["train_limit"].notna().all():  # an edition whose runs of all images stand elsewhere
    drawn = pd.concat([kept.runs.query("experiment == 'main' or method == 'unet'"), drawn])
frozen = kept.runs.query("experiment == 'main' and method == 'frozen'")
runs = pd.concat([frozen, drawn]).drop_duplicates("run")
labelled = runs["train_limit"].astype(float).fillna(total).clip(upper=total).where(runs["method"] != "frozen", 0)
series = runs["method"].map({"frozen": "frozen", "lora": "adapted", "unet": "U-Net", "unet_watershed": "U-Net"})
runs = runs.assign(labelled=labelled.astype(int), series=series)
runs[["run", "name", "series", "labelled", "steps", "images_seen", "seconds"]]

# %% [markdown]
# ## Dice and instances by number of labelled images
#
# Dice is that of the foreground, from one mask of the whole image. F1 and AP50 count single particles. AP50 needs a
# score for every instance, which the connected parts of a U-Net's foreground do not have. The F1 of the adapted models
# is under one pair of thresholds for all, which costs them some of it ([against what else](rivals.ipynb) has both).

# %%
by = "guided" if "guided f1" in set(kept.scores["measure"]) else "generator"
measures = {"predictor dice": "predictor Dice", f"{by} f1": "F1", f"{by} ap50": "AP50"}
scores = kept.scores.merge(runs[["run", "series", "labelled"]], on="run").replace({"measure": measures})
scores = scores[scores["measure"].isin(measures.values())]
means = stats.mean_interval(scores, ["measure", "series", "labelled"])
means = means.sort_values("measure", key=lambda names: names.map(list(measures.values()).index), kind="stable")

# %%
cells = means.assign(text=stats.as_text(means), column=means["measure"] + ", %: " + means["series"])
cells["column"] = cells["column"].str.replace("frozen", "adapted")  # the same model, before the first label
order = [f"{measure}, %: {name}" for measure in measures.values() for name in ("adapted", "U-Net")]
shown = cells.pivot(index="labelled", columns="column", values="text").reindex(columns=order).dropna(axis=1, how="all")
shown = shown.fillna("–").reset_index().rename(columns={"labelled": "labelled images"})
caption = "Test metrics by number of labelled training images, in % with 95 % intervals over groups; 0 is frozen."
page.table(shown, "labels", caption, scores["run"], means)

# %%
caption = "Test metrics by number of labelled training images with 95 % intervals; the band is the frozen model."
alt = "Lines of the adapted model and of a U-Net over the number of labelled images, in panels, with error bars."
figure = charts.interval_lines(means, "labelled", xlabel="labelled images")
page.figure(figure, "labels-curves", caption, alt, scores["run"], means)

# %% [markdown]
# ## How many are enough, and when does a U-Net catch up?
#
# Three differences, each paired on the same test images: to the frozen model (is it worth labelling at all?), to all
# images (would more labels help?) and to a U-Net of as many images. A verdict stands beside each; it allows for what
# seeds do, estimated from the seeds of the adapter of all images.

# %%
compared = []
for measure, part in scores.groupby("measure", sort=False):
    adapted, counts = part[part["series"] != "U-Net"], part.groupby("labelled")
    noise = stats.seed_noise(adapted[adapted["labelled"] == total])
    sides = {"frozen": 0, f"all {total}": total}
    for against, reference in sides.items():
        if reference in set(adapted["labelled"]):
            found = stats.verdict(stats.paired(adapted, "labelled", reference), noise, untrained=[0])
            compared.append(found.assign(measure=measure, against=against))
    for count, both in counts:
        if both["series"].nunique() == 2:
            found = stats.verdict(stats.paired(both, "series", "U-Net"), noise)
            compared.append(found.assign(measure=measure, against="U-Net", labelled=count))

# %%
rows = pd.concat(compared).query("labelled > 0").reset_index(drop=True)
rows["cell"] = stats.as_text(rows, sign=True) + ", " + rows["verdict"]
order = [f"all {total}", "frozen", "U-Net"]
shown = rows.pivot(index=["measure", "labelled"], columns="against", values="cell").reindex(columns=order)
shown.columns = [f"against {name}: points, verdict" for name in order]
shown = shown.astype(object).fillna("–").reindex(measures.values(), level=0)
shown = shown.rename_axis(["measure", "labelled images"]).reset_index()
caption = "The adapted model against three others on the same test images, with paired 95 % intervals over groups."
page.table(shown, "labels-compared", caption, scores["run"], rows)

# %% [markdown]
# Two numbers answer two questions: from which number on no loss against all images is detected, and from which on a
# gain over the frozen model is. The second is the one to plan with. One draw of images stands behind each number, and
# with one or two of them it matters which they are: no interval holds that. Where few images harm, keep the frozen
# model, for the state before training is not among those that a run may choose.
#
# ## Do the labels serve another material?
#
# - **EMPS** {cite:p}`yildirim2021emps`: electron micrographs of particles from hundreds of papers.
# - **Generated particles**: the package's own micrographs of an electron microscope that does not exist. Their labels
#   are exact.
# - **AMPIS powder**: a handful of micrographs of metal powder, the nearest public relative of the study's own
#   material. No adapter is trained on it. Its groups are single images, perhaps of one powder.
#
# No test image, nor another of its paper or specimen, was trained on. A material that the table lacks was not on the
# machine that made the runs. Levels on two materials say how hard their images are and cannot be compared; gains over
# the frozen model on the same images can.

# %%
asked = {"predictor dice": "Dice", "point iou_rated": "IoU from a point", "generator ap50": "AP50"}
names = ["run", "data", "evaluator", "id", "group"]
elsewhere = kept.table("transfer").reindex(columns=[*names, "dice", "iou_rated", "ap50"]).melt(names, var_name="of")
elsewhere["measure"] = elsewhere["evaluator"].astype(str) + " " + elsewhere["of"]
elsewhere = elsewhere.dropna().sort_values("data", kind="stable")
models = kept.runs.query("experiment in ['main', 'other_material']").drop_duplicates("run")
learnt = models["train_data"].fillna(models["data"]).where(models["method"] != "frozen", "nothing")
at_home = kept.scores.assign(data=kept.runs["data"].iloc[0])
every = pd.concat([at_home, elsewhere]).merge(models[["run"]].assign(learnt=learnt), on="run")
every = every[every["measure"].isin(asked)].replace({"measure": asked})

# %%
known = {"emps": "EMPS", "synthetic": "generated particles", "ampis_powder": "AMPIS powder"}
every[["data", "learnt"]] = every[["data", "learnt"]].map(lambda name: known.get(name, Path(name).name))
gains = []
for (material, measure), part in every.groupby(["data", "measure"], sort=False):
    if "nothing" in set(part["learnt"]):
        seeds = part[part["learnt"] == every["data"].iloc[0]]
        found = stats.verdict(stats.paired(part, "learnt", "nothing"), stats.seed_noise(seeds), ["nothing"])
        found.loc[found["groups"] < 6, "verdict"] = stats.OPEN  # a percentile bootstrap is too narrow there
        gains.append(found.assign(tested=material, measure=measure))

# %%
if gains:
    gain = pd.concat(gains, ignore_index=True)
    shown = gain[["tested", "learnt", "measure", "groups", "verdict"]].copy()
    shown.insert(4, "gain, points", stats.as_text(gain, sign=True))
    shown = shown.rename(columns={"tested": "tested on", "learnt": "learnt from"})
    caption = "What an adapter of one material gains on another over the frozen model, paired on the same images."
    page.table(shown, "transfer", caption, every["run"], gain)

# %%
if gains:
    rows = gain.assign(metric=gain["tested"] + ": " + gain["measure"], series="learnt from " + gain["learnt"])
    rows[["mean", "low", "high"]] = 100 * rows[["difference", "low", "high"]]
    caption = "The same gains over the frozen model, by what a model was tested on and how it was asked."
    alt = "Gains with intervals, a row a material and measure, a colour for what the adapter learnt from."
    page.figure(charts.interval_chart(rows, "gain, points"), "transfer-chart", caption, alt, every["run"], rows)

# %% [markdown]
# Where a row rests on four or five groups, a difference is a hint, not a finding, and its verdict says so. A gain shows
# that something carries over, a loss that something does not; which, these numbers do not say. The size of the
# particles in pixels and the generator's grid of points limit every model on the powder.
#
# ## What labelling costs
#
# The other half of the question: how much of a person's work a draft saves. Where `python -m bench.labelling` has been
# run, a figure follows; the published edition has no such record yet. A simulated user corrects the draft of each
# validation image until every particle is matched at IoU 0.5: it removes what is none, splits, merges, and adds
# what is missing by a point, one more point, and a box. The draft comes from the frozen model, and from adapters that
# have learnt from a few labelled images; *nothing* is an empty image. A real user is slower, sees less, and minds other
# errors than an IoU counts.

# %%
from lorasam_core.experiments.records import root

places = [root() / place / "bench" / "labelling.csv" for place in ("runs", "book")]
effort = next((pd.read_csv(place) for place in places if place.is_file()), pd.DataFrame())
if len(effort):
    effort = effort.dropna(subset="labelled").assign(run=effort["start"], value=effort["actions"] / effort["particles"])
    effort["series"] = effort["start"].where(effort["start"].isin(["nothing", "frozen"]), "adapted")
    effort["measure"] = effort["data"].map(lambda name: f"actions for 100 particles, {known.get(name, name)}")
    cost = stats.mean_interval(effort, ["measure", "series", "labelled"]).sort_values("labelled")
    caption = "Actions of a simulated user by what was drafted, with 95 % intervals over groups; bands need no labels."
    alt = (
        "A falling or level line of actions over the number of labelled images; bands for nothing and the frozen draft."
    )
    figure = charts.interval_lines(cost, "labelled", "", xlabel="labelled images behind the draft")
    page.figure(figure, "labels-effort", caption, alt, data=cost)

# %% [markdown]
# ## What to take away
#
# - Label some tens of images before you expect an adapter to pay, and look at the frozen model's answer first.
# - More labels raise the Dice of the foreground. They are not shown to find more particles by themselves: choose the
#   mask generator's [thresholds](failures.ipynb) anew after adapting.
# - Label your own material. What to try next: several draws of one or two images, and a few labels of the new material
#   on top of an adapter of another.
