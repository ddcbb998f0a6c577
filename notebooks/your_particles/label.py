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
# # Label with the model
#
# **A draft by the model, corrected by you, action by action.** Every particle of the draft has a number. You remove
# what is none, merge pieces, split what was merged, and add what is missing; the model is asked wherever pixels have to
# be chosen. Every action stands in a log that makes the same labels again. As it stands this page works on the
# demonstration of [look](look.ipynb). The drafts of a folder of yours, here or on the command line:
#
# ```bash
# lorasam draft path/to/folder --out drafts                    # the base model as it is
# lorasam draft path/to/folder --out drafts --adapter FILE     # with an adapter of yours
# ```
#
# Called again, the command drafts what is missing, and what another model would draft otherwise. A labelling on which
# you have worked stays as it is.

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
folder: str = ""  # of your micrographs; "": a demonstration is made
adapter: str = ""  # a file, or the name of one that ships; "": the base model as it is
output: str = ""  # folder for the drafts; "": your-particles/drafts beside the edition's figures
image: str = ""  # name, without ending, of the one to try the actions on; "": that with the most particles
points: int = 0  # along a side of each tile's grid; fewer are faster, and find fewer small particles; 0: the adapter's
score: float = 0.0  # least score of a mask; 0: what the adapter says
tile: int = 0  # pixels a side; smaller tiles enlarge the particles for the model; 0: what the adapter says
tiff_page: int = 0  # to read, from 1, where a TIFF holds several; 0: the only one
pixel_size: float = 0.0  # nm a pixel of all images; 0: from pixel_size.csv or the files

# %%
from lorasam_core import experiments, plots
from lorasam_core.data.demo import write_demo
from lorasam_core.data.folders import list_images, pixel_sizes, read_groups
from lorasam_core.experiments.records import read_edition, root
from lorasam_core.report import page as report

place = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "label", place, data)
page = report.Page(read_edition(place), "your_particles/label")
page.banner()
here = root() / folder if folder else write_demo(page.folder / "your-particles" / "demo")
out = root() / output if output else page.folder / "your-particles" / "drafts"

# %% [markdown]
# ## The drafts

# %%
from lorasam_core.experiments.draft import draft_folder
from lorasam_core.experiments.segment import Reading
from lorasam_core.masks.segmenter import Segmenter

asked = {"points_per_side": points, "score_thresh": score}
segmenter = Segmenter(adapter or None, tile=tile or None, **{name: value for name, value in asked.items() if value})
files, notes = list_images([here])
reading = Reading("auto", pixel_size or None, pixel_sizes(here, files), tiff_page or None)
drafts = draft_folder(files, out, segmenter, reading, read_groups(here, files))

# %%
caption = "A row an image: particles of its labels, and how far they are: a draft, worked on, or accepted."
page.table(drafts[["image", "particles", "state", "problem"]].replace("", "–"), "drafts", caption, data=drafts)

# %% [markdown]
# ## Correct one
#
# `load` opens a labelling where it was left. What follows is a trial, saved elsewhere, so that your own drafts stay as
# they are.

# %%
from lorasam_core.experiments.labelling import load, save
from lorasam_core.masks.clicks import Clicks

usable = drafts[drafts["problem"] == ""].sort_values("particles")
name = image or usable["image"].iloc[-1]
work = load(out / name, ask=Clicks(segmenter))
height, width = work.labels.shape
if not work.ids:  # the draft is empty; something to work on
    work.add(box=(width / 4, height / 4, 3 * width / 4, 3 * height / 4))
pictures = {"draft": plots.outlines(work.image, work.labels, numbers=True)}

# %%
caption = f"The draft of {name}, a number on every particle."
alt = "A micrograph with a coloured outline around each particle of the draft, and a number in it."
page.figure(plots.panels(pictures, columns=1, width=6.5), "label-draft", caption, alt)

