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
# # Look at your images
#
# **Can these images be used, and what should be done first?** Ten minutes here save an afternoon: a data bar that is
# taken for particles, labels that were read as something else, particles too small for the model to see. As it stands
# this page looks at five generated micrographs, written as a microscope leaves them: TIFF, a data bar at the bottom,
# the scale in a tag. Name your folder below, or on the command line, and run it again:
#
# ```bash
# lorasam check path/to/folder
# ```
#
# A folder holds images alone, or `images/` and, by the same file names, `labels/` (a number for each particle) or
# `masks/` (particle or not). PNG, TIFF, BMP and JPEG are read, labels from lossless files only. Optional tables:
# `groups.csv` (id, group) says which images show one specimen, `pixel_size.csv` (id, pixel_size in nm) the scale where
# the files do not.

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
folder: str = ""  # of your micrographs; "": a demonstration is made
mask: str = "auto"  # which of two values is particle: bright, dark or auto
ignore: int = 0  # a value of the labels that is background; 0: none
tiff_page: int = 0  # to read, from 1, where a TIFF holds several; 0: the only one
pixel_size: float = 0.0  # nm a pixel of all images; 0: from pixel_size.csv or the files

# %%
from lorasam_core import experiments, plots
from lorasam_core.data.demo import write_demo
from lorasam_core.experiments.records import read_edition, root
from lorasam_core.report import page as report

place = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "look", place, data)
page = report.Page(read_edition(place), "your_particles/look")
page.banner()
here = root() / folder if folder else write_demo(page.folder / "your-particles" / "demo")

# %% [markdown]
# ## One row an image
#
# *contrast* is the grey range between the 1st and the 99th percentile, as a share of the full range; *pixel size* is in
# nm; *diameter in model* is the median particle's, once the whole image is shrunk to the model's input of 512 pixels;
# *touching* is the share of labelled particles that touch another one.

# %%
from lorasam_core.data.check import check_folder

reading = {"mask": mask, "ignore": ignore or None, "page": tiff_page or None}
found = check_folder(here, pixel_size=pixel_size or None, **reading)
columns = ["id", "width", "height", "contrast", "pixel_size", "particles", "diameter_in_model", "touching", "problem"]
shown = found.table[columns].round(2).astype(object).fillna("–").head(40)

# %%
caption = "What was read from each file; the last column says why one cannot be used. The data hold more."
page.table(shown.rename(columns=lambda name: name.replace("_", " ")), "look", caption, data=found.table)

# %% [markdown]
# ## What to do about it
#
# Errors must be mended before anything else works; a warning names what will go wrong quietly; a note is worth knowing.

# %%
import pandas as pd

findings = found.findings or [("note", "nothing to mend", "–")]
todo = pd.DataFrame(findings, columns=["severity", "what", "remedy"])
page.table(todo, "look-findings", "Findings and remedies.")

# %% [markdown]
# ## The images
#
# Look at every one. Is the labelled outline where you would draw it? Are touching particles told apart? What a label
# merges, a model learns to merge.

# %%
from lorasam_core.data.readers import read_image, read_labels

pictures = {}
for row in found.table[found.table["problem"] == ""].head(6).itertuples():
    image = read_image(row.file, reading["page"])
    labels = read_labels(row.labels, **reading)[0] if row.labels else None
    pictures[row.id] = plots.rgb(image) if labels is None else plots.outlines(image, labels, numbers=False)

# %%
caption = "Up to six images, with the outlines of their labels where there are any."
alt = "Micrographs of particles in two rows; each labelled particle has a coloured outline."
if pictures:
    page.figure(plots.panels(pictures, columns=3), "look-images", caption, alt)

# %% [markdown]
# The data bar does not have to be cut off by hand: [segment](segment.ipynb) finds it and leaves it out. Go on there
# for masks without any label, or to [adapt](adapt.ipynb) once a few images are labelled.
