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
# # Segment your images
#
# **Masks without a label and without training.** A folder of micrographs goes in; a label image, an overlay and a row
# for each particle come out. Images of any size are cut into overlapping tiles in which particles are as large as the
# model has learnt them; an object on a seam comes out once. As it stands this page segments the demonstration of
# [look](look.ipynb). With your folder, here or on the command line:
#
# ```bash
# lorasam segment path/to/folder --out masks                    # the base model as it is
# lorasam segment path/to/folder --out masks --adapter FILE     # with an adapter of yours
# ```
#
# `--adapter emps` is one that ships, trained on particles from many papers (EMPS). On 24 test images of that set no
# difference to the base was detectable: try both on an image of yours.
#
# Stopped or killed, the same command goes on where it was. A damaged image is named, and the others are done.

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
folder: str = ""  # of your micrographs; "": a demonstration is made
adapter: str = ""  # a file, or the name of one that ships; "": the base model as it is
output: str = ""  # folder for masks and tables; "": your-particles/masks beside the edition's figures
points: int = 0  # along a side of each tile's grid; fewer are faster, and find fewer small particles; 0: the adapter's
score: float = 0.0  # least score of a mask; 0: what the adapter says
tile: int = 0  # pixels a side; smaller tiles enlarge the particles for the model; 0: what the adapter says
tiff_page: int = 0  # to read, from 1, where a TIFF holds several; 0: the only one
pixel_size: float = 0.0  # nm a pixel of all images; 0: from pixel_size.csv or the files

# %%
from lorasam_core import experiments, plots
from lorasam_core.data.demo import write_demo
from lorasam_core.data.folders import list_images, pixel_sizes
from lorasam_core.experiments.records import read_edition, root
from lorasam_core.report import page as report

place = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "segment", place, data)
page = report.Page(read_edition(place), "your_particles/segment")
page.banner()
here = root() / folder if folder else write_demo(page.folder / "your-particles" / "demo")

# %% [markdown]
# ## The model
#
# Points are asked only where the model's own mask of the whole tile says particle, and on a sparse grid elsewhere; from
# coarse to fine, and not again where a good mask already lies. A mask is rated by the IoU that the model predicts, by
# its stability, and by the share of it that lies in that foreground; of masks that overlap the best stays.

# %%
from lorasam_core.masks.segmenter import Segmenter

asked = {"points_per_side": points, "score_thresh": score}
segmenter = Segmenter(adapter or None, tile=tile or None, **{name: value for name, value in asked.items() if value})
segmenter.described

# %%
from lorasam_core.experiments.segment import Filters, Reading, segment_folder

files, notes = list_images([here])
out = root() / output if output else page.folder / "your-particles" / "masks"
reading = Reading("auto", pixel_size or None, pixel_sizes(here, files), tiff_page or None)
summary = segment_folder(files, out, segmenter, segmenter.described, reading, Filters())

# %%
columns = ["image", "particles", "at_border", "coverage", "D50", "unit", "data_bar", "problem"]
caption = "A row an image: particles, how many the edge cuts, the share of the image that they cover, the median size."
shown = summary[columns].round(2).rename(columns=lambda name: name.replace("_", " "))
page.table(shown.astype(object).fillna("–"), "segment-summary", caption, data=summary)

# %% [markdown]
# ## Look at the masks
#
# This is the step that nobody else can do for you. A few false ones in a hundred hardly move a median; a powder whose
# small particles are all missing does.

# %%
from skimage.io import imread

drawn = summary.loc[summary["problem"] == "", "image"]
pictures = {name: imread(out / "overlays" / f"{name}.png") for name in drawn[:4]}
caption = "Outlines of what was found, as written to overlays/."
alt = "Micrographs with a coloured outline around each particle that was found."
if pictures:
    page.figure(plots.panels(pictures, columns=2), "segment-overlays", caption, alt)

# %% [markdown]
# What to change first, one at a time, into another output folder each:
#
# - too much is found: a higher score (`--score`), or a largest diameter (`--max-diameter 500nm`);
# - small particles are missing: smaller tiles (`--tile 256`), which show them larger, or more points;
# - large ones come in pieces: larger tiles;
# - background is taken for a particle: `--largest-share`, or a few labelled images and [adapt](adapt.ipynb).
#
# ## A row a particle

# %%
import pandas as pd

particles = pd.read_csv(out / "particles.csv")
columns = ["image", "label", "equivalent_diameter", "unit", "circularity", "touches_border", "score"]
shown = particles[columns].head(8).round({"equivalent_diameter": 1, "circularity": 2, "score": 2})
caption = "The first rows of particles.csv."
page.table(shown.rename(columns=lambda name: name.replace("_", " ")), "segment-particles", caption, data=particles)

# %% [markdown]
# `label` is the number in the label image, so that a row leads to its particle and back. Every setting that made the
# masks stands in `run.json`. On to [sizes](sizes.ipynb).
