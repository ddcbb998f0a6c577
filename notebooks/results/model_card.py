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
# # Model card: the compact SAM
#
# `lite` stands in for SAM {cite:p}`kirillov2023sam` where nobody can download 375 MB or wait for a ViT-B. Its stem is
# EfficientNet-Lite0 {cite:p}`tan2019efficientnet` with ImageNet weights; SAM's transformer blocks, prompt encoder and
# mask decoder follow; and, as in SAM 2 {cite:p}`ravi2024sam2`, the decoder gets the stem's finer features beside the
# tokens, so that masks have a pixel for every four of the image. The weights come with the package, and
# `nox -s pretrain` makes them again.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import charts, experiments, plots, stats
from lorasam_core.experiments.records import read_edition
from lorasam_core.models.sam import load_sam
from lorasam_core.report import model_card
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "model_card", folder, data)
page = report.Page(read_edition(folder), "results/model_card")
page.banner()

# %%
import pandas as pd

card, sam = model_card.read_card(), load_sam("lite")
facts = {
    "parameters": f"{sum(p.numel() for p in sam.parameters()):,}",
    "of them in the image encoder": f"{sum(p.numel() for p in sam.image_encoder.parameters()):,}",
    "input, pixels": sam.image_encoder.img_size,
    "SHA-256 of the weights": card["weights_sha256"][:16],
    "made": f"{card['date']}, in {card['hours']:.1f} hours on {card['device']}",
}
if warm := card.get("warm_start"):
    before, steps = warm["weights_sha256"][:12], sum(warm["steps"])
    facts["warm start"] = f"from {before}, after {steps:,} steps: the optimiser's state was lost"
page.table(pd.DataFrame(facts.items(), columns=["what", "lite"]), "card-facts", "The model in numbers.")

# %% [markdown]
# ## What it was trained on
#
# Half of its pictures are real: nuclei under light microscopes (Data Science Bowl 2018 with corrected masks, CC0) and
# photographs of clothed people (Clothing Co-Parsing, Apache-2.0), 1,668 in all. The others are generated. *Scenes*
# hold a few to two dozen describable objects of many shapes and textures, lit, shadowed and hiding each other, with
# parts inside wholes, so that one point can mean three things. *Heaps* hold many things of one kind, strewn and
# touching. No electron micrograph was used, and no generated one.

# %%
from pretrain.measure import Scenes

scenes = list(Scenes(8))
pictures = {scene.id: scene.image for scene in scenes}
caption = "Scenes that training never used. The same generator drew the scenes of training, from another seed."
alt = "Eight generated pictures with coloured and grey shapes, vehicles, letters and mosaics on varied grounds."
page.figure(plots.panels(pictures, columns=4), "card-scenes", caption, alt)

# %% [markdown]
# ## The recipe
#
# The model sees windows of 256 pixels of a 512-pixel frame, and at last whole frames; prompts keep the coordinates of
# the frame. For a point the best of three masks learns, and the others a little, so that none is never trained; for a
# box the single mask; and the IoU head learns the true IoU of what was returned. Two of eleven prompts are points
# where nothing is: their masks learn nothing, and their rating learns 0, for a mask generator asks mostly such points.
# A third of the pictures are also asked for everything, by the box of the whole image; clothed people are not, for
# other things stand around them. Every fourth step adds two rounds of corrections on half of the pictures, each with a
# new point where the mask is wrong. Beside all this, pixels of one object are taught to resemble each other. Muon
# {cite:p}`jordan2024muon` trains the matrices, AdamW all else, the stem at 0.15 of its rate, and the result is the
# average of the weights along the way.

# %%
recipe = pd.DataFrame(card["phases"]).rename(columns={"side": "input, pixels"})
recipe["pictures"] = recipe["batch"] * recipe["steps"]
page.table(recipe, "card-recipe", "The phases of the recipe, as they were run.")

# %%
curve = model_card.read_curve()
prompts = {"iou_point": "point, best of three", "iou_box": "box, single mask"}
lines = curve.melt(["step", "phase"], list(prompts), "prompt", "IoU").dropna().replace({"prompt": prompts})
lines["IoU"] = lines.groupby("prompt")["IoU"].transform(lambda values: values.rolling(5, 1, center=True).mean())
figure = charts.line_chart(
    lines, "step", "IoU", "prompt", log="", xlabel="optimiser step", ylabel="IoU on training scenes"
)
caption = "IoU while training, running mean over 250 steps; the last phase shows whole frames."
page.figure(figure, "card-curve", caption, "Two curves that rise with the steps of training.", data=lines)

# %% [markdown]
# ## What it can do
#
# The first eight scenes are those above; the model sees a point in the largest object, and answers with three masks.

# %%
import numpy as np

