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
# # Adapt the model to your particles
#
# **A few labelled images in, an adapter out, and what it gained.** One image is enough to train on; two specimens are
# needed to learn anything about new ones. With few groups the gain is measured by cross-validation: each image is asked
# of an adapter that never saw its specimen. As it stands this page adapts to the demonstration of [look](look.ipynb),
# in far too few steps to gain much. With your folder, here or on the command line:
#
# ```bash
# lorasam adapt path/to/labelled --out my-adapter
# ```
#
# Labels need not be drawn from nothing: let the model make a draft, and remove, split and add particles, as
# [label](label.ipynb) shows. What the draft never finds is easily missed in the labels as well.

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
folder: str = ""  # images/ with labels/ or masks/; "": a demonstration is made
output: str = ""  # folder for the adapter; "": your-particles/adapter beside the edition's figures
start: str = ""  # adapter to go on from: a file, or none; "": the one that ships, where it fits
steps: int = 0  # optimiser steps; 0: from the number of images, or 8 for the demonstration
folds: int = 0  # of the cross-validation; 0: three, and a split from ten groups on
points: int = 0  # along a side of each tile's grid; 0: what the start says
mask: str = "auto"  # which of two values is particle: bright, dark or auto
ignore: int = 0  # a value of the labels that is background; 0: none
tiff_page: int = 0  # to read, from 1, where a TIFF holds several; 0: the only one
pixel_size: float = 0.0  # nm a pixel of all images; 0: from pixel_size.csv or the files

# %%
from lorasam_core import charts, experiments, plots
from lorasam_core.data.demo import write_demo
from lorasam_core.experiments.records import read_edition, root
from lorasam_core.report import page as report

place = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "adapt", place, data)
page = report.Page(read_edition(place), "your_particles/adapt")
page.banner()
here = root() / folder if folder else write_demo(page.folder / "your-particles" / "demo")
out = root() / output if output else page.folder / "your-particles" / "adapter"

# %% [markdown]
# ## The plan
#
# Each setting follows from the images: windows in which small particles are more than a dot and large ones less than
# the whole view, and steps by the number of images.

# %%
from lorasam_core.experiments.adapt import adapt
from lorasam_core.experiments.adapt_plan import limits, prepare

few = steps or (None if folder else 8)
reading = {"mask": mask, "ignore": ignore or None, "page": tiff_page or None, "pixel_size": pixel_size or None}
plan = prepare(here, start=start or None, steps=few, folds=folds or None, points=points or None, **reading)
print(*(f"{name}: {reason}" for name, reason in plan.reasons.items()), sep="\n")
print(*limits(plan), sep="\n")

# %% [markdown]
# ## Training
#
# The folds of the cross-validation first, then the adapter that is kept, on all images. Stopped, it goes on from its
# last checkpoint.

# %%
import pandas as pd

result = adapt(plan, out)
history = pd.read_csv(out / "state" / "adapted" / "history.csv")
caption = "Training of the adapter that is kept. The score of a few training images is shown, and chooses nothing."
alt = "The training loss by optimiser step."
page.figure(charts.curves(history), "your-training", caption, alt, data=history)

# %% [markdown]
# ## What it gained
#
# Dice of the foreground; AP50 and F1 of single particles, at an IoU of 0.5; the error of the median diameter. Each
# model has a threshold of its own, and no image chooses the threshold that it is judged with.

# %%
from lorasam_core.experiments.adapt_report import table

caption = "Means over the images that were held out; the difference with an interval where there are groups enough."
page.table(table(result.rows), "your-gain", caption, data=result.rows)

# %%
held = plan.test[0] if plan.test else None
pictures = {}
if held is not None:
    sample = plan.sample(held)
    pictures["labels"] = plots.outlines(sample.image, sample.labels, numbers=False)
    for model in ("frozen", "adapted"):
        pictures[model] = plots.outlines(sample.image, result.labels(model, held), numbers=False)

# %%
caption = "An image that was held out: its labels, what the frozen model finds, and what the adapted one finds."
alt = "The same micrograph three times, with outlines of labelled particles and of those that the two models found."
if pictures:
    page.figure(plots.panels(pictures), "your-masks", caption, alt)

# %% [markdown]
# Look for what is wrong in the same way twice: particles merged where they touch, small ones missing, background taken
# for particles. Label one more image that shows it, and adapt again.
#
# ## What you have now
#
# `adapter.safetensors` holds A and B alone, with its threshold, the size of its particles and its card in the metadata;
# `report.html` shows all this in one file that you can send. To use it:

# %%
from lorasam_core.experiments.adapt_report import command

print(command(result))
