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
# # Fast, with the same answers
#
# Encoding images, training adapters and generating masks is what this project does most. Two things are to make each
# of them take less time than with segment-anything's own code: rearranging sums, which changes nothing but rounding,
# and bf16 in the encoder, which rounds more. The tables state the two apart where both were measured. On a CPU,
# attention over few tokens with relative positions goes segment-anything's way. The compact model has no positions to
# add: it takes torch's fused kernel, but segment-anything's way in training, for windows of up to 64 tokens. This
# page derives the rearrangements, times both sides by turns, and compares what they returned. `nox -s bench` measures
# it again on your machine, and the book then shows your numbers.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from bench import tables
from lorasam_core import experiments, plots
from lorasam_core.experiments.records import read_edition
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "speed", folder, data)
page = report.Page(read_edition(folder), "results/speed")
page.banner()

# %%
import pandas as pd

bench = tables.read()
machines = bench.groupby(["device", "device_name", "threads", "torch", "date"]).size().rename("rows").reset_index()
page.table(machines, "speed-machines", "Where the rows of this page were measured. A GPU has rows once one is at hand.")

# %% [markdown]
# Each side of a row runs in processes of its own, ours and the reference by turns, five times (three where one run
# takes longer than a minute). Times are medians; the brackets hold the least and the greatest ratio of a pair of runs.
# Memory is the peak of the whole process, ours / the reference's. The reference is segment-anything with the system's
# own allocator settings, in float32 unless a row says otherwise; where both sides are this project's code, both have
# its settings. An aim was set before measuring; aims for a CPU are those of two cores with AMX, which multiply bf16
# several times faster than float32, and a CPU without it gains less from bf16.

# %%
reached = bench["ratio"].between(bench["at_least"].fillna(0), bench["at_most"].fillna(float("inf")))
text = {name: bench[name].map("{:.3g}".format) for name in ("seconds", "reference", "ratio_low", "ratio_high")}
memory = [bench[name].div(1024).map("{:.2f}".format) for name in ("memory", "reference_memory")]
shown = pd.DataFrame({
    "what": bench["title"].where(bench["device"] == "CPU", bench["device"] + ": " + bench["title"]),
    "seconds, lorasam / reference": text["seconds"] + " / " + text["reference"],
    "ratio": bench["ratio"].map("{:.2f}".format) + " [" + text["ratio_low"] + ",\u00a0" + text["ratio_high"] + "]",
    "aim": ("≥\u00a0" + bench["at_least"].map("{:g}".format)).where(bench["at_least"].notna(), "–"),
    "reached": reached.map({True: "yes", False: "no"}).where(bench["at_least"].notna(), "–"),
    "peak memory, GB": memory[0] + " / " + memory[1],
    "same answer?": bench["answer"],
})  # fmt: skip

# %% [markdown]
# ## The image encoder
#
# SAM adds to each logit a term for the distance in rows and one for the distance in columns. With the query $q$ of a
# token in row $i$ and column $j$, the key $k$ of one in row $m$ and column $n$, and the tables $R^h$ and $R^w$,
#
# $$\ell = s\, q \cdot k + q \cdot R^h_{i-m} + q \cdot R^w_{j-n}.$$
#
# Collect what a query can meet in a column: $r^h = (q \cdot R^h_{i-m})_m$ and $r^w = (q \cdot R^w_{j-n})_n$. Then the
# logit is one inner product of longer vectors,
#
# $$\ell = (s q,\; r^h,\; r^w) \cdot (k,\; e_m,\; e_n),$$
#
# where $e_m$ is one at place $m$ and zero elsewhere. On a GPU a fused attention kernel computes that without ever
# holding the matrix of logits: of ViT-B at 1024 pixels, 805 MB in each of four blocks. On a CPU longer vectors are more
# arithmetic; there the queries are taken some rows of the grid at a time, so that their logits stay in the cache, and
# the backward pass makes them again. The check below asks both for the same tokens.

# %%
import torch

from lorasam_core.models import attention
from lorasam_core.models.attention import FastAttention
from segment_anything.modeling.image_encoder import Attention

torch.manual_seed(0)
original = Attention(dim=96, num_heads=3, use_rel_pos=True, input_size=(40, 40))
torch.nn.init.normal_(original.rel_pos_h), torch.nn.init.normal_(original.rel_pos_w)
tokens = torch.randn(1, 40, 40, 96)

# %%
fast = FastAttention(dim=96, num_heads=3, use_rel_pos=True, input_size=(40, 40))
fast.load_state_dict(original.state_dict())
with torch.no_grad():
    expected = original(tokens)
    chunks = (fast(tokens) - expected).norm() / expected.norm()
    attention.IN_CHUNKS = ()
    vectors = (fast(tokens) - expected).norm() / expected.norm()

# %%
print(f"relative difference to segment-anything: chunks {chunks:.0e}, longer vectors {vectors:.0e}")
print(f"on a CPU up to {attention.FEW_TOKENS:,} tokens with relative positions go segment-anything's way")

