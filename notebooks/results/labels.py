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
# # How many labels
#
# Labels are what a segmenter costs: someone outlines every particle of every image. This page trains on one image, on
# two, on four and so on up to all, once an adapter on the frozen model and once a U-Net from nothing, and asks two
# things: how many labelled images does one need, and when does the U-Net catch up?

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import page as report
from lorasam_core.report.chapters import budgets, comparison_plots, comparisons, label_counts
from lorasam_core.experiments.records import read_edition

page = report.Page(read_edition(report.edition_folder(profile, edition, data)), "results/labels")
page.banner()

# %% tags=["hide-input"]
main = report.adapted_runs(page.edition)
seeds = comparisons.groups(comparisons.with_seeds(main, page.edition.records))[0]
noise = {measure: comparisons.seed_noise(seeds, measure)["least"] for measure in comparisons.MEASURES}
unets = [record for record in report.records_of(page.edition, "rivals") if record.config.method == "unet"]
fewer = report.records_of(page.edition, "labels")
records, frozen = [*fewer, *seeds, *unets], report.frozen_runs(page.edition)

# %% [markdown]
# ## Dice and instances by number of images
#
# The images are drawn once, and a larger number holds the smaller one. Every run takes as many steps as the others, so
# that one with few images sees each of them more often. AP needs a score for every instance, which the connected parts
# of a U-Net's foreground do not have: F1 stands beside it. The adapted models' F1 is under one pair of thresholds for
# all, which costs them some of it ([against what else](rivals.ipynb) has both, for all images); the U-Net has no
# thresholds to choose.

# %% tags=["hide-input"]
images = page.edition.info["images"]
table = label_counts.label_table(records, images["train"])
caption = "Test metrics by number of training images, in % with 95 % intervals."
page.table(label_counts.label_display(table), "labels", caption, data=table)
page.say(report.left_out_sentence(page.edition, "labels"))

# %% tags=["hide-input"]
places = {measure: comparisons.MEASURES[measure] for measure in label_counts.ASKED}
found = {m: report.interval(frozen, evaluator, metric) for m, (evaluator, metric, _) in places.items()}
level = {m: {key: 100 * values[key] for key in ("mean", "low", "high")} for m, values in found.items()}
if fewer:
    caption = "Test metrics by number of training images with 95 % intervals; the band is the frozen model."
    alt = "Lines of the adapted model and of a U-Net over the number of training images, in panels, with error bars."
    page.figure(comparison_plots.label_chart(table, level), "labels-curves", caption, alt, data=table)

# %% [markdown]
# ## How many does one need?

# %% tags=["hide-input"]
for measure in label_counts.ASKED if fewer else ():
    page.say(label_counts.enough_sentence(records, images["train"], frozen, measure, noise[measure]))
page.say(
    f"Each run chooses its best state on the same {images['val']} validation images, whose labels come on top.",
    "The state before training is not among them: where few images harm, the frozen model would be the better choice.",
    f"The study labelled {report.STUDY['images']} images in all ({report.REPORTED}), and says nothing of fewer.",
)

# %% [markdown]
# ## When does a U-Net catch up?

# %% tags=["hide-input"]
for measure in ("predictor_dice", "f1") if fewer else ():
    page.say(label_counts.catch_up_sentence(records, images["train"], measure, noise[measure]))
page.say(budgets.steps_note(records))
page.say(
    "One draw of images stands behind each number below all: with one or two images, which ones they are may matter "
    "more than anything else here, and no interval above holds that. The U-Net has one learning rate, a usual one, and "
    "as many steps as the adapter, which for a network that starts from nothing are few."
    if fewer else "This edition has only the run on all images: neither question of this page is answered here yet."
)  # fmt: skip
