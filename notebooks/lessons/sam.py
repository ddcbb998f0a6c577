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
# what each part costs, what passes from one to the next, and how the answer changes with the question.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import experiments, plots
from lorasam_core.report import page as report
from lorasam_core.report.chapters import lesson_plots, stages
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "sam", folder, data)
page = report.Page(read_edition(folder), "lessons/sam")
page.banner()

# %% [markdown]
# The image is a generated scene, so that the true outline of everything in it is known. It was chosen among scenes that
# the compact model of this project answers well: what is shown is how SAM works, not how often. Averages are on
# [the model's card](model_card.ipynb). The lower part is cut off, because few images are square.

# %%
import numpy as np

from pretrain.measure import HELD_OUT_SEED
from pretrain.scenes import generate_scene

scene = generate_scene(HELD_OUT_SEED, 46, 384)
image, true = scene.image[:288], scene.masks[:, :288]
wholes = sorted((m for m, level in zip(true, scene.levels) if level == 0 and m.any()), key=np.sum, reverse=True)

# %% [markdown]
# ## Three parts
#
# The image encoder works once an image. Prompt encoder and mask decoder work once a question.

# %%
from lorasam_core.models.devices import resolve_device

config = report.main_config(page.edition)
sam = report.load_base(config, resolve_device("auto"))
costs = stages.part_costs(sam, image)
shares = stages.cost_shares(costs)

# %%
caption = (
    f"What each part of `{sam.base_name}` holds, and takes for one image and one point on the machine of this page."
)
alt = "Two bars, parameters and time, each cut into the shares of image encoder, prompt encoder and mask decoder."
page.figure(lesson_plots.share_chart(shares), "sam-parts", caption, alt, data=shares.merge(costs, on="part"))

# %%
encoder = shares[shares["part"] == "image encoder"].set_index("measure")["share"]
milliseconds = ", ".join(f"{1000 * s:.1f} ms for the {part}" for part, s in zip(costs["part"], costs["seconds"]))
page.say(
    f"Of {costs['parameters'].sum():,} parameters {encoder['parameters']:.0f} % are in the image encoder, and it takes",
    f"{encoder['time']:.0f} % of the time for a first answer. Measured while this page was made, on whatever machine",
    f"made it: {milliseconds}. A second question about the same image costs only the two small parts.",
)

# %% [markdown]
# ## From an image to masks
#
# The longest side is enlarged or reduced to the model's input, each channel is normalised, and zeros fill the square
# below and to the right. The encoder turns the square into a coarse grid of features.

# %%
import torch

from lorasam_core.models.sam import preprocess

inputs, (height, width) = preprocess(sam, image)
with torch.no_grad():
    embedding = sam.image_encoder(inputs)
steps = [("image", image.shape), ("resized", (height, width, 3)), ("padded input", tuple(inputs.shape))]
steps.append(("embedding", tuple(embedding.shape)))

# %% [markdown]
# A point becomes two tokens: its place, and one that stands for "no box". The dense prompt is a picture of the size of
# the embedding, which a rough mask would fill; without one it is the same everywhere.

# %%
rows, columns = np.nonzero(wholes[0])
middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
point = np.array([[columns[middle], rows[middle]]], dtype=float)  # X, Y: the pixel of the object next to its centre
scaled = torch.as_tensor(point * width / image.shape[1], dtype=torch.float32, device=sam.device)
with torch.no_grad():
    sparse, dense = sam.prompt_encoder((scaled[None], torch.ones(1, 1, device=sam.device)), None, None)
steps += [("sparse prompt", tuple(sparse.shape)), ("dense prompt", tuple(dense.shape))]

# %% [markdown]
# The decoder adds tokens of its own, one for the rating and one for each mask, and lets all tokens and the image look
# at each other. Masks are painted on a grid four times as fine as the embedding, then resized to the image.

# %%
with torch.no_grad():
    low, rated = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=True)
    by_hand = sam.postprocess_masks(low, (height, width), image.shape[:2])[0].cpu().numpy() > sam.mask_threshold
steps += [("low-resolution masks", tuple(low.shape)), ("ratings", tuple(rated.shape)), ("masks", by_hand.shape)]

# %%
import pandas as pd

table = pd.DataFrame([(name, " × ".join(map(str, shape))) for name, shape in steps], columns=["what", "shape"])
page.table(table, "sam-shapes", f"What passes through `{sam.base_name}` for one image and one point.")

