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
# # SAM in ten minutes
#
# {doc}`../background` says in words what the Segment Anything Model {cite:p}`kirillov2023sam` is. This page opens it:
# what each part costs, what passes from one to the next, and how the answer changes with the question. The model is
# `lite`, the [compact SAM](model_card.ipynb) that comes with the package.

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
experiments.sweep(profile, "sam", folder, data)
page = report.Page(read_edition(folder), "lessons/sam")
page.banner()
sam = load_sam("lite")

# %% [markdown]
# The image is a generated scene, so that the true outline of everything in it is known. It was chosen among scenes that
# the compact model answers well: what is shown is how SAM works, not how often. The lower part is cut off, because few
# images are square.

# %%
import numpy as np

from pretrain.measure import HELD_OUT_SEED
from pretrain.scenes import generate_scene

scene = generate_scene(HELD_OUT_SEED, 5, 384)
image, true = scene.image[:288], scene.masks[:, :288]
objects = [mask for mask, level in zip(true, scene.levels) if level == 0 and mask.any()]
objects.sort(key=np.sum, reverse=True)
places = [np.argwhere(mask).mean(axis=0).round()[::-1] for mask in objects]  # X, Y of each object's centre

# %% [markdown]
# ## Three parts
#
# The **image encoder** works once an image. `preprocess` enlarges or reduces the longest side to the model's input,
# normalises each channel and fills the square with zeros below and to the right; the encoder turns the square into a
# coarse grid of features. The **prompt encoder** turns a point into two tokens: its place, and one that stands for "no
# box". The **mask decoder** adds tokens of its own, one for the rating and one for each mask, and lets all tokens and
# the image look at each other. Both small parts work once a question.

# %%
import time

import torch

from lorasam_core.models.sam import preprocess

inputs, (height, width) = preprocess(sam, image)
point = torch.as_tensor(places[0] * width / image.shape[1]).float()[None, None]  # 1 1 2, in pixels of the input

# %%
for _ in range(2):  # the first pass warms up
    with torch.no_grad():
        marks = [time.perf_counter()]
        embedding = sam.image_encoder(inputs)
        marks.append(time.perf_counter())
        sparse, dense = sam.prompt_encoder((point, torch.ones(1, 1)), None, None)
        marks.append(time.perf_counter())
        low, ratings = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
        marks.append(time.perf_counter())

# %%
import pandas as pd

parts = {"image encoder": sam.image_encoder, "prompt encoder": sam.prompt_encoder, "mask decoder": sam.mask_decoder}
results = [[embedding], [sparse, dense], [low, ratings]]
costs = pd.DataFrame({
    "part": list(parts),
    "parameters": [f"{sum(p.numel() for p in part.parameters()):,}" for part in parts.values()],
    "milliseconds": [f"{1000 * seconds:.1f}" for seconds in np.diff(marks)],
    "returns": [", ".join(" × ".join(map(str, t.shape)) for t in tensors) for tensors in results],
})  # fmt: skip
page.table(costs, "sam-parts", f"The parts of `{sam.base_name}` for one image and one point, timed on this machine.")

# %% [markdown]
# Nearly all parameters and nearly all of the time are in the encoder, so that a second question about the same image
# is cheap. It is also the part that LoRA adapts.
#
# Masks are painted on a grid four times as fine as the embedding and enlarged to the image; a pixel belongs to the mask
# where its logit is above zero.

# %%
logits = sam.postprocess_masks(low, (height, width), image.shape[:2])[0]
by_hand = logits.numpy() > sam.mask_threshold
by_hand.shape

# %% [markdown]
# ## The embedding, looked at
#
# How alike are the features of each place and those under the point? The cosine between them, after the mean is taken
# out: white is 1, black is -1. No question has been asked yet.

# %%
import torch.nn.functional as F

