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
# # Training in thirty visible lines
#
# What does it take to adapt SAM? A model, a layer, images with labels, a loss, an optimiser and a loop. Here they are
# in plain PyTorch, with the pieces of `lorasam_core` and none of its machinery; then the same in one call.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
steps: int = 60  # of the optimiser

# %%
from lorasam_core import experiments, plots
from lorasam_core.experiments.records import read_edition
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "training", folder, data)
page = report.Page(read_edition(folder), "lessons/training")
page.banner()

# %% [markdown]
# ## Model and data
#
# The compact SAM gets [LoRA](lora_layer.ipynb) of rank 8 in its image encoder; everything else is frozen. The images
# are generated powders, split by specimen. A virtual set makes crops of the training images: rotated, flipped, of
# another contrast, and the same whenever item *i* is asked for.

# %%
import torch

from lorasam_core.data import load_dataset
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.lora import LoRAConfig, add_lora, count_trainable, lora_parameters
from lorasam_core.models.sam import load_sam, preprocess

torch.manual_seed(0)
sam = add_lora(load_sam("lite", image_size=256), LoRAConfig(rank=8))
samples = load_dataset("synthetic", limit=30)
train_set, test_set = samples.subset("train"), samples.subset("test")
crops = VirtualSet(train_set, seed=0, crop_size=512)
f"{count_trainable(sam):,} numbers to train, {len(train_set)} training images, {len(test_set)} test images"

# %% [markdown]
# What does the model know before? It is asked for the foreground of each test image, by the box of the whole image.

# %%
from lorasam_core.measure.evaluation import predict_foreground
from lorasam_core.measure.metrics import dice

before = {s.id: predict_foreground(sam, s.image) for s in test_set}

# %% [markdown]
# ## The loop
#
# Every step draws two crops. Each is encoded, the decoder answers the box of the whole image with its single mask, and
# the mask is compared with the union of the particles by [Dice plus cross-entropy](prompts_and_losses.ipynb). The
# gradient passes through the frozen decoder and the frozen encoder and stops at $A$ and $B$, the only numbers that
# AdamW moves.

# %%
from tqdm import tqdm

from lorasam_core.training.losses import dice_ce_loss
from lorasam_core.training.items import shrink

batch_size, losses = 2, []
optimiser = torch.optim.AdamW(lora_parameters(sam), lr=2e-3, weight_decay=0.01)
side, grid = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size
sparse, dense = sam.prompt_encoder(None, torch.tensor([[0.0, 0.0, side, side]]), None)  # the whole image as a box
position = sam.prompt_encoder.get_dense_pe()

# %%
for step in tqdm(range(steps)):
    optimiser.zero_grad()
    for i in range(step * batch_size, (step + 1) * batch_size):
        image, labels = crops[i * 7919 % len(crops)]  # neighbours are crops of one image: a large prime mixes them
        embedding = sam.image_encoder(preprocess(sam, image)[0])
        logits, _ = sam.mask_decoder(embedding, position, sparse, dense, multimask_output=False)
        target = torch.from_numpy(shrink(labels > 0, *grid))[None]
        loss = dice_ce_loss(logits[:, 0], target) / batch_size
        loss.backward()
        losses.append(batch_size * loss.item())
    optimiser.step()

# %% [markdown]
# That is all. What a real run adds is convenience and care: batches that fit the device, a warm-up of the learning
# rate, mixed precision, validation that keeps the best state, checkpoints.
#
# ## What has changed

# %%
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

curve = pd.DataFrame({"step": [i // batch_size + 1 for i in range(len(losses))], "loss": losses})
curve["loss, mean of 20 crops"] = curve["loss"].rolling(20, min_periods=1).mean()
with rc_context(plots.STYLE):
    figure = Figure(figsize=(5.6, 2.8))
    axes = figure.subplots()
    sns.scatterplot(curve, x="step", y="loss", s=10, alpha=0.4, color=plots.TRAIN, ax=axes)
    sns.lineplot(curve, x="step", y="loss, mean of 20 crops", errorbar=None, color=plots.TRAIN, ax=axes)

# %%
caption = "The loss of every crop, and its running mean."
page.figure(figure, "training-loss", caption, "Dots that scatter, and a line through them that falls.", data=curve)

# %% [markdown]
# Single crops differ more than the loss falls; the mean is what to watch. The same question as before training, on a
# test image:

# %%
after = {s.id: predict_foreground(sam, s.image) for s in test_set}
first, pictures = test_set[0], {}
for name, masks in {"before": before, "after": after}.items():
    score = dice(masks[first.id], first.foreground)
    pictures[f"{name}: Dice {score:.2f}"] = plots.overlay(first.image, masks[first.id])
pictures = {"input": plots.rgb(first.image), "labels": plots.overlay(first.image, first.foreground)} | pictures
caption = "A test image, its labelled foreground, and what the model takes for it before and after training."
alt = "A micrograph of particles four times; over three of them a blue mask: labels, before and after training."
page.figure(plots.panels(pictures), "training-before-after", caption, alt)

# %% [markdown]
# ## The same in one call
#
# `lorasam_core.training.loop.train` is what every result in this book was trained with. It draws other crops, and keeps
# the state that validates best.

# %%
import tempfile

from lorasam_core.config import RunConfig
from lorasam_core.training.loop import train

torch.manual_seed(0)
again = add_lora(load_sam("lite", image_size=256), LoRAConfig(rank=8))
config = RunConfig(objective="semantic", rank=8, steps=steps, batch_size=batch_size, learning_rate=2e-3)
config = config.replace(validate_every=max(1, steps // 2), precision="32-true")
with tempfile.TemporaryDirectory() as run_dir:
    train(again, train_set, samples.subset("val"), config, run_dir)

# %%
one_call = {s.id: predict_foreground(again, s.image) for s in test_set}
rows = {"frozen": before, "thirty lines": after, "one call": one_call}
table = pd.DataFrame({name: {s.id: dice(masks[s.id], s.foreground) for s in test_set} for name, masks in rows.items()})
table.loc["mean"] = table.mean()
shown = (100 * table).round(1).rename_axis("test image").reset_index()
page.table(
    shown, "training-dice", "Dice of the foreground, in %, on test images of specimens that were not trained on."
)

# %% [markdown]
# A handful of images and one seed: this shows that the loop works, not how much LoRA helps.
# [The main run](train.ipynb) measures that on real micrographs, [rank](rank.ipynb) and [learning
# rate](learning_rate.ipynb) vary the two numbers that were simply set here, and [your particles](adapt.ipynb) trains
# on a folder of yours.
