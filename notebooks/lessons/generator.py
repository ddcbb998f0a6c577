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
# # How the mask generator filters
#
# The mask generator needs nobody who points: it asks with a grid of points and keeps a small part of the answers. This
# page builds it from `SamPredictor` in five steps and compares the result with the real one. {doc}`../method` lists the
# settings.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import experiments, plots
from lorasam_core.experiments.records import read_edition
from lorasam_core.models.sam import load_sam
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "generator", folder, data)
page = report.Page(read_edition(folder), "lessons/generator")
page.banner()

# %% [markdown]
# The image is generated, of particles that lie apart, and the model is the compact one, frozen. The settings are those
# of the quick profile: 256 points, no crops, and thresholds that suit this model.

# %%
from lorasam_core.data.particles import generate
from lorasam_core.masks.generator import QUICK_SETTINGS

sam = load_sam("lite")
sample = generate(seed=0, index=18, size=(384, 384))
image, labels = sample.image, sample.labels
QUICK_SETTINGS

# %% [markdown]
# ## Ask with a grid of points
#
# The points know nothing of the image. A large particle gets several; a small one may lie between them, and is then
# seldom found. Each point is answered with three masks: perhaps the particle, a part of it, or a heap. Every mask comes
# with two numbers: the IoU that the model expects of it, and its **stability score**, which says how firm the outline
# is: the pixels whose logit is above 1, over those whose logit is above -1.

# %%
import torch
from segment_anything.utils.amg import build_point_grid

from lorasam_core.masks.predictor import Predictor

predictor = Predictor(sam)
predictor.set_image(image)
points = build_point_grid(QUICK_SETTINGS["points_per_side"]) * image.shape[::-1]  # 256 2, X and Y
coords = torch.as_tensor(predictor.transform.apply_coords(points, image.shape)).float()[:, None]

# %%
masks, rated, stable = [], [], []
for few in coords.split(32):
    logits, scores, _ = predictor.predict_torch(few, torch.ones(len(few), 1), return_logits=True)
    logits = logits.flatten(0, 1)  # 32 3 H W -> 96 H W
    masks.append(logits > 0)
    rated.append(scores.flatten())
    stable.append((logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)))
masks, rated, stable = torch.cat(masks).numpy(), torch.cat(rated).numpy(), torch.cat(stable).numpy()
masks.shape

# %% [markdown]
# These are the three masks of the point whose answer fits a particle best.

# %%
from lorasam_core.measure.metrics import mask_iou_matrix

