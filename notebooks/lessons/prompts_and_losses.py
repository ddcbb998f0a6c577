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
# # Prompts and losses
#
# {doc}`../method` defines what a training step asks of SAM and how the answer is judged. Here are the same questions as
# pictures, and the losses on masks small enough to be checked by hand.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import charts, experiments, plots
from lorasam_core.experiments.records import read_edition
from lorasam_core.models.sam import load_sam
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "prompts_and_losses", folder, data)
page = report.Page(read_edition(folder), "lessons/prompts_and_losses")
page.banner()

# %% [markdown]
# ## One training crop, three objectives
#
# A crop of a generated micrograph, as training sees it: rotated, flipped, enlarged to the model's input. Its prompts
# are drawn from the labels, and are the same whenever this crop is seen. Targets lie on the decoder's grid, four times
# coarser than the input.

# %%
from lorasam_core.data.particles import generate
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.training.items import TrainingItems

sam = load_sam("lite")
side, (grid, _) = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size
item = TrainingItems(VirtualSet([generate(seed=0, index=15)], size=6, crop_size=256), side, grid, k=5)[3]
{name: tuple(value.shape) for name, value in item.items() if hasattr(value, "shape")}

# %%
import numpy as np

crop = item["image"].permute(1, 2, 0).numpy()  # C S S -> S S C
larger = np.ones((side // grid, side // grid), dtype=bool)  # a pixel of the decoder's grid, in the input
union = np.kron(item["semantic"].numpy(), larger)
pictures = {"semantic": plots.mark_box(plots.overlay(crop, union), (0, 0, side - 1, side - 1), width=12)}
for i, (target, point, box) in enumerate(zip(*(item[key].numpy() for key in ("targets", "points", "boxes")))):
    picture = plots.overlay(crop, np.kron(target, larger))
    picture = plots.mark_box(picture, box, width=6) if i % 2 else plots.mark_point(picture, point, radius=12)
    pictures[f"instance {i + 1}, {'box' if i % 2 else 'point'}"] = picture

# %%
caption = "Prompts (point or box) and targets (blue) of one training crop, for the two kinds of question."
alt = "One crop several times: all particles in blue within a box around the image; then single particles, prompted."
page.figure(plots.panels(pictures, columns=3), "prompts-targets", caption, alt)

# %% [markdown]
# `semantic` asks the first question in every step: the union of all particles, in the single mask, for the box of the
# whole image, which is the same prompt for every image. `instance` asks the others: each particle, in the best of three
# masks for a point or the single mask for a box, and its rating. `mixed` alternates them. The frozen model has a loss
# for each.

# %%
import pandas as pd
import torch

from lorasam_core.training.items import collate
from lorasam_core.training.objectives import Objective

batch, rows = collate([item]), []
for kind, step in (("semantic", 0), ("instance", 0), ("mixed", 0), ("mixed", 1)):
    with torch.no_grad():
        loss, _ = Objective(sam, kind)(batch, step)
    rows.append((kind, step, round(loss.item(), 3)))
table = pd.DataFrame(rows, columns=["objective", "step", "loss of the frozen model"])
page.table(table, "prompts-objectives", "The three objectives on this crop.")

# %% [markdown]
# ## The mask's loss, by hand
#
# A target of four pixels, and a mask that is a column too wide. Logits are 2 inside the mask and -2 outside. The loss
# is one minus a Dice of probabilities, plus the mean cross-entropy.

# %%
from lorasam_core.training.losses import per_mask_dice_ce

target = torch.zeros(1, 4, 4)
target[0, 1:3, 1:3] = 1
logits = torch.full((1, 4, 4), -2.0)
logits[0, 1:3, 1:4] = 2.0
p = logits.sigmoid()
dice = 1 - 2 * (p * target).sum() / (p.sum() + target.sum())
entropy = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
assert torch.isclose(per_mask_dice_ce(logits, target)[0], dice + entropy, atol=1e-5)
print(f"Dice {dice:.3f} + cross-entropy {entropy:.3f} = {dice + entropy:.3f}")

# %% [markdown]
# ## Why two terms
#
# A square object is missed altogether, with some confidence (logits of -4 everywhere). How much does that cost as the
# object grows?

# %%
import torch.nn.functional as F

at, sides = torch.arange(64), torch.arange(1, 33)
edge = (at < sides[:, None]).float()
missed = edge[:, :, None] * edge[:, None, :]  # 32 objects, each in an image of 64 x 64 pixels
nothing = torch.full_like(missed, -4.0)
entropy = F.binary_cross_entropy_with_logits(nothing, missed, reduction="none").mean((1, 2))
terms = {"Dice": per_mask_dice_ce(nothing, missed) - entropy, "cross-entropy": entropy}

# %%
table = pd.concat(pd.DataFrame({"side": sides, "loss": v.numpy(), "term": name}) for name, v in terms.items())
figure = charts.line_chart(table, "side", "loss", "term", log="", xlabel="side of the missed object, pixels")
caption = "What it costs to miss a square object in an image of 64 x 64 pixels."
alt = "Two lines over the object's side: Dice high throughout, cross-entropy rising from nearly zero."
page.figure(figure, "losses-size", caption, alt, data=table)

# %% [markdown]
# Cross-entropy hardly sees what is small; to Dice all sizes are alike. But a loss trains by its gradient: here is the
# pull of each term on an object of 16 x 16 pixels, all of whose pixels have one logit, on a ground that is known to be
# ground.

# %%
z = torch.linspace(-10, 10, 41)
known = torch.zeros(41, 64, 64)
known[:, 8:24, 8:24] = 1
pulled = torch.where(known > 0, z[:, None, None], torch.tensor(-10.0)).requires_grad_()
entropy = F.binary_cross_entropy_with_logits(pulled, known, reduction="none").mean((1, 2))
pull = {}
for name, term in {"Dice": per_mask_dice_ce(pulled, known) - entropy, "cross-entropy": entropy}.items():
    (gradient,) = torch.autograd.grad(term.sum(), pulled, retain_graph=True)
    pull[name] = -(gradient * known).sum((1, 2))

# %%
table = pd.concat(pd.DataFrame({"logit": z, "pull": v.numpy(), "term": name}) for name, v in pull.items())
figure = charts.line_chart(table, "logit", "pull", "term", log="y", xlabel="logit of the object", ylabel="pull upwards")
caption = "The gradient of each term, summed over the object's pixels, against their logit."
alt = "Two lines over the logit: cross-entropy level where the object is missed, Dice falling there."
page.figure(figure, "losses-pull", caption, alt, data=table)

# %% [markdown]
# Where an object is missed with confidence, only cross-entropy pulls; where the model is undecided, Dice pulls harder.
# So the two are added: Dice to see small objects, cross-entropy to move what is confidently wrong.
#
# ## The best of three, and its rating
#
# A point is answered with three masks, and the target is one of the things that it may have meant. Only the mask with
# the least loss is trained; training all would pull three different answers to one. The mask generator trusts the
# model's own rating of its masks, so that is trained too: it is pulled to the IoU that each mask really has, by the
# square of the error. The mask itself gets no gradient from this: a mask must not be made worse to be easier rated.

# %%
from segment_anything import SamPredictor

from lorasam_core.training.losses import iou_head_loss, mask_iou, minimum_mask_loss

predictor = SamPredictor(sam)
predictor.set_image(crop)
_, rated, low = predictor.predict(point_coords=item["points"][:1].numpy(), point_labels=np.array([1]))
wanted, rated = item["targets"][:1].float(), torch.from_numpy(rated)[None]
three = torch.from_numpy(low)[None].requires_grad_()  # 1 3 m m
least, index = minimum_mask_loss(three, wanted)
least.sum().backward()

# %%
answers = pd.DataFrame({"mask": [1, 2, 3], "loss": per_mask_dice_ce(three, wanted)[0].detach()})
answers["norm of the gradient"] = three.grad[0].flatten(1).norm(dim=1)
answers["rated"], answers["true IoU"] = rated[0], mask_iou(three, wanted)[0]
answers["squared error"] = (answers["rated"] - answers["true IoU"]) ** 2
assert answers["loss"].argmin() == index[0] and (answers["norm of the gradient"] > 0).sum() == 1
assert np.isclose(answers["squared error"].mean(), iou_head_loss(rated, three, wanted))
caption = "The frozen model's three masks for the first point: their losses, what is trained, and their ratings."
page.table(answers.astype(float).astype({"mask": int}).round(4), "losses-three", caption)

# %%
pictures = {"target": plots.overlay(crop, np.kron(item["targets"][0].numpy(), larger))}
pictures |= {f"mask {i + 1}": plots.overlay(crop, np.kron(mask > 0, larger)) for i, mask in enumerate(low)}
pictures = {name: plots.mark_point(picture, item["points"][0], 12) for name, picture in pictures.items()}
caption = "The target of a point, and the frozen model's three masks for it."
alt = "One crop four times, with a marked particle: its target, then three masks in blue."
page.figure(plots.panels(pictures), "losses-masks", caption, alt)

# %% [markdown]
# ## What a gradient reaches
#
# The loss is computed through the frozen decoder and the frozen encoder, and changes nothing but $A$ and $B$. Two steps
# show it, because $A$ has a gradient of zero as long as $B$ is zero ({doc}`../background`).

# %%
from lorasam_core.models.lora import LoRAConfig, add_lora, hash_base, lora_parameters

add_lora(sam, LoRAConfig(rank=32))
base, objective = hash_base(sam), Objective(sam, "mixed")
optimiser = torch.optim.Adam(lora_parameters(sam), lr=1e-3)
rows = []
for step in (0, 1):
    optimiser.zero_grad()
    objective(batch, step)[0].backward()
    for name, parameter in sam.named_parameters():
        part = next((k for k in "AB" if f".{k}_" in name), name.split(".")[0].replace("_", " "))
        square = np.nan if parameter.grad is None else parameter.grad.square().sum().item()
        rows.append((part, f"gradient, step {step + 1}", parameter.numel(), square))
    optimiser.step()
assert hash_base(sam) == base  # to the last bit

# %%
found = pd.DataFrame(rows, columns=["part", "step", "numbers", "square"])
norms = found.groupby(["part", "step"])["square"].sum(min_count=1).pow(0.5).unstack()
table = found[found["step"] == "gradient, step 1"].groupby("part")["numbers"].sum().map("{:,}".format).to_frame()
table = table.join(norms.map("{:.2g}".format).replace("nan", "none")).reset_index()
caption = "Norm of the gradient by part of the model, for the first two steps of training on this crop."
page.table(table, "losses-gradient", caption)

# %% [markdown]
# The layer itself is taken apart on [its page](lora_layer.ipynb); [the next lesson](training.ipynb) puts it all into a
# loop.
