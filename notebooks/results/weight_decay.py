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
# # Weight decay
#
# The study names its optimiser as Adam with a weight decay of 0.01. Two optimisers go by that description, and for an
# adapter the difference is not small. With a gradient $g$, a learning rate $\eta$, a decay $\lambda$ and Adam's running
# means $\hat m$ of $g$ and $\hat v$ of $g^2$ (the small constant in the denominator is left out):
#
# $$
# \begin{aligned}
# \text{Adam:}\quad & g \leftarrow g + \lambda w,\quad w \leftarrow w - \eta\,\frac{\hat m}{\sqrt{\hat v}} \\
# \text{AdamW:}\quad & w \leftarrow w - \eta\,\frac{\hat m}{\sqrt{\hat v}} - \eta\lambda w
# \end{aligned}
# $$
#
# Adam divides the gradient by its own size. Where the decay is part of the gradient, it is divided as well: a weight of
# which the loss asks little is left with the decay alone, and $\lambda w / |\lambda w|$ is a whole step towards zero,
# whatever $\lambda$ is. AdamW {cite:p}`loshchilov2019adamw` takes the decay out of the quotient.
#
# LoRA starts where this hurts most. $B$ is zero, so the gradient of $A$ is zero at first and small for long: the decay
# can take $A$ away before $B$ has learnt to use it. With both near zero neither has a gradient to speak of, and the
# layer stays what it was.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import plots
from lorasam_core.report import page as report
from lorasam_core.report import tables
from lorasam_core.report.chapters import comparison_plots, comparisons, optimizers, spectra
from lorasam_core.experiments.records import read_edition

page = report.Page(read_edition(report.edition_folder(profile, edition, data)), "results/weight_decay")
page.banner()

# %% [markdown]
# ## One weight
#
# A weight of 0.05, as large as those that $A$ starts with, whose gradient is noise: a thousand times smaller than the
# weight, without a direction. Both optimisers have a learning rate of 0.001 and a decay of 0.01.

# %%
import torch

paths = []

# %%
for name, kind in {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}.items():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.tensor(0.05))
    optimizer = kind([weight], lr=0.001, weight_decay=0.01)
    for step in range(201):
        paths.append({"step": step, "weight": weight.item(), "optimiser": name})
        weight.grad = 5e-5 * torch.randn(())
        optimizer.step()

# %% tags=["hide-input"]
import pandas as pd

path = pd.DataFrame(paths)
caption = "A weight whose gradient is noise, under Adam and under AdamW with the same weight decay."
alt = "Two lines over 200 steps: under Adam the weight falls to zero and stays there, under AdamW it stays about level."
figure = plots.line_chart(path[path["step"] % 10 == 0], "step", "weight", "optimiser", log="")
page.figure(figure, "decay-path", caption, alt, data=path)

# %% tags=["hide-input"]
ends = path[path["step"] == path["step"].max()].set_index("optimiser")["weight"]
page.say(
    f"After {path['step'].max()} steps the weight is {ends['Adam']:.4f} under Adam and {ends['AdamW']:.4f} under AdamW."
)

# %% [markdown]
# ## Measured
#
# The same runs under both, at every learning rate: the whole image, as in the sweeps.

# %% tags=["hide-input"]
records = report.records_of(page.edition, "optimizer")
series = optimizers.by_optimizer(records)
table = comparisons.series_table(series, "learning_rate")
if records:
    caption = "Test Dice of the predictor by learning rate, under each optimiser, in % with 95 % intervals, and paired "
    caption += "differences."
    page.table(optimizers.optimizer_display(table, series), "optimizer", caption, data=table)
page.say(report.left_out_sentence(page.edition, "optimizer"))

# %% tags=["hide-input"]
frozen = report.interval(report.frozen_runs(page.edition), "predictor", "dice")
level = {key: 100 * frozen[key] for key in ("mean", "low", "high")}
if records:
    named = table.rename(columns={"series": "optimiser"})
    figure = comparison_plots.lines_chart(named, "learning_rate", "optimiser", level, xlabel="learning rate")
    caption = "Test Dice by learning rate under each optimiser, with 95 % intervals; the band is the frozen model."
    alt = "Two lines of Dice over the learning rate, for Adam and for AdamW, with error bars."
    page.figure(figure, "optimizer-dice", caption, alt, data=table)

# %% tags=["hide-input"]
noise = optimizers.seeds_noise(series)
page.say(
    f"Frozen, the model has a Dice of {report.shown(frozen['mean'], frozen['low'], frozen['high'])} %."
    if records else ""
)  # fmt: skip
page.say(
    optimizers.optimizer_sentence(series, noise)
    if records else "This edition has no runs under Adam: what the two do to an adapter was not measured here."
)  # fmt: skip

# %% [markdown]
# ## What is left of the updates
#
# Each update is the product $s\,B A$ of one matrix of one block. Its norm says how far the layer has moved from the
# frozen one.

# %% tags=["hide-input"]
shared = optimizers.at_shared_rate(series)
spectrum = spectra.spectrum_table(shared)
if len(spectrum):
    first = shared[0].config
    caption = "Norm and effective rank of the updates under each optimiser, at a learning rate of "
    caption += f"{tables.setting(first.learning_rate)} and from seed {first.seed}."
    used = spectra.used_table(spectrum)
    page.table(spectra.used_display(used), "optimizer-updates", caption, data=spectrum)
page.say(optimizers.norm_sentence(spectrum))

# %% [markdown]
# Which of the two the study used it does not say. A decay of 0.01 is the default of PyTorch's AdamW, while Adam's is
# zero, and so AdamW is how this project reads it: every other run in this book is trained with it. The setting
# `optimizer: adam` brings the other back.
#
# If you adapt a model with LoRA, look at the norms of $A$ and $B$ after a run. A loss that falls a little and then
# stays looks like an adapter that has learnt all it can. It may be one that was taken away.