patch = inputs.shape[-1] // embedding.shape[-1]
features = embedding[0, :, : height // patch, : width // patch]  # C h w, without the padding
features = F.normalize(features - features.mean((1, 2), keepdim=True), dim=0)
column, row = (point[0, 0] // patch).int().tolist()
likeness = torch.einsum("c,chw->hw", features[:, row, column], features).numpy()

# %%
grey = (127.5 * (likeness + 1)).astype(np.uint8)
pictures = {"image": plots.mark_point(image, places[0]), "likeness to the point": grey}
caption = "A scene with a point, and the cosine of each place's features with those under the point."
alt = "A scene with a marked object, and a coarse grey picture of likeness."
page.figure(plots.panels(pictures, width=6), "sam-embedding", caption, alt)

# %% [markdown]
# ## One point, three masks
#
# The same through the class that most people know, `SamPredictor` of the segment-anything package. A point is
# ambiguous: it may mean the thing, a part of it or a part of the part. So there are three masks, each with the IoU that
# the model expects of it.

# %%
from segment_anything import SamPredictor

from lorasam_core.measure.metrics import iou

predictor = SamPredictor(sam)
predictor.set_image(image)
masks, rated, _ = predictor.predict(point_coords=places[0][None], point_labels=np.array([1]), multimask_output=True)
assert (masks != by_hand).mean() < 1e-4  # the same masks as step by step, up to rounding

# %%
pictures = {}
for mask, rating in zip(masks, rated):
    overlap = max(iou(mask, t) for t in true if t.any())
    picture = plots.mark_point(plots.overlay(image, mask), places[0])
    pictures[f"rated {rating:.2f}, true IoU {overlap:.2f}"] = picture
caption = "The three masks for one point, with the model's rating and the highest IoU with a true object or part."
alt = "Three copies of the scene with the same point; in each another mask in blue."
page.figure(plots.panels(pictures), "sam-three-masks", caption, alt)

# %% [markdown]
# A good rating is half of the answer: whoever asks without a label in hand takes the mask that the model rates best.
#
# ## One box, one mask
#
# A box says how large the thing is. There is nothing left to be ambiguous about, and one mask is asked for. Each side
# of these boxes is moved a little, as a hand would.

# %%
from lorasam_core.training.prompts import jittered_boxes

pictures = {}
for number, mask in enumerate(objects[:3], start=1):
    box = jittered_boxes(mask.astype(np.int32), np.array([1]), np.random.default_rng(0))[0]
    (found,), (rating,), _ = predictor.predict(box=box, multimask_output=False)
    title = f"object {number}: rated {rating:.2f}, true IoU {iou(found, mask):.2f}"
    pictures[title] = plots.mark_box(plots.overlay(image, found), box)
caption = "The single mask for the box of each of the three largest objects."
alt = "Three copies of the scene, each with a box around another object and a blue mask in it."
page.figure(plots.panels(pictures), "sam-boxes", caption, alt)

# %% [markdown]
# ## Corrections
#
# A wrong answer can be answered. Beside the points so far the model is given its last mask, on the decoder's grid, and
# one point more, deepest inside the error: label 1 where something is missing, 0 where there is too much.

# %%
from scipy import ndimage

wanted, points, labels, pictures = objects[1], [places[1]], [1], {}
several, rated, low = predictor.predict(np.array(points), np.array(labels))
guess, low = several[rated.argmax()], low[rated.argmax()][None]

# %%
for _ in range(4):
    picture = plots.overlay(image, guess)
    for at, label in zip(points, labels):
        picture = plots.mark_point(picture, at, color=plots.POINT if label else (0, 0, 0))
    pictures[f"points: {len(points)}, IoU {iou(guess, wanted):.2f}"] = picture
    depth = ndimage.distance_transform_edt(np.pad(guess != wanted, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    points, labels = [*points, np.array([x, y])], [*labels, int(wanted[y, x])]
    (guess,), _, low = predictor.predict(np.array(points), np.array(labels), None, low, multimask_output=False)

# %%
caption = "One object, pointed at and corrected three times: red where the object is, black where it is not."
alt = "Four copies of the scene with one, two, three and four points on an object, and the blue mask after each."
page.figure(plots.panels(pictures, columns=2, width=6.4), "sam-corrected", caption, alt)

# %% [markdown]
# ## The same in this project
#
# `lorasam_core.masks.predictor.Predictor` is a `SamPredictor` that takes grey micrographs and is safe in mixed
# precision. One question is special here, the box of the whole image: it needs no knowledge of the answer, and is our
# reading of how the study asks.

# %%
from lorasam_core.masks.predictor import Predictor
from lorasam_core.training.prompts import whole_image_box

ours = Predictor(sam)
ours.set_image(image)
(whole,), _, _ = ours.predict(box=whole_image_box(image.shape)[0], multimask_output=False)
title = f"whole-image box, IoU {iou(whole, true.any(axis=0)):.2f}"
figure = plots.panels({"image": image, title: plots.overlay(image, whole)}, width=6)
caption = "The answer to the box of the whole image: what the model takes for the foreground."
page.figure(figure, "sam-whole-image", caption, "The scene, and the scene with what the model marks in blue.")

# %% [markdown]
# [The page of prompts](prompts.ipynb) shows what becomes of these answers on a powder, and [the layer's
# page](lora_layer.ipynb) how LoRA changes the encoder without touching it. [The mask generator](generator.ipynb)
# asks with a whole grid of points, and filters what it gets.
