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
# # Your particles
#
# A folder of micrographs in; an adapter, thresholds for it, masks and a table of sizes out. As it stands this page
# makes itself a small folder of generated particles and works on that. To use your own, name the folder below and run
# the page again.
#
# The folder holds `images/` and, by the same file names, `labels/` (instance numbers) or `masks/` (particle or not), as
# PNG or TIFF. Optional: `groups.csv` (id, group), which keeps images of one specimen together, and `pixel_size.csv`
# (id, pixel_size), in nm. A few dozen labelled images are a start; the split needs at least three groups.
#
# Cut the microscope's data bar off first, from an image and its labels alike: its letters are segmented too. Labels
# need not be drawn from nothing. Let the mask generator make a draft, on this page with `unlabelled`, and remove,
# split and add particles in an editor of label images. What the draft never finds is easily missed in the labels as
# well.

# %% tags=["parameters"]
profile: str = "quick"  # whose edition this page belongs to: smoke, quick, emps or study
edition: str = ""  # folder of its runs; "": runs/<profile>
data: str = ""  # data of that edition; "": the profile's own
images: str = ""  # your folder with images/ and labels/ or masks/; "": that of `data`, or a demonstration is made
unlabelled: str = ""  # folder of images to segment; "": the test images of the folder above
pixel_size: float = 0.0  # nm a pixel of the images in unlabelled; 0: not known
output: str = ""  # folder for adapter, masks and tables; "": your-particles beside the edition's figures
model: str = "lite"  # lite, vit_b, vit_l or vit_h
checkpoint: str = ""  # file of its weights; "": those that belong to it
rank: int = 16  # of A and B
steps: int = 12  # optimiser steps; a few hundred for real data
learning_rate: float = 0.002  # lower it, to 0.0005 or so, for more steps
crop_size: int = 256  # side of the training crops, pixels of your images

# %%
from lorasam_core import charts, experiments, plots, stats
from lorasam_core.report import page as report
from lorasam_core.experiments.records import read_edition, root

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "your_particles", folder, data)
page = report.Page(read_edition(folder), "your_particles/adapt")
page.banner()

# %% [markdown]
# ## The folder
#
# Only when no folder is named: 21 small generated micrographs, written as yours would be.

# %%
import pandas as pd
from skimage.io import imsave

from lorasam_core.data.particles import generate

out = root() / output if output else page.folder / "your-particles"
named = images or ("" if data in ("", "synthetic", "emps") else data)
here = root() / named if named else out / "demo"
source = here if here.is_dir() or not named else named  # else the name of a folder in LORASAM_DATA
made = [] if named else [generate(seed=9, index=i, size=(256, 256)) for i in range(21)]

# %%
for kind in ("images", "labels") if made else ():  # nothing is written to a folder of yours
    (here / kind).mkdir(parents=True, exist_ok=True)
for s in made:
    imsave(here / "images" / f"{s.id}.png", s.image, check_contrast=False)
    imsave(here / "labels" / f"{s.id}.png", s.labels.astype("uint16"), check_contrast=False)
if made:
    rows = [(s.id, s.group, s.pixel_size) for s in made]
    pd.DataFrame(rows, columns=["id", "group", "pixel_size"]).to_csv(here / "groups.csv", index=False)

# %% [markdown]
# Whatever cannot be used (an image without a mask, a mask of another size, a float image with NaN) is refused here,
# with the name of the file and what to do about it.

# %%
from lorasam_core.data import DataError, load_dataset
from lorasam_core.data.folders import by_stem

files = by_stem(root() / unlabelled) if unlabelled else {}
if unlabelled and not files:
    raise DataError(f"{root() / unlabelled} has no image; let `unlabelled` name a folder of PNG, TIFF or JPEG files.")

# %%
samples = load_dataset(source)
parts = {part: samples.subset(part) for part in ("train", "val", "test")}
for note in samples.notes:
    print(note)
pd.DataFrame({part: {"images": len(s), "groups": len(set(s.groups.values()))} for part, s in parts.items()})

# %%
caption = "Images of the folder."
alt = "Six micrographs of the folder that this page works on."
page.figure(plots.contact_sheet(samples[:6]), "yours-images", caption, alt)

