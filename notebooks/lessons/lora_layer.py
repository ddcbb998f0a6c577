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
# # The layer, from nothing
#
# LoRA {cite:p}`hu2022lora` leaves a matrix $W$ as it is and learns what to add to it: a product of two thin matrices,
#
# $$
# W x \;\longrightarrow\; W x + s \, B A x, \qquad A \in \mathbb{R}^{r \times d}, \quad B \in \mathbb{R}^{d \times r}.
# $$
#
# The rank $r$ says how thin they are, and the factor $s$ how loud the update is. This page builds the layer in a few
# lines, checks each claim that is made for it, and then puts it into the compact SAM.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import experiments, plots
from lorasam_core.report import page as report
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "lora_layer", folder, data)
page = report.Page(read_edition(folder), "lessons/lora_layer")
page.banner()

# %% [markdown]
# ## The layer
#
# $A$ starts at random, $B$ at zero. The linear layer that is adapted is kept, frozen.

# %%
import torch
from torch import nn


# %%
class LoRALinear(nn.Module):
    def __init__(self, base, rank, factor=1.0):
        super().__init__()
        self.base, self.factor = base.requires_grad_(False), factor
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, base.in_features), a=5**0.5))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + self.factor * (x @ self.A.T @ self.B.T)


# %% [markdown]
# ## B = 0: nothing changes yet
#
# The adapted layer is the layer that was there, to the last bit. Training starts from what the model knows.

# %%
torch.manual_seed(0)
plain = nn.Linear(64, 64)
x = torch.randn(10, 64)
before = plain(x).detach()
layer = LoRALinear(plain, rank=4)
assert torch.equal(layer(x), before)

# %% [markdown]
# ## One step
#
# While $B$ is zero no gradient reaches $A$. The first step moves $B$ alone, and the second one both.

# %%
weight = plain.weight.clone()
optimiser = torch.optim.Adam([layer.A, layer.B], lr=1e-2)
for step in (1, 2):
    optimiser.zero_grad()
    layer(x).square().mean().backward()
    print(f"step {step}: norm of the gradient {layer.A.grad.norm():.4f} for A, {layer.B.grad.norm():.4f} for B")
    optimiser.step()

# %% [markdown]
# After both steps the frozen weight is bit-identical to what it was, and has no gradient.

# %%
assert torch.equal(plain.weight, weight) and plain.weight.grad is None

# %% [markdown]
# ## Merging
#
# $W + s\,BA$ is a matrix of the same shape as $W$. Once training is over it can take the place of $W$, and the model
# is again as large and as fast as it was. The outputs differ by rounding.

# %%
merged = nn.Linear(64, 64)
merged.load_state_dict({"weight": plain.weight + layer.factor * layer.B @ layer.A, "bias": plain.bias})
difference = (merged(x) - layer(x)).abs().max().item()
assert difference < 1e-5
f"{difference:.0e}"

# %% [markdown]
# ## In SAM
#
# SAM's attention computes query, key and value in one linear layer, `qkv`. LoRA is put on the query and the value
# slices of every block of the image encoder; prompt encoder and mask decoder stay as they are. Before training the
# image embedding is bit-identical to the frozen model's.

# %%
from lorasam_core.models.lora import LoRAConfig, add_lora, count_trainable
from lorasam_core.models.sam import load_sam

sam = load_sam("lite")
image = torch.rand(1, 3, sam.image_encoder.img_size, sam.image_encoder.img_size)
with torch.no_grad():
    untouched = sam.image_encoder(image)
total = sum(p.numel() for p in sam.parameters())
add_lora(sam, LoRAConfig(rank=32))
with torch.no_grad():
    assert torch.equal(sam.image_encoder(image), untouched)
f"{count_trainable(sam):,} numbers to train beside {total:,} that stay"

# %% [markdown]
# With random values in $A$ and $B$, as if it had been trained, the encoder answers otherwise. In one of its layers the
# update is computed here beside the frozen output, as the formula has it, and then compared with the merged layer.

# %%
from lorasam_core.models.lora import lora_parameters, merge
from lorasam_core.models.lora.model import layers_of

for p in lora_parameters(sam):
    torch.nn.init.normal_(p, std=0.02)
path, layer = next(iter(layers_of(sam).items()))
x = torch.randn(10, layer.base.in_features)

# %%
with torch.no_grad():
    parts = list(layer.base(x).chunk(len(layer.slices), dim=-1))  # of attn.qkv: queries, keys and values
    for name in layer.adapted:
        i, A, B = layer.slices.index(name), layer.get_parameter(f"A_{name}"), layer.get_parameter(f"B_{name}")
        parts[i] = parts[i] + layer.factor * (x @ A.T) @ B.T
    beside = torch.cat(parts, dim=-1)
    error = ((merge(sam).get_submodule(path)(x) - beside).abs().max() / beside.abs().max()).item()
