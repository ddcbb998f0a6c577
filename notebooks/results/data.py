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
# # The data
#
# A micrograph is worth learning from when three things are known about it: which pixels belong to which particle, which
# specimen it shows, and how large a pixel is. This page looks at the micrographs of this edition, at their labels, and
# at the two steps that decide whether a result can be trusted: the split by specimen, and augmentation *after* it.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import charts, experiments, plots
from lorasam_core.experiments.records import read_edition
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "data", folder, data)
page = report.Page(read_edition(folder), "results/data")
page.banner()

# %% [markdown]
# ## Generated particles
#
# Labels drawn by hand are never exact. A generated micrograph is drawn from its particles, so that every pixel is known
# to belong to one of them, or to none. The generator piles spheres, crystals, rods and secondary particles on a
# substrate and lights them as a scanning electron microscope would: bright edges, shadows in the gaps, charging, drift,
# blur and shot noise.

# %%
from lorasam_core.data.particles import generate

generated = [generate(seed=0, index=6 * i) for i in range(6)]
pictures = {s.id: s.image for s in generated} | {
    f"{s.id}: labels": plots.instance_mosaic(s.image, s.labels) for s in generated
}
caption = (
    "Generated micrographs, each of another specimen, and their labels: a colour a particle, black for background."
)
alt = "Six grey micrographs of round, facetted and rod-like particles, and below them every particle in one colour."
page.figure(plots.panels(pictures, columns=6), "data-generated", caption, alt)

# %% [markdown]
# The labels number what is visible of each particle: what lies beneath another one, or in deep shadow, has no label.
#
# ## The micrographs of this edition
#
# Training, validation and test of this edition use the following data set.

# %%
samples, note = report.picture_set(page.edition)
chosen, _ = report.picture_samples(page.edition, part="train", count=6)
pictures = {s.id: plots.rgb(s.image) for s in chosen}
pictures |= {f"{s.id}: labels": plots.instance_mosaic(s.image, s.labels) for s in chosen}
caption = f"Six training images of this edition and their labels. {note}"
alt = "Six micrographs of particles, and below them the labels: one random colour a particle on black."
page.figure(plots.panels(pictures, columns=6), "data-images", caption, alt)

# %% [markdown]
# Images differ in contrast, in magnification and in how densely the particles lie: an adapter has to do for all of
# them.

# %% [markdown]
# ## Split by specimen, before anything else
#
# Two images of one specimen look alike, and two crops of one image more so. If one of them is trained on and the other
# tested, the test measures memory. So whole *groups* (specimens, or the papers that images come from) are dealt to
# training, validation and test, 7 : 2 : 1, and only then is anything cropped or augmented. EMPS keeps its official test
# set.
#
# What a number on these images can mean depends on what they show: how many particles an image holds, how much of it
# they cover, how large it is beside a training crop, and whether its scale is known.

# %%
import pandas as pd

parts = {part: samples.subset(part) for part in ("train", "val", "test")}
held = pd.DataFrame([
    {
        "part": part, "group": s.group, "particles": len(set(s.labels[s.labels > 0])),
        "scale": s.pixel_size is not None, "covered, %": 100 * s.foreground.mean(),
        "longer side, pixels": max(s.shape),
    }
    for part, some in parts.items() for s in some
])  # fmt: skip

# %%
by_part = held.groupby("part", sort=False)
table = by_part["group"].agg(images="size", groups="nunique")
table["particles"], table["images with a scale"] = by_part["particles"].sum(), by_part["scale"].sum()
for name in ("particles", "covered, %", "longer side, pixels"):
    found = by_part[name].agg(["median", "min", "max"]).round().astype(int)
    table[f"{name}: median (range)"] = [f"{m} ({low} to {high})" for m, low, high in found.itertuples(index=False)]
caption = f"Images, their groups and what they hold; no group is in two parts. {note}"
page.table(table.reset_index(), "data-split", caption, data=held)

# %% [markdown]
# What would happen without groups? Deal the same images at random, and count the test images that share a group with
# training.

# %%
import numpy as np

order = np.random.default_rng(0).permutation(list(samples.ids))
train, test = order[: len(parts["train"])], order[-len(parts["test"]) :]
trained = {samples.groups[i] for i in train}
leaked = sum(samples.groups[i] in trained for i in test)
print(f"dealt image by image, {leaked} of {len(test)} test images share a group with training")

# %% [markdown]
# ## The virtual set
#
# The study cut and transformed its images into a fixed, larger set before training. Here no such set is stored: item
# *i* of a **virtual set** is computed when it is asked for, and depends on the seed and *i* alone, so that any worker
# of any run draws the same crop. An item takes a window of one training image, rotates it by 0 to 90 degrees, crops it,
# flips it, and changes contrast and gamma. Image and labels go through the same geometry.

# %%
from lorasam_core.data.virtual import VirtualSet

parent = max(chosen, key=lambda s: s.labels.max())  # the busiest
variants = VirtualSet([parent], size=8, seed=0, crop_size=min(256, *parent.shape))
pictures = {"parent": plots.rgb(parent.image)} | {f"item {i}": plots.rgb(variants[i][0]) for i in range(5)}
pictures["parent: labels"] = plots.instance_mosaic(parent.image, parent.labels)
pictures |= {f"item {i}: labels": plots.instance_mosaic(*variants[i]) for i in range(5)}
caption = f"One training image, five items of its virtual set, and their labels: a particle keeps its colour. {note}"
alt = "A micrograph and five crops of it, rotated, mirrored, brighter and darker; below them their labels."
page.figure(plots.panels(pictures, columns=6), "data-variants", caption, alt)

# %% [markdown]
# An epoch is this many items, of so many training images, here and in the study:

# %%
study = report.STUDY
f"{len(VirtualSet(parts['train'])):,} of {len(parts['train'])}; {study['augmented_images']:,} of {study['images']}"

# %% [markdown]
# ## Sizes
#
# What the masks are for: a size distribution. The equivalent diameter of a particle is that of a disc of the same area;
# ten, fifty and ninety percent of the particles are smaller than D10, D50 and D90. That is by number; laser diffraction
# reports the same letters by volume. Particles that the image's edge cuts are left out.

# %%
from lorasam_core.measure.sizes import measure, size_distribution

busiest = held[held["part"] == "train"].groupby("group")["particles"].sum().idxmax()
shown = [s for s in parts["train"] if s.group == busiest]  # sizes of different powders make no distribution
table = pd.concat([measure(s.labels, s.pixel_size).assign(image=s.id) for s in shown])
found = size_distribution(table)

# %%
whole_ones = table[~table["touches_border"]]
diameters = {"labels": whole_ones["equivalent_diameter"].to_numpy()}
caption = f"Sizes of the labelled particles of one group ({busiest}); dots mark D10, D50 and D90. {note}"
alt = "A cumulative curve of equivalent diameters, and a histogram."
page.figure(charts.size_plot(diameters, found["unit"]), "data-sizes", caption, alt, data=whole_ones)

# %% [markdown]
# What becomes of such a distribution when the particles are found rather than labelled is asked on [the page of
# sizes](size_errors.ipynb).