# %%
of = bench["group"] == "encoder"
caption = "Image encoder, one image. bf16 against float32 is what a user of this project gets against what SAM does."
page.table(shown[of], "speed-encoder", caption, data=bench[of])

# %% [markdown]
# ## The mask generator
#
# The generator asks thousands of points, keeps the masks that the model itself rates well, and drops the rest. Four
# things are done differently, none of which changes a mask:
#
# - **First rate, then draw.** The predicted IoU does not depend on the mask's pixels. Points are filtered by it before
#   anything is enlarged.
# - **Once an image.** In the decoder's first layer the image tokens are the same for all points, so are their keys,
#   values and queries. What the position code adds later is the same too.
# - **Fold.** With seven tokens $q$ on 4,096 image tokens $x$, $q \cdot (W x) = (W^\top q) \cdot x$: the matrix is
#   applied to seven vectors rather than to thousands.
# - **In the cache.** A CPU takes a few points at a time, so that their image tokens stay in its cache.
#
# A pixel whose logit lies within 0.0001 of the threshold may fall on its other side, as it does in the original when
# its batch size changes. Such pixels are counted; any other difference would be a "no" below.

# %%
caption = (
    "Mask generator on a generated micrograph of 1024 x 768 pixels. ViT-B has random weights and a merged random "
    "adapter: its masks mean nothing, its times do. 'A tenth passes' and 'all pass' are about the filter by IoU."
)
of = bench["group"] == "generator"
page.table(shown[of], "speed-generator", caption, data=bench[of])

# %% [markdown]
# Another generator gives other masks on purpose: guided by the foreground that the predictor sees, it asks fewer
# points, keeps one mask a point, and enlarges only what it keeps. [Segment](segment.ipynb) uses it. A row on covered
# points, where there is one, is of an option whose place it took.
#
# ## Training
#
# The reference is the loop of common LoRA scripts: segment-anything's modules with eager attention, one image a call,
# float32, the low-rank products beside the frozen projection. Both sides compute the same loss at the mask's
# resolution; what differs is how. Encoder and decoder take as many images and prompts at once as the device likes (a
# CPU one image of ViT-B, whole batches of lite), no frozen weight keeps a gradient, and for a large rank $W + sBA$ is
# formed once rather than applied to every token.

# %%
caption = "One optimiser step on crops of 512 pixels enlarged to the input. The answer compared is the gradient."
of = bench["group"] == "training"
page.table(shown[of], "speed-training", caption, data=bench[of])

# %% [markdown]
# The gradient in bf16 differs from the one in float32 by bf16's own rounding, 8 bits of mantissa through twelve blocks.
#
# ## Merged adapters are free
#
# Merging writes $W + sBA$ into the matrix. What remains is SAM's own module tree, so a merged model must take as long
# as the base. The base against itself says how well a machine can tell.

# %%
of = bench["group"] == "merged"
answers = "same answer?"  # not asked: an adapter is there to change it
caption = "Encoder of our model with a merged adapter of rank 512, and the base against itself."
page.table(shown[of].drop(columns=answers), "speed-merged", caption, data=bench[of])

# %% [markdown]
# ## How it grows
#
# Time and memory, beyond what the process held before, of both sides over image size (encoder, ViT-B), points (mask
# generator, lite, after encoding), batch size (training, lite) and rank (training, lite, batch 4).

# %%
axes_of = [axis for axis in ("image size", "prompts", "batch size", "rank") if axis in bench]
sides = {"lorasam": ("seconds", "growth"), "segment-anything": ("reference", "reference_growth")}
parts = []
for side, columns in sides.items():
    for measure, column in zip(("seconds", "memory, MB"), columns):
        points = bench.melt(["device", column], axes_of, "axis", "x").rename(columns={column: "value"}).dropna()
        parts.append(points.assign(side=side, measure=measure))
growth = pd.concat(parts, ignore_index=True)

# %%
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

with rc_context(plots.STYLE):
    figure = Figure(figsize=(8.4, 4.6))
    for row, (measure, some) in zip(figure.subplots(2, len(axes_of)), growth.groupby("measure", sort=False)):
        for axes, axis in zip(row, axes_of):
            points = some[(some["axis"] == axis) & (some["device"] == "CPU")]
            sns.lineplot(points, x="x", y="value", hue="side", marker="o", legend=axis == axes_of[0], ax=axes)
            axes.set(xscale="log", yscale="log", xlabel=axis, ylabel=measure if axis == axes_of[0] else "")
            axes.set_xticks(points["x"].unique(), points["x"].unique().astype(int))
            axes.minorticks_off()

# %%
caption = "Seconds and memory over four sizes of the task on a CPU: medians, both axes logarithmic."
alt = "Eight small charts, each with a line of lorasam and one of segment-anything: time and memory over size."
page.figure(figure, "speed-growth", caption, alt, data=growth)

# %% [markdown]
# Rows that a machine lacks were not measured on it: `nox -s bench -- --list` names all, and `nox -s bench -- --device
# cuda` makes a record of a GPU.