assert error < 1e-5
f"{path}: merged and unmerged differ by {error:.0e} of the largest output"

# %% [markdown]
# ## Counting
#
# A rank of $r$ costs $r$ rows of $A$ and $r$ columns of $B$ for each of the two slices in each block. Past half the
# width of the encoder, $A$ and $B$ together hold more numbers than the matrix that they update; beyond the width, more
# than its full rank can use. Ranks scale with the width: the table puts each rank of the study beside the rank of the
# compact model that is the same share of its width.

# %%
import pandas as pd

from lorasam_core.models.lora import lora_parameter_count

wide, deep = report.STUDY["width"], report.STUDY["blocks"]  # ViT-B: 768 and 12
width, depth = layer.base.in_features, len(sam.image_encoder.blocks)
table = pd.DataFrame({"rank": list(report.STUDY["rank"])})
table["A and B over W"] = 2 * table["rank"] / wide
counts = [lora_parameter_count(wide, deep, rank, ("q", "v")) for rank in table["rank"]]
table["parameters, ViT-B"] = [f"{count:,}" for count in counts]
table[report.REPORTED] = [f"{millions:g} M" for _, millions in report.STUDY["rank"].values()]
table["same share, lite"] = table["rank"] * width // wide
table["parameters, lite"] = [f"{lora_parameter_count(width, depth, rank, ('q', 'v')):,}" for rank in table.iloc[:, -1]]

# %%
caption = "Trainable parameters by rank, computed for q and v, and those reported by the study beside them."
page.table(table.round(2), "lora-parameters", caption)

# %% [markdown]
# No choice of adapted layers explains every count that the study reports.
#
# ## How loud is a step?
#
# The gradient of $B$ is $s\,G A^\top$, where $G$ is the gradient of the weight: a sum over tokens of outer products.
# Adam's first step moves every number of $B$ by the learning rate $\eta$ against the sign of that, whatever the rank.
# The product then moves by $s\,\eta\,\mathrm{sign}(G A^\top) A$, and the loss falls, to first order, by
# $s\,\eta \sum |G A^\top|$. Both depend on the rank and on the factor $s$: `alpha/r`, `alpha/sqrt(r)`
# {cite:p}`kalajdzievski2023rslora` or none. Here they are computed for a gradient of random tokens.

# %%
from lorasam_core.config import SCALINGS

rows, rate, tokens = [], 1e-4, 64
gradient = torch.randn(wide, tokens) @ torch.randn(tokens, wide)
for rank in report.STUDY["rank"]:
    A = nn.init.kaiming_uniform_(torch.empty(rank, wide), a=5**0.5)
    B = rate * (gradient @ A.T).sign()  # without the minus, which changes no size
    for scaling in SCALINGS:
        update = LoRAConfig(rank, alpha=32, scaling=scaling).factor * (B @ A)
        rows.append((rank, scaling, update.norm().item(), (gradient * update).sum().item()))
steps = pd.DataFrame(rows, columns=["rank", "scaling", "norm of the update", "first-order change of the loss"])

# %%
import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

with mpl.rc_context(plots.STYLE):
    figure = Figure(figsize=(8, 2.9))
    for axes, name in zip(figure.subplots(1, 2), steps.columns[2:]):
        relative = steps.assign(**{name: steps[name] / steps.groupby("scaling")[name].transform("first")})
        sns.lineplot(relative, x="rank", y=name, hue="scaling", marker="o", ax=axes)
        axes.set_xscale("log", base=2)
        axes.set(title=name, ylabel="relative to the lowest rank")

# %%
caption = f"The first update of a {wide} x {wide} matrix and what it does to the loss, by rank, at a fixed alpha."
alt = "Two charts over the rank, three lines each: without scaling both rise; alpha/r holds the loss level."
page.figure(figure, "lora-step-size", caption, alt, data=steps)

# %% [markdown]
# The effect on the loss is a sum over the rows of $A$ and grows as $s\,r$: `alpha/r` holds it level, and under
# `alpha/sqrt(r)` it grows. If the signs were random, the norm would grow as $s\sqrt{r}$, and `alpha/sqrt(r)` would hold
# that level; but they follow $A$, and the norm grows somewhat faster.
#
# So a sweep over ranks can be a sweep over step sizes in disguise, and no one rule holds a step level in every sense.
# [The rank page](rank.ipynb) reads its numbers with that in mind.