# %% [markdown]
# And their labels. Particles that touch must have different colours here, or the model learns to merge them.

# %%
caption = "The labels of the same images."
alt = "The labels of the six micrographs, each particle in a random colour on black."
page.figure(plots.contact_sheet(samples[:6], labels=True), "yours-labels", caption, alt)

# %% [markdown]
# ## The adapter
#
# Two runs: the frozen model, to compare with, and the adapted one. A run that is finished is not done again; change a
# setting, an image or a label, and it is another run.

# %%
from lorasam_core.config import RunConfig

settings = {"model": model, "checkpoint": checkpoint or None, "data": str(source), "crop_size": crop_size}
settings |= {"rank": rank, "steps": steps, "learning_rate": learning_rate, "batch_size": 4}
settings["evaluate"] = ("predictor", "point")

# %%
adapted = experiments.run_one(RunConfig(name="adapted", **settings), out / "runs")
frozen = experiments.run_one(RunConfig(name="frozen", method="frozen", **settings), out / "runs")
keys = ["steps", "images_seen", "best_step", "seconds", "trainable_parameters"]
pd.Series({key: adapted.metrics[key] for key in keys}, name="adapted")

# %%
parts_of = {run.config.name: run.per_image.assign(run=run.run_id, model=run.config.name) for run in (frozen, adapted)}
scores = pd.concat(parts_of.values()).melt(["run", "model", "evaluator", "id", "group"], var_name="of").dropna()
asked = {"predictor dice": "predictor: Dice", "point iou_rated": "point: IoU", "point iou_best": "point: best IoU"}
scores["measure"] = (scores["evaluator"] + " " + scores["of"]).map(asked)
means = stats.mean_interval(scores.dropna(), ["measure", "model"])
means[["mean", "low", "high"]] *= 100
rows = means.rename(columns={"measure": "metric", "model": "series"})

# %%
caption = "Frozen and adapted on the test images, with 95 % intervals over groups where there are several."
alt = "Means and intervals of each metric, the frozen model in blue and the adapted one in vermilion."
page.figure(charts.interval_chart(rows, "%"), "yours-metrics", caption, alt, runs=[frozen, adapted], data=rows)

# %%
gains = [
    stats.verdict(stats.paired(part, "model", "frozen")).assign(measure=measure)
    for measure, part in scores.dropna().groupby("measure", sort=False)
]
gain = pd.concat(gains)
shown = gain[["measure", "images", "groups"]].assign(**{"gain, points": stats.as_text(gain, sign=True)})
caption = "What adapting gains on the same test images; one seed, so that a small gain may be chance."
page.table(shown.assign(verdict=gain["verdict"]), "yours-gain", caption, runs=[frozen, adapted], data=gain)

# %% [markdown]
# ## Two thresholds
#
# The mask generator rates its masks twice, and keeps those above two thresholds ([failures](failures.ipynb)). What
# suits this model and these images is tried out on validation images, at most twelve of them: the pair whose masks
# match the labelled particles best, by F1, is taken. The rest of the settings is that of the compact model, or for
# larger ones SAM's own.

# %%
from lorasam_core.data.readers import read_image
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lora import load_adapter
from lorasam_core.models.sam import load_sam

sam = load_sam(model, checkpoint or None, device=resolve_device("auto"))
load_adapter(sam, adapted.adapter)
pictures = {name: read_image(path) for name, path in files.items()} or {s.id: s.image for s in parts["test"]}

# %%
from lorasam_core.experiments import filters
from lorasam_core.masks.generator import QUICK_SETTINGS, MaskGenerator

usual = QUICK_SETTINGS if model == "lite" else {}
tried = filters.sweep(sam, filters.spread(parts["val"], 12), usual)[1]
chosen = filters.best_thresholds(tried, usual)
means = 100 * tried.groupby(filters.CHOSEN)["f1"].mean()

# %%
tried.groupby(filters.CHOSEN)["f1"].mean().unstack().mul(100).round(1)  # F1 in % by threshold

# %%
chosen or "the usual thresholds stay"

# %% [markdown]
# That F1 is on the images that chose: on others expect less.
#
# ## The masks
#
# The mask generator goes over every image. Its masks are painted into one label image each, the best on top, and
# written as 16-bit PNG: 0 is background, and every other number a particle.