fit = mask_iou_matrix(masks, labels).max(axis=1)  # IoU with the particle that a mask covers best
first = fit.argmax() // 3 * 3
pictures = {}
for i in range(first, first + 3):
    title = f"rated {rated[i]:.2f}, IoU {fit[i]:.2f}\nstability {stable[i]:.2f}"
    pictures[title] = plots.mark_point(plots.overlay(image, masks[i]), points[i // 3])
caption = "The three masks of one point: what the model expects of each, its IoU with a particle, and its stability."
alt = "The micrograph three times, with the same point and another mask in blue each time."
page.figure(plots.panels(pictures, width=6.6), "generator-three", caption, alt)

# %% [markdown]
# ## Two thresholds
#
# A mask stays if the model expects enough of it and if its outline is firm enough. If the two numbers are good for
# anything, masks of a particle, an IoU of at least 0.5 with one, lie in the upper right.

# %%
import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

limits = QUICK_SETTINGS["pred_iou_thresh"], QUICK_SETTINGS["stability_score_thresh"]
dots = pd.DataFrame({"predicted IoU": rated, "stability": stable, "mask of a particle": fit >= 0.5})
with mpl.rc_context(plots.STYLE):
    figure = Figure(figsize=(5.6, 3.4))
    axes = figure.subplots()
    sns.scatterplot(dots, x="predicted IoU", y="stability", hue="mask of a particle", s=16, ax=axes)
    axes.axvline(limits[0], color="black", linestyle="--")
    axes.axhline(limits[1], color="black", linestyle="--")

# %%
caption = "Every mask by predicted IoU and stability. What is right of and above both dashed lines passes."
alt = "A cloud of dots in two colours; those of masks of a particle lie towards the upper right."
page.figure(figure, "generator-thresholds", caption, alt, data=dots)

# %% [markdown]
# A mask without a pixel above -1 has no stability (0 / 0), and does not pass.

# %%
import numpy as np

kept = np.flatnonzero((rated > limits[0]) & (stable >= limits[1]))
stages = {"three masks a point": np.arange(len(masks)), "predicted IoU": np.flatnonzero(rated > limits[0])}
stages["stability"] = kept

# %% [markdown]
# ## One mask for each thing
#
# Many points lie on the same particle and give nearly the same mask. Non-maximum suppression goes through the masks
# from the best rated on and drops those whose box has an IoU above 0.7 with that of a better one. Only boxes are
# compared, which is fast, and cannot tell a mask from another of the same box: a ring from a disc, or a heap from the
# background around it.

# %%
from segment_anything.utils.amg import batched_mask_to_box
from torchvision.ops import nms

boxes = batched_mask_to_box(torch.from_numpy(masks[kept])).float()
stages["non-maximum suppression"] = kept = kept[nms(boxes, torch.from_numpy(rated[kept]), 0.7).numpy()]

# %% [markdown]
# ## Crumbs and holes
#
# Last, islands of fewer than 25 pixels are removed and holes of fewer than that filled. What has changed may have
# become a duplicate, so boxes are compared once more, unchanged masks first.

# %%
from lorasam_core.masks.operations import without_small_regions

pairs = [without_small_regions(mask, QUICK_SETTINGS["min_mask_region_area"]) for mask in masks[kept]]
clean = torch.from_numpy(np.array([mask for mask, _ in pairs]))
unchanged = torch.tensor([float(not changed) for _, changed in pairs])
last = nms(batched_mask_to_box(clean).float(), unchanged, 0.7).numpy()
clean, stages["small regions"] = clean.numpy()[last], kept[last]

# %% [markdown]
# ## What is left
#
# A good filter drops masks and loses no particle.

# %%
match = mask_iou_matrix(masks, labels) >= 0.5
rows = [
    (name, len(rows), match[rows].any(axis=1).mean(), match[rows].any(axis=0).sum()) for name, rows in stages.items()
]
table = pd.DataFrame(rows, columns=["after", "masks", "of a particle, %", "particles found"])
table["of a particle, %"] = (100 * table["of a particle, %"]).round(0)
caption = f"What is left after each stage, of the {match.shape[1]} particles of this image."
page.table(table, "generator-table", caption)

# %%
from lorasam_core.masks.generator import MaskGenerator

annotations = MaskGenerator(sam, **QUICK_SETTINGS).generate(image)
pictures = {"labels": plots.instance_mosaic(image, labels)}
for name in ("three masks a point", "stability", "non-maximum suppression", "small regions"):
    covered = masks[stages[name]].sum(axis=0)
    pictures[f"{name}: {len(stages[name])}"] = (255 * covered / max(1, covered.max())).astype(np.uint8)
pictures[f"MaskGenerator: {len(annotations)}"] = plots.instance_mosaic(image, annotations)
caption = "How many masks cover a pixel after each stage (white: the most), and what the real generator returns."
alt = "The labels; then grey pictures, in which ever fewer masks lie on each particle; last the instances in colours."
page.figure(plots.panels(pictures, columns=3, width=6.6), "generator-stages", caption, alt)

# %% [markdown]
# The masks made here by hand and the real ones should be the same, but for pixels and masks that lie within rounding of
# a threshold.

# %%
found = np.array([a["segmentation"] for a in annotations]).reshape(-1, *image.shape)
same = mask_iou_matrix(clean, found).max(axis=1, initial=0) > 0.99
assert (~same).sum() <= 0.1 * len(clean) + 1
f"{same.sum()} of {len(clean)} masks are among the {len(found)} of MaskGenerator"

# %% [markdown]
# ## The same in less time
#
# Here every mask was enlarged to the image before the first filter looked at it, as segment-anything's own generator
# does. But the rating is known before a single pixel is painted. This project's generator rates all points first and
# paints only what passes; [the page on speed](speed.ipynb) derives this and measures it. Which thresholds suit an
# adapted model is asked on [the page of failures](failures.ipynb).
