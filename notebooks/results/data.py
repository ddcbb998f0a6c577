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

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import charts, experiments, plots
from lorasam_core.report import page as report
from lorasam_core.experiments.records import read_edition

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

# %% tags=["hide-input"]
from lorasam_core.data.particles import generate

generated = [generate(seed=0, index=3 * i) for i in range(12)]
caption = "Generated micrographs, each of another specimen."
alt = "Twelve grey micrographs of powders: round, facetted and rod-like particles, loose, packed and in clusters."
page.figure(plots.contact_sheet(generated), "data-generated", caption, alt)

# %% tags=["hide-input"]
count = sum(s.labels.max() for s in generated)
sizes = [s.pixel_size for s in generated]
page.say(
    f"The twelve images hold {count:,} labelled particles; "
    f"their pixels are {min(sizes):.1f} to {max(sizes):.1f} nm wide."
)

# %% [markdown]
# The labels number what is visible of each particle: what lies beneath another one, or in deep shadow, has no label.

# %% tags=["hide-input"]
caption = "The labels of the same twelve images: a colour for each particle, black for background."
alt = "Twelve label images: every particle of the images above as a patch of one random colour on black."
page.figure(plots.contact_sheet(generated, labels=True), "data-generated-labels", caption, alt)

# %% [markdown]
# ## The micrographs of this edition
#
# Training, validation and test of this edition use the following data set.

# %% tags=["hide-input"]
samples, note = report.picture_set(page.edition)
chosen, _ = report.picture_samples(page.edition, part="train", count=12)
caption = f"Twelve training images of this edition. {note}"
alt = "Twelve micrographs of particles from the training part of this edition's data set."
page.figure(plots.contact_sheet(chosen), "data-images", caption, alt)

# %% [markdown]
# Look at how much the images differ in contrast, in magnification and in how densely the particles lie: an adapter has
# to do for all of them.

# %% tags=["hide-input"]
caption = f"Their labels. {note}"
alt = "The labels of the twelve training images: one random colour a particle on black."
page.figure(plots.contact_sheet(chosen, labels=True), "data-labels", caption, alt)

# %% tags=["hide-input"]
particles = [len(set(s.labels[s.labels > 0])) for s in chosen]
shares = [100 * s.foreground.mean() for s in chosen]
page.say(
    f"These images hold {min(particles)} to {max(particles)} particles each, which cover {min(shares):.0f} to "
    f"{max(shares):.0f} % of the image."
)
page.say(*samples.notes)

# %% [markdown]
# ## Split by specimen, before anything else
#
# Two images of one specimen look alike, and two crops of one image more so. If one of them is trained on and the other
# tested, the test measures memory. So whole *groups* (specimens, or the papers that images come from) are dealt to
# training, validation and test, 7 : 2 : 1, and only then is anything cropped or augmented. EMPS keeps its official test
# set.

# %% tags=["hide-input"]
import pandas as pd

parts = {part: samples.subset(part) for part in ("train", "val", "test")}
noun = "paper" if samples.name == "emps" else "specimen"  # what its groups are
rows = [(part, len(s), len(set(s.groups.values()))) for part, s in parts.items()]
split = pd.DataFrame(rows, columns=["part", "images", f"groups ({noun}s)"])
page.table(split, "data-split", f"Images and groups of each part; no group is in two of them. {note}")

# %% [markdown]
# What a number on these images can mean depends on what they show: how many particles an image holds, how much of it
# they cover, how large it is beside a training crop, and whether its scale is known.

# %% tags=["hide-input"]
from lorasam_core.data.holdings import holdings

caption = f"What the images hold: medians, and from the least to the most. {note}"
page.table(holdings(parts), "data-images-held", caption)

# %% [markdown]
# What would happen without groups? Deal the same images at random, and count the test images that share a group with
# training.

# %% tags=["hide-input"]
import numpy as np