from lorasam_core.masks.generator import QUICK_SETTINGS, MaskGenerator, Predictor
from lorasam_core.training.prompts import points_inside

generator, predictor, pictures = MaskGenerator(sam, **QUICK_SETTINGS), Predictor(sam), {}
for scene in scenes[:3]:
    largest = scene.masks[scene.masks.sum((1, 2)).argmax()]
    point = points_inside(largest.astype(np.int32), np.array([1]), np.random.default_rng(0))
    predictor.set_image(scene.image)
    masks, rated, _ = predictor.predict(point, np.array([1]))
    pictures[scene.id] = plots.mark_point(scene.image, point[0])
    for k in np.argsort(-rated):
        pictures[f"{scene.id}: rated {rated[k]:.2f} ({k + 1})"] = plots.overlay(scene.image, masks[k])
    pictures[f"{scene.id}: generator"] = plots.instance_mosaic(scene.image, generator.generate(scene.image))

# %%
caption = "A point, the three masks for it with the IoU that the model predicts, and the mask generator's instances."
alt = "For three scenes: the scene with a marked point, three masks in blue over it, and coloured instances on black."
page.figure(plots.panels(pictures, columns=5), "card-answers", caption, alt)

# %% [markdown]
# ## Measured
#
# On scenes that training never used, up to eight objects each, and asked in the same way on generated
# particles and on 24 evenly spaced images of EMPS {cite:p}`yildirim2021emps`. Below that, all masks for a grid of
# 16 by 16 points: how many true masks are among them, how well the predicted IoU tells which, and the F1 of those that
# are kept in the order of predicted IoU times stability, each unless more than half of it lies in a better one, from
# the best of 13 thresholds on.

# %%
images = {"scenes": "generated scenes", "synthetic": "generated particles", "emps": "EMPS"}
measures = {
    "foreground_dice": "whole-image box: Dice of the foreground",
    "point_best_iou": "one point: IoU, best of three masks",
    "point_rated_iou": "one point: IoU, mask the model rates best",
    "corrected_iou": "one point and two corrections: IoU, single mask",
    "box_iou": "box, 5 % jitter: IoU, single mask",
    "iou_error": "IoU head: mean absolute error",
    "correlation": "all masks of 256 points: correlation of predicted with true IoU",
    "recall": "all masks of 256 points: true masks found at IoU 0.5",
    "f1": "masks chosen by predicted IoU x stability: F1 at IoU 0.5",
    "ap50": "masks chosen by predicted IoU x stability: AP50",
}

# %%
rows = [(m, i, *(card["measures"][i][m][k] for k in ("mean", "low", "high", "n"))) for i in images for m in measures]
table = pd.DataFrame(rows, columns=["measure", "images", "mean", "low", "high", "n"])
shown = table.assign(text=stats.as_text(table)).pivot(index="measure", columns="images", values="text")
shown = shown.loc[list(measures), list(images)].rename(index=measures, columns=images)
shown = shown.rename_axis("measure, %").reset_index()
part = {"val": "validation", "test": "test"}[card["part"]]
caption = "Means over objects (whole images: over images) with 95 % intervals over scenes, specimens or papers, in %; "
caption += f"particles: of the {part} images."
page.table(shown, "card-measures", caption, data=table)

# %% [markdown]
# Small objects are where it fails: the IoU of the single mask for a box, by the size of the object. Bins of fewer than
# twenty objects are left out.

# %%
bins = [pd.DataFrame(card["measures"][i]["by_size"]).assign(images=name) for i, name in images.items()]
sizes = pd.concat(bins).query("n >= 20 and side > 0").assign(side=lambda rows: 100 * rows["side"])
labels = {"xlabel": "size, % of the image's side", "ylabel": "IoU by a box"}
figure = charts.line_chart(sizes, "side", "box_iou", "images", log="x", **labels)
caption = "IoU by a box, and the size of the object: the square root of its area, from each bin's lower bound."
page.figure(figure, "card-sizes", caption, "IoU mostly rises with the size of the object.", data=sizes)

# %% [markdown]
# ## What it cannot do
#
# - **Small objects.** A token is 16 pixels of a 512-pixel input and a mask's pixel 4. Objects under 16 pixels across
#   are seldom outlined well.
# - **Stand for SAM's accuracy.** It has a fourteenth of ViT-B's parameters and saw the pictures above, where SAM saw
#   eleven million photographs. Adapting it shows the mechanism, not what SAM would score.
# - **Be asked with SAM's thresholds.** Its ratings of its own masks are not on the scale of SAM's; the generator's
#   settings of this project's quick profile were chosen for it. [Failures](failures.ipynb) compares thresholds.
# - **Photographs of anything.** Of photographs it saw clothed people alone, and nothing was measured on others.