# %%
from lorasam_core.measure.metrics import paint

generator = MaskGenerator(sam, **usual | chosen)
(out / "masks").mkdir(exist_ok=True)

# %%
labels = {}
for name, image in pictures.items():
    found = generator.generate(image)
    masks, scores = [a["segmentation"] for a in found], [a["predicted_iou"] for a in found]
    labels[name] = paint(masks, scores, image.shape[:2])
    imsave(out / "masks" / f"{name}.png", labels[name].astype("uint16"), check_contrast=False)

# %%
shown = {name: plots.rgb(image) for name, image in list(pictures.items())[:3]}
shown |= {f"{name}: masks": plots.instance_mosaic(pictures[name], labels[name]) for name in list(shown)}
caption = "Up to three images and the masks that were found in them."
alt = "Micrographs in the first row, and below each the instances found in it, in random colours on black."
page.figure(plots.panels(shown, columns=len(shown) // 2), "yours-masks", caption, alt, runs=[adapted])

# %% [markdown]
# ## The sizes
#
# In nm, or in µm where D50 is 1000 nm or more, if the folder, or `pixel_size` for images without labels, says how
# large a pixel is; else in pixels. The file has nm or pixels. D10, D50 and D90 count every particle once; those of
# laser diffraction weight it by its volume, and are not to be compared with them directly. Particles that the edge of
# an image cuts are measured, marked, and left out of D10, D50 and D90.

# %%
from lorasam_core.measure.sizes import measure, readable_sizes, size_distribution

scale = dict.fromkeys(files, pixel_size or None) if files else {s.id: s.pixel_size for s in parts["test"]}
measured = {name: measure(y, scale[name]) for name, y in labels.items()}
sizes = pd.concat([table.assign(image=name) for name, table in measured.items()])
sizes.to_csv(out / "sizes.csv", index=False)
summary = pd.DataFrame([{"image": name, **size_distribution(table)} for name, table in measured.items()])
caption = "Number-weighted sizes of each image."
page.table(readable_sizes(summary).round(2), "yours-sizes", caption, runs=[adapted], data=sizes)

# %%
name = max(measured, key=lambda name: len(measured[name]))
curves = {"adapted": measured[name]}
if not files:
    labelled = samples[samples.ids.index(name)]
    curves["labels"] = measure(labelled.labels, labelled.pixel_size)
diameters = {key: table[~table["touches_border"]]["equivalent_diameter"] for key, table in curves.items()}

# %%
unit = measured[name].attrs["unit"]
caption = f"Sizes in {name}: as found by the adapted model, and as labelled where there are labels."
alt = "Cumulative curves of equivalent diameters on a logarithmic axis."
page.figure(charts.size_plot(diameters, unit), "yours-size-curve", caption, alt, runs=[adapted], data=measured[name])

# %% [markdown]
# ## What you have now

# %%
import json
import shutil

shutil.copyfile(adapted.adapter, out / "adapter.safetensors")
(out / "thresholds.json").write_text(json.dumps(chosen))
kept = [out / "adapter.safetensors", out / "thresholds.json", out / "sizes.csv", out / "masks"]
written = [str(path.relative_to(root()) if path.is_relative_to(root()) else path) for path in kept]
pd.DataFrame(
    {"written": written, "MB": [f"{path.stat().st_size / 1e6:.1f}" if path.is_file() else "" for path in kept]}
)

# %% [markdown]
# The adapter holds A and B alone and names the base that it belongs to. To use it elsewhere:
#
# ```python
# sam = load_sam("lite")
# load_adapter(sam, "adapter.safetensors")
# thresholds = json.loads(Path("thresholds.json").read_text())
# MaskGenerator(sam, **QUICK_SETTINGS | thresholds).generate(image)  # larger models: without QUICK_SETTINGS
# ```
#
# What to change first: `steps`, to a few hundred, with a lower `learning_rate`; then look at the masks. Where touching
# particles are merged, look at the labels again: a binary mask cannot teach what a particle is. Where small ones are
# missed, a mask generator with a finer grid (`points_per_side`) finds more and takes longer.