order = np.random.default_rng(0).permutation(list(samples.ids))
train, test = order[: len(parts["train"])], order[-len(parts["test"]) :]
trained = {samples.groups[i] for i in train}
leaked = sum(samples.groups[i] in trained for i in test)
page.say(
    f"Dealt image by image, {leaked} of the {len(test)} test images would come from a {noun} that was also trained on. "
    "Dealt by group, none does."
)

# %% [markdown]
# ## The virtual set
#
# The study cut and transformed its images into a fixed, larger set before training. Here no such set is stored: item
# *i* of a **virtual set** is computed when it is asked for, and depends on the seed and *i* alone, so that any worker
# of any run draws the same crop. An item takes a window of one training image, rotates it by 0 to 90 degrees, crops it,
# flips it, and changes contrast and gamma. Image and labels go through the same geometry.

# %% tags=["hide-input"]
from lorasam_core.data.virtual import VirtualSet

parent = max(chosen, key=lambda s: s.labels.max())  # the busiest
variants = VirtualSet([parent], size=8, seed=0, crop_size=min(256, *parent.shape))
pictures = {"parent": parent.image} | {f"item {i}": variants[i][0] for i in range(5)}
caption = f"One training image and five items of its virtual set. {note}"
alt = "A micrograph and five crops of it: rotated, mirrored, brighter and darker."
page.figure(plots.panels(pictures, columns=6), "data-variants", caption, alt)

# %% [markdown]
# The items come from different windows of the image, turned and mirrored. Their labels must have made the same journey:

# %% tags=["hide-input"]
pictures = {"parent": plots.instance_mosaic(parent.image, parent.labels)}
pictures |= {f"item {i}": plots.instance_mosaic(*variants[i]) for i in range(5)}
caption = f"Labels of the same image and items: a particle keeps its colour. {note}"
alt = "The labels of the micrograph and of its five crops, each particle in the same colour throughout."
page.figure(plots.panels(pictures, columns=6), "data-variants-labels", caption, alt)

# %% tags=["hide-input"]
whole = VirtualSet(parts["train"])
page.say(
    f"An epoch is {len(whole):,} items, {len(whole) // len(parts['train'])} of each of {len(parts['train'])} training "
    f"images; {report.REPORTED}: {report.STUDY['augmented_images']:,} of {report.STUDY['images']} images in all."
)

# %% [markdown]
# ## Sizes
#
# What the masks are for: a size distribution. The equivalent diameter of a particle is that of a disc of the same area;
# ten, fifty and ninety percent of the particles are smaller than D10, D50 and D90. That is by number; laser diffraction
# reports the same letters by volume. Particles that the image's edge cuts are left out.

# %% tags=["hide-input"]
from lorasam_core.measure.sizes import measure, readable_unit, size_distribution

groups = [s.group for s in chosen for _ in range(s.labels.max())]
busiest = max(set(groups), key=groups.count)  # one group: sizes of different powders make no distribution
shown = [s for s in parts["train"] if s.group == busiest]
table = pd.concat([measure(s.labels, s.pixel_size).assign(image=s.id) for s in shown])
found = size_distribution(table)

# %% tags=["hide-input"]
whole_ones = table[~table["touches_border"]]
diameters = {"labels": whole_ones["equivalent_diameter"].to_numpy()}
caption = f"Sizes of the labelled particles of one {noun} ({busiest}); dots mark D10, D50 and D90. {note}"
alt = "A cumulative curve of equivalent diameters on a logarithmic axis."
page.figure(charts.size_plot(diameters, found["unit"]), "data-sizes", caption, alt, data=whole_ones)

# %% tags=["hide-input"]
by, unit = readable_unit(found["D50"], found["unit"])
page.say(
    f"Training images of this {noun}: {len(shown)}. Half of the {found['count']:,} whole particles in them are "
    f"smaller than {found['D50'] / by:.3g} {unit}; D90 is {found['D90'] / found['D10']:.1f} times D10."
)