# %% [markdown]
# A number stays with its particle; one that was removed is never used again. Here the largest particle serves for all
# actions. `split` needs a point in each part, and asks the model for each of them with the others outside:

# %%
import numpy as np

largest = max(work.ids, key=lambda i: (work.labels == i).sum())
rows, columns = np.nonzero(work.labels == largest)
left, right = np.argsort(columns)[[len(columns) // 5, -len(columns) // 5]]
parts = work.split(largest, (columns[left], rows[left]), (columns[right], rows[right]))
pictures = {f"split({largest}, ...)": plots.outlines(work.image, work.labels, numbers=True)}
work.merge(*parts)
pictures[f"merge({', '.join(map(str, parts))})"] = plots.outlines(work.image, work.labels, numbers=True)

# %% [markdown]
# `add` takes a point in a particle, or a box around it, for which the model answers better. It takes pixels that are
# free; with `over=True`, those of other particles too. `refine(number, inside=[...], outside=[...])` asks once more for
# a particle that came out too large or too small.

# %%
work.remove(largest)
pictures[f"remove({largest})"] = plots.outlines(work.image, work.labels, numbers=True)
new = work.add(box=(columns.min(), rows.min(), columns.max(), rows.max()))
pictures[f"add(box=...): {new}"] = plots.outlines(work.image, work.labels, numbers=True)

# %%
caption = "The largest particle is split in two, merged again, removed, and added by a box."
alt = "The same micrograph after each of four actions, with outlines and numbers; the largest particle changes."
page.figure(plots.panels(pictures, columns=2), "label-actions", caption, alt)

# %% [markdown]
# The added particle has the next free number. `undo()` takes back the last action, `undo(4)` four of them, and `redo()`
# does it again; this works in a labelling that was saved and loaded as well.

# %%
work.undo()
work.redo()
[{name: value for name, value in entry.items() if name not in ("made", "labels")} for entry in work.log[1:]]

# %% [markdown]
# ## With mouse and keys
#
# In JupyterLab all of this is a click away. `pip install ".[label]"`, `jupyter lab`, and in a cell of its own:
#
# ```python
# from lorasam_core.experiments.labelling import load
# from lorasam_core.experiments.widget import LabelWidget
# from lorasam_core.masks.clicks import Clicks
# from lorasam_core.masks.segmenter import Segmenter
#
# work = load("drafts/NAME", ask=Clicks(Segmenter()))
# LabelWidget(work, save_to="drafts/NAME")
# ```
#
# A click on background adds a particle, one on a particle selects it, and dragging adds by a box; keys remove, merge,
# split, refine, undo, accept and save, and stand under the image. The widget calls the methods above: its log is the
# same, and code and clicks can be mixed.

# %% [markdown]
# ## Save, close, go on later
#
# `accept` says that the labels are right as they are. What is saved are the log, a label image and a picture with the
# numbers. Your own work is saved in its own folder, by `save(work, out / name)`.

# %%
import shutil

work.accept()
trial = page.folder / "your-particles" / "label-trial" / name
shutil.rmtree(trial, ignore_errors=True)
save(work, trial)
assert (load(trial, work.image).labels == work.labels).all()
sorted(path.name for path in trial.iterdir() if not path.name.startswith("."))

# %% [markdown]
# ## After a few images
#
# `lorasam draft`, called again, gathers what you have accepted in `drafts/labelled`; `--accept` accepts drafts that are
# right as they are, by their names, and drafts nothing. Train on it, and let the adapted model draft the images that
# are left:
#
# ```bash
# lorasam draft path/to/folder --out drafts --accept NAME ANOTHER
# lorasam adapt drafts/labelled --out my-adapter
# lorasam draft path/to/folder --out drafts --adapter my-adapter/adapter.safetensors
# ```
#
# Look for what the draft has missed before you accept: what is in neither draft nor labels is taught to be background.
# More on training in [adapt](adapt.ipynb).