# %%
padding = 100 * (1 - height * width / inputs.shape[-1] ** 2)
page.say(
    f"Of the square {padding:.0f} % is padding. The embedding holds {embedding.shape[1]} numbers for each patch of",
    f"{inputs.shape[-1] // embedding.shape[-1]} x {inputs.shape[-1] // embedding.shape[-1]} pixels of it.",
)

# %% [markdown]
# ## The embedding, looked at
#
# The three directions in which these features vary most are shown as red, green and blue. Beside them: how alike the
# features of each place are to those under the point. No question has been asked yet.

# %%
patch = inputs.shape[-1] // embedding.shape[-1]
features = embedding[0, :, : -(-height // patch), : -(-width // patch)].cpu().numpy()  # without the padding
column, row = (scaled[0].cpu().numpy() // patch).astype(int)
alike = lesson_plots.likeness(features, row, column)
pictures = {"image": lesson_plots.Prompted(image, points=point)}
pictures["embedding, three directions"] = lesson_plots.Prompted(lesson_plots.pca_picture(features))
pictures["likeness to the point"] = lesson_plots.Prompted(lesson_plots.grey(alike, -1, 1))

# %%
caption = "A scene, the embedding of it, and the cosine of each place's features with those under the point."
alt = "A scene with a starred object; a coarse false-colour picture of its features; a grey picture of likeness."
page.figure(lesson_plots.prompts(pictures, columns=3), "sam-embedding", caption, alt)

# %%
from lorasam_core.training.objectives import shrink

inside, objects = (shrink(mask, *alike.shape) for mask in (wholes[0], true.any(axis=0)))
page.say(
    f"Mean likeness is {alike[inside].mean():.2f} inside the object under the point,",
    f"{alike[objects & ~inside].mean():.2f} inside other objects and {alike[~objects].mean():.2f} on the ground.",
)

# %% [markdown]
# ## One point, three masks
#
# The same through the class that most people know, `SamPredictor` of the segment-anything package. A point is
# ambiguous: it may mean the thing, a part of it or a part of the part. So there are three masks, each with the IoU that
# the model expects of it.

# %%
from segment_anything import SamPredictor

predictor = SamPredictor(sam)
predictor.set_image(image)
masks, ratings, _ = predictor.predict(point_coords=point, point_labels=np.array([1]), multimask_output=True)
assert (masks != by_hand).mean() < 1e-4
page.say(f"Of {masks.size:,} pixels {(masks != by_hand).sum()} differ from the masks made step by step above.")

# %%
from lorasam_core.measure.metrics import iou

overlap = [max(iou(mask, t) for t in true if t.any()) for mask in masks]
titles = [f"rated {r:.2f}, true IoU {o:.2f}" for r, o in zip(ratings, overlap)]
pictures = {
    f"{i}: {title}": lesson_plots.Prompted(image, m, point) for i, (title, m) in enumerate(zip(titles, masks), 1)
}
caption = "The three masks for one point, with the model's rating and the highest IoU with a true object or part."
alt = "Three copies of the scene with the same starred point; in each another mask in blue."
page.figure(lesson_plots.prompts(pictures, columns=3), "sam-three-masks", caption, alt)

# %%
best, chosen = int(np.argmax(overlap)), int(np.argmax(ratings))
page.say(
    f"The mask rated best is number {chosen + 1}; the one that is best is number {best + 1}.",
    "Here the rating chooses well." if best == chosen else "Here the rating does not choose the best of the three.",
)

# %% [markdown]
# ## One box, one mask
#
# A box says how large the thing is. There is nothing left to be ambiguous about, and one mask is asked for.

# %%
from lorasam_core.training.prompts import jittered_boxes

largest = wholes[:3]
boxes = [jittered_boxes(m.astype(np.int32), np.array([1]), np.random.default_rng(0))[0] for m in largest]
answers = [predictor.predict(box=box, multimask_output=False) for box in boxes]
found = [(m[0], r[0], iou(m[0], t)) for (m, r, _), t in zip(answers, largest)]
titles = [f"object {i}: rated {r:.2f}, true IoU {o:.2f}" for i, (_, r, o) in enumerate(found, 1)]
pictures = {t: lesson_plots.Prompted(image, m, box=b) for t, (m, _, _), b in zip(titles, found, boxes)}

# %%
caption = "The single mask for the box of each of the three largest objects, each side of the box moved a little."
alt = "Three copies of the scene, each with a dashed box around another object and a blue mask in it."
page.figure(lesson_plots.prompts(pictures, columns=3), "sam-boxes", caption, alt)
page.say(f"The mean IoU of the three masks with their objects is {np.mean([o for _, _, o in found]):.2f}.")

# %% [markdown]
# ## How the question moves the answer
#
# The point walks in four steps from one object to another; each time the mask that the model rates best is shown.

# %%
places = [np.argwhere(mask).mean(axis=0)[::-1] for mask in largest[:2]]  # X, Y
walk = [places[0] + share * (places[1] - places[0]) for share in (0, 1 / 3, 2 / 3, 1)]
pictures = {}
for i, at in enumerate(walk, 1):
    several, ratings, _ = predictor.predict(point_coords=at[None], point_labels=np.array([1]))
    pictures[f"place {i}: rated {ratings.max():.2f}"] = lesson_plots.Prompted(
        image, several[ratings.argmax()], at[None]
    )

# %%
caption = "One point on its way from one object to another, and the best rated mask at each place."
alt = "Four copies of the scene; the starred point moves, and the blue mask with it."
page.figure(lesson_plots.prompts(pictures, columns=2, width=6.4), "sam-walk", caption, alt)
areas = [100 * p.mask.mean() for p in pictures.values()]
page.say(f"From place to place the mask covers {', '.join(f'{a:.1f} %' for a in areas)} of the image.")

# %% [markdown]
# ## Corrections
#
# A wrong answer can be answered. Beside the points so far the model is given its last mask, on the decoder's grid, and
# one point more in the middle of the largest error: a star where something is missing, a cross where there is too much.

# %%
wanted, marks, signs, pictures, scores = wholes[1], [places[1]], [1], {}, []
several, ratings, low = predictor.predict(point_coords=np.array(marks), point_labels=np.array(signs))
guess, previous = several[ratings.argmax()], low[ratings.argmax()][None]
for count in range(1, 5):
    scores.append(iou(guess, wanted))
    pictures[f"points: {count}, IoU {scores[-1]:.2f}"] = lesson_plots.Prompted(image, guess, marks, signs)
    where, sign = stages.largest_error(guess, wanted)
    marks, signs = [*marks, where], [*signs, sign]
    answer, _, previous = predictor.predict(np.array(marks), np.array(signs), None, previous, multimask_output=False)
    guess = answer[0]

# %%
caption = "One object, pointed at and corrected three times; each point is put where the largest error is."
alt = "Four copies of the scene with one, two, three and four points on an object, and the blue mask after each."
page.figure(lesson_plots.prompts(pictures, columns=2, width=6.4), "sam-corrected", caption, alt)
better = (np.diff(scores) > 0).sum()
page.say(f"The IoU goes from {scores[0]:.2f} to {scores[-1]:.2f}; {better} of {len(scores) - 1} corrections raise it.")

# %% [markdown]
# ## The same in this project
#
# `lorasam_core.masks.predictor.Predictor` is a `SamPredictor` that takes grey micrographs and is safe in mixed
# precision. One question is special here, the box of the whole image: it needs no knowledge of the answer, and is our
# reading of how the study asks.

# %%
from lorasam_core.measure.evaluation import predict_foreground
from lorasam_core.masks.predictor import Predictor

ours = Predictor(sam)
ours.set_image(image)
again, _, _ = ours.predict(point_coords=point, point_labels=np.array([1]), multimask_output=True)
page.say(f"For the first point {(again != masks).sum()} of {masks.size:,} pixels differ from `SamPredictor`'s.")

# %%
whole = predict_foreground(sam, image)
figure = plots.panels({"image": image, "box of the whole image": plots.overlay(image, whole)}, width=6)
caption = "The answer to the box of the whole image: what the model takes for the foreground."
page.figure(figure, "sam-whole-image", caption, "The scene, and the scene with what the model marks in blue.")
page.say(f"Its IoU with the union of all objects is {iou(whole, true.any(axis=0)):.2f}.")

# %% [markdown]
# [The page of prompts](prompts.ipynb) shows what becomes of these answers on a powder, and [the layer's
# page](lora_layer.ipynb) how LoRA changes the encoder without touching it. [The mask generator](generator.ipynb)
# asks with a whole grid of points, and filters what it gets.
