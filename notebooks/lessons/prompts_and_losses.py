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
from lorasam_core import charts, experiments
from lorasam_core.report import page as report
from lorasam_core.report.chapters import lesson_plots
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "prompts_and_losses", folder, data)
page = report.Page(read_edition(folder), "lessons/prompts_and_losses")
page.banner()

# %% [markdown]
# ## One training crop, three objectives
#
# A crop of a generated micrograph, as training sees it: rotated, flipped, enlarged to the model's input. Its prompts
# are drawn from the labels, and are the same whenever this crop is seen.

# %%
from lorasam_core.data.particles import generate
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.devices import resolve_device
from lorasam_core.training.objectives import TrainingItems

config = report.main_config(page.edition)
sam = report.load_base(config, resolve_device("auto"))
side, grid = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0]
item = TrainingItems(VirtualSet([generate(seed=0, index=15)], size=6, crop_size=256), side, grid, k=5)[3]

# %%
import numpy as np

crop = item["image"].permute(1, 2, 0).numpy()  # C S S -> S S C
larger = np.ones((side // grid, side // grid), dtype=bool)
union = np.kron(item["semantic"].numpy(), larger)
targets = [np.kron(target, larger) for target in item["targets"].numpy()]
points, boxes = item["points"].numpy(), item["boxes"].numpy()

# %%
pictures = {"semantic": lesson_plots.Prompted(crop, union, box=(0, 0, side - 1, side - 1))}
for i, target in enumerate(targets):
    by_point = {"points": points[i : i + 1]} if i % 2 == 0 else {"box": boxes[i]}
    pictures[f"instance {i + 1}, {'box' if i % 2 else 'point'}"] = lesson_plots.Prompted(crop, target, **by_point)
caption = "Prompts (star, dashed box) and targets (blue) of one training crop, for the two kinds of question."
alt = "One crop several times: all particles in blue within a box around the image; then single particles, prompted."
page.figure(lesson_plots.prompts(pictures, columns=3), "prompts-targets", caption, alt)

# %%
covered = [100 * target.mean() for target in targets]
page.say(
    f"The semantic target covers {100 * union.mean():.0f} % of the crop; its prompt is the same for every image.",
    f"The {len(targets)} instances cover {', '.join(f'{c:.1f} %' for c in covered)}, and their prompts point at them.",
)

# %% [markdown]
# `semantic` asks the first question in every step, `instance` the second, and `mixed` alternates them. The frozen model
# has a loss for each.

# %%
import pandas as pd
import torch

from lorasam_core.training.objectives import Objective, collate

batch = collate([item])
batch |= {key: value.to(sam.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
asked = [("semantic", 0), ("instance", 0), ("mixed", 0), ("mixed", 1)]
with torch.no_grad():
    losses = [Objective(sam, kind)(batch, step)[0].item() for kind, step in asked]

# %%
wants = ["the union, in the single mask", "each particle: best of three masks, or the single one; and its rating"]
rows = [(kind, wants[kind == "instance" or step == 1], f"{v:.3f}") for (kind, step), v in zip(asked, losses)]
rows = [(f"{kind}, step {step}" if kind == "mixed" else kind, *rest) for (kind, step), (_, *rest) in zip(asked, rows)]
table = pd.DataFrame(rows, columns=["objective", "wants", "loss of the frozen model"])
page.table(table, "prompts-objectives", "The three objectives on this crop.")
assert np.allclose(losses[2:], losses[:2], rtol=1e-4)
page.say("The two losses of `mixed` are those of the other two objectives, as they should be.")

# %% [markdown]
# ## The mask's loss, by hand
#
# A target of four pixels, and a mask that is a column too wide. Logits are 2 inside the mask and -2 outside.

# %%
target = torch.zeros(1, 4, 4)
target[0, 1:3, 1:3] = 1
logits = torch.full((1, 4, 4), -2.0)
logits[0, 1:3, 1:4] = 2.0
grids = {"target": target[0].int().numpy(), "mask": (logits[0] > 0).int().numpy()}
figure = lesson_plots.label_grids(grids, {name: {1: ""} for name in grids})
alt = "Two grids of four by four pixels: a square of four pixels, and a rectangle of six."
page.figure(figure, "losses-by-hand", "A tiny target and a mask that is a column too wide.", alt)

# %%
from lorasam_core.training.losses import per_mask_dice_ce

p = logits.sigmoid()
dice_term = 1 - 2 * (p * target).sum() / (p.sum() + target.sum())
entropy_term = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
loss = per_mask_dice_ce(logits, target)[0]
assert torch.isclose(loss, dice_term + entropy_term, atol=1e-5)

# %%
page.say(
    f"Probabilities are {p.max():.3f} inside and {p.min():.3f} outside. Their sum over the target is",
    f"{(p * target).sum():.3f}, over all pixels {p.sum():.3f}: the Dice term is {dice_term:.3f}.",
    f"The mean cross-entropy is {entropy_term:.3f}. Together {dice_term + entropy_term:.3f};",
    f"`per_mask_dice_ce` says {loss:.3f}.",
)

# %% [markdown]
# ## Where each term is blind
#
# First, a square object is missed altogether, with some confidence (logits of -4 everywhere). How much does that cost
# as the object grows?

# %%
import torch.nn.functional as F

at = torch.arange(64)
sides = torch.arange(1, 33)
edge = (at < sides[:, None]).float()
missed = edge[:, :, None] * edge[:, None, :]  # 32 objects, each in an image of 64 x 64 pixels
nothing = torch.full_like(missed, -4.0)
entropy = F.binary_cross_entropy_with_logits(nothing, missed, reduction="none").mean((1, 2))
dice = per_mask_dice_ce(nothing, missed) - entropy

# %%
terms = {"Dice": dice, "cross-entropy": entropy}
table = pd.concat(pd.DataFrame({"side": sides, "loss": v.numpy(), "term": name}) for name, v in terms.items())
figure = charts.line_chart(table, "side", "loss", "term", log="", xlabel="side of the missed object, pixels")
caption = "What it costs to miss a square object in an image of 64 x 64 pixels."
alt = "Two lines over the object's side: Dice high throughout, cross-entropy rising from nearly zero."
page.figure(figure, "losses-size", caption, alt, data=table)

# %%
page.say(
    f"Missing one pixel costs {dice[0]:.2f} in Dice and {entropy[0]:.3f} in cross-entropy; missing a quarter of the",
    f"image costs {dice[-1]:.2f} and {entropy[-1]:.2f}. Cross-entropy hardly sees what is small; to Dice all sizes are",
    "alike.",
)

# %% [markdown]
# Second, a mask of the right size lies beside its object.

# %%
shifts = torch.arange(0, 33, 2)
right = ((at >= 8) & (at < 24)).float()
moved = ((at >= 8 + shifts[:, None]) & (at < 24 + shifts[:, None])).float()
true = (right[:, None] * right).expand(len(shifts), -1, -1)
beside = 8 * (right[:, None] * moved[:, None, :]) - 4  # logits of 4 and -4
entropy = F.binary_cross_entropy_with_logits(beside, true, reduction="none").mean((1, 2))
dice = per_mask_dice_ce(beside, true) - entropy

# %%
terms = {"Dice": dice, "cross-entropy": entropy}
table = pd.concat(pd.DataFrame({"shift": shifts, "loss": v.numpy(), "term": name}) for name, v in terms.items())
figure = charts.line_chart(table, "shift", "loss", "term", log="", xlabel="shift of the mask, pixels")
caption = "What it costs when a mask of 16 x 16 pixels is shifted."
alt = "Two lines over the shift: both rise until mask and object part, and are level after it."
page.figure(figure, "losses-shift", caption, alt, data=table)

# %%
beyond = [(v[-1] - v[shifts == 16][0]).item() for v in terms.values()]
page.say(
    f"Up to a shift of 16 pixels both grow. From there to {shifts[-1]} pixels Dice changes by {beyond[0]:.3f} and",
    f"cross-entropy by {beyond[1]:.3f}: neither knows how far off a mask is.",
)

# %% [markdown]
# Third, what moves: the pull on an object of 16 x 16 pixels, all of whose pixels have one logit, on a ground that is
# known to be ground.

# %%
z = torch.linspace(-10, 10, 41)
known = (right[:, None] * right).expand(len(z), -1, -1)
pulled = torch.where(known > 0, z[:, None, None], torch.tensor(-10.0)).requires_grad_()
entropy = F.binary_cross_entropy_with_logits(pulled, known, reduction="none").mean((1, 2))
dice = per_mask_dice_ce(pulled, known) - entropy
pull = {}
for name, term in {"Dice": dice, "cross-entropy": entropy}.items():
    (gradient,) = torch.autograd.grad(term.sum(), pulled, retain_graph=True)
    pull[name] = -(gradient * known).sum((1, 2))

# %%
table = pd.concat(pd.DataFrame({"logit": z, "pull": v.numpy(), "term": name}) for name, v in pull.items())
figure = charts.line_chart(table, "logit", "pull", "term", log="y", xlabel="logit of the object", ylabel="pull upwards")
caption = "The gradient of each term, summed over the object's pixels, against their logit."
alt = "Two lines over the logit: cross-entropy level where the object is missed, Dice falling there."
page.figure(figure, "losses-pull", caption, alt, data=table)
page.say(
    f"Where the object is missed with a logit of {z[0]:.0f}, cross-entropy pulls",
    f"{pull['cross-entropy'][0] / pull['Dice'][0]:,.0f} times as hard as Dice; at a logit of {z[20]:.0f} Dice pulls",
    f"{pull['Dice'][20] / pull['cross-entropy'][20]:.0f} times as hard.",
)

# %% [markdown]
# So the two are added: Dice to see small objects, cross-entropy to move what is confidently wrong.
#
# ## The best of three
#
# A point is answered with three masks, and the target is one of the things that it may have meant. Only the mask with
# the least loss is trained; training all would pull three different answers to one.

# %%
from segment_anything import SamPredictor

predictor = SamPredictor(sam)
predictor.set_image(crop)
_, ratings, low = predictor.predict(point_coords=points[:1], point_labels=np.array([1]))
wanted = item["targets"][:1].float()
three = torch.from_numpy(low)[None].requires_grad_()  # 1 3 m m
each = per_mask_dice_ce(three, wanted)[0].detach()

# %%
from lorasam_core.training.losses import minimum_mask_loss

least, index = minimum_mask_loss(three, wanted)
least.sum().backward()
norms = three.grad[0].flatten(1).norm(dim=1)
drawn = [np.kron(mask > 0, larger) for mask in low]
pictures = {"target": lesson_plots.Prompted(crop, targets[0], points[:1])}
for i, mask in enumerate(drawn):
    pictures[f"mask {i + 1}: loss {each[i]:.2f}"] = lesson_plots.Prompted(crop, mask, points[:1])

# %%
caption = "The target of a point, and the frozen model's three masks for it with their losses."
alt = "One crop four times, with a starred particle: its target, then three masks in blue."
page.figure(lesson_plots.prompts(pictures, columns=4), "losses-three", caption, alt)
assert torch.isclose(least[0], each.min()) and norms.count_nonzero() == 1 and norms.argmax() == index[0]
page.say(
    f"The least loss, {least.item():.2f}, is that of mask {index[0] + 1}. The gradients' norms are",
    f"{', '.join(f'{n:.1e}' if n else '0' for n in norms)}: the other two masks get none.",
)

# %% [markdown]
# ## The rating's loss
#
# The mask generator trusts the model's own rating of its masks. It is pulled to the IoU that each mask really has, by
# the square of the error. The mask itself gets no gradient from this: a mask must not be made worse to be easier rated.

# %%
from lorasam_core.training.losses import iou_head_loss, mask_iou

ious = mask_iou(three, wanted)[0]
squares = (torch.from_numpy(ratings) - ious) ** 2
total = iou_head_loss(torch.from_numpy(ratings)[None], three, wanted)
assert torch.isclose(squares.mean(), total)
rows = [(str(i + 1), *(f"{v:.3f}" for v in row)) for i, row in enumerate(zip(ratings, ious, squares))]
table = pd.DataFrame(rows, columns=["mask", "rated", "true IoU", "squared error"])
page.table(table, "losses-rating", "The frozen model's rating of the three masks above, and their true IoU.")
page.say(f"The mean of the squares is {squares.mean():.4f}, and `iou_head_loss` says {total:.4f}.")

# %% [markdown]
# ## What a gradient reaches
#
# The loss is computed through the frozen decoder and the frozen encoder, and changes nothing but $A$ and $B$. The table
# has two steps, because $A$ has a gradient of zero as long as $B$ is zero ({doc}`../background`).

# %%
from lorasam_core.models.lora import LoRAConfig, add_lora, hash_base, lora_parameters

add_lora(sam, LoRAConfig(config.rank, config.alpha, config.scaling, config.targets, config.blocks))
before, objective = hash_base(sam), Objective(sam, "mixed")
optimiser = torch.optim.Adam(lora_parameters(sam), lr=1e-3)
owner = {
    n: next((k for k in "AB" if f".{k}_" in n), n.split(".")[0].replace("_", " ")) for n, _ in sam.named_parameters()
}
names = ["A", "B", "image encoder", "prompt encoder", "mask decoder"]

# %%
columns = {}
for step in (0, 1):
    optimiser.zero_grad()
    objective(batch, step)[0].backward()
    grads = {name: [p.grad for n, p in sam.named_parameters() if owner[n] == name] for name in names}
    squares = {name: [g.square().sum().item() for g in grads[name] if g is not None] for name in names}
    columns[f"gradient, step {step + 1}"] = [f"{sum(v) ** 0.5:.2g}" if v else "none" for v in squares.values()]
    optimiser.step()

# %%
sizes = [sum(p.numel() for n, p in sam.named_parameters() if owner[n] == name) for name in names]
table = pd.DataFrame({"what": names, "numbers": [f"{n:,}" for n in sizes], **columns})
caption = "Norm of the gradient by part of the model, for the first two steps of training on this crop."
page.table(table, "losses-gradient", caption)
assert hash_base(sam) == before
trained = sum(p.numel() for p in sam.parameters() if p.grad is not None)
page.say(
    f"{trained:,} of {sum(sizes):,} numbers have a gradient, those of A and B. After both steps the hash of all others",
    f"is what it was, `{before[:12]}`.",
)

# %% [markdown]
# The layer itself is taken apart on [its page](lora_layer.ipynb); what the losses do over a whole run is on
# [training](train.ipynb).
