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
# # Learning rate
#
# **How large a step?** Of the study's four rates 0.001 is the best here, with a Dice of {{ learning_rate / learning
# rate 0.001 / predictor dice }} %; the study's best is 0.0001. Too large a rate costs most: at 0.01 the Dice falls to
# {{ learning_rate / learning rate 0.01 / predictor dice }} %, below the frozen model's {{ main / frozen / predictor
# dice }} %. These runs are short, and a short run needs a larger step.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %%
import pandas as pd

from lorasam_core import charts, experiments, plots, stats
from lorasam_core.experiments import records, study
from lorasam_core.report import page as report

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "learning_rate", folder, data, workers)
kept = records.read_edition(folder)
page = report.Page(kept, "results/learning_rate")
page.banner(written=True)

# %%
dice = kept.scores[kept.scores["measure"] == "predictor dice"].merge(kept.runs, on="run")
sweep = dice[dice["experiment"] == "learning_rate"]
kept.runs[kept.runs["experiment"] == "learning_rate"][
    ["run", "name", "learning_rate", "steps", "images_seen", "seconds"]
]

# %% [markdown]
# ## Measured, and reported by the study
#
# Every run differs from the others in its learning rate alone. The rate is the highest of a run: it is reached after a
# warm-up and falls to zero along a cosine. Differences are paired on the same images and in points; they count when
# they are clear of what other images and another seed may do together, estimated from three seeds of one
# configuration.

# %%
reference = 0.001 if 0.001 in set(sweep["learning_rate"]) else sweep["learning_rate"].min()
noise = stats.seed_noise(dice[dice["experiment"] == "noise"])
differences = stats.verdict(stats.paired(sweep, "learning_rate", reference), noise)
table = stats.mean_interval(sweep, "learning_rate").merge(
    differences[["learning_rate", "difference", "verdict"]], how="left"
)
table = table.sort_values("learning_rate", ignore_index=True)
table["reported"] = [study.reported("learning_rate", value)[0] for value in table["learning_rate"]]
table = table.astype({"reported": float})

# %%
shown = {
    "learning rate": table["learning_rate"].map(plots.setting),
    "test Dice, %": stats.as_text(table),
    "difference": (100 * table["difference"]).map("{:+.1f}".format).replace("+nan", "–"),
    "verdict": table["verdict"].fillna("–"),
    f"test Dice, %, {study.REPORTED}": table["reported"].map("{:.2f}".format).replace("nan", "–"),
}
caption = f"Test Dice by learning rate, the difference to {plots.setting(reference)} in points, and the study's Dice."
page.table(pd.DataFrame(shown), "learning-rate", caption, sweep["run"], table)

# %% tags=["hide-input"]
frozen = stats.mean_interval(dice[dice["method"] == "frozen"].drop_duplicates("id"), "method")
caption = f"Test Dice by learning rate. Bars: 95 % intervals; diamonds: {study.REPORTED}; band: frozen."
alt = "Dice and error bars, the study's reported Dice beside it, the frozen model as a band."
figure = charts.ablation_chart(table, "learning_rate", frozen)
page.figure(figure, "learning-rate-dice", caption, alt, sweep["run"], table)

# %% [markdown]
# The order of the three smaller rates is what a budget of steps does: validation losses of the small ones are still
# falling when the steps are spent.

# %%
rates = kept.runs.loc[kept.runs["experiment"] == "learning_rate", ["run", "learning_rate"]]
losses = kept.curves.reindex(columns=["run", "step", "val_loss"]).dropna().merge(rates, on="run")
losses["learning rate"] = losses["learning_rate"].map(plots.setting)
if len(losses):
    figure = charts.line_chart(losses, "step", "val_loss", "learning rate", log="", ylabel="validation loss")
    caption = "Validation loss by step, a line for each learning rate."
    alt = "Validation loss over the optimiser step, one line a learning rate."
    page.figure(figure, "learning-rate-curves", caption, alt, losses["run"], losses)

# %% [markdown]
# The best rate belongs to a number of steps, a rank and a scaling. With more steps a lower rate may win.
#
# ## Which Adam?
#
# The study names its optimiser as Adam with a weight decay of 0.01. Two optimisers go by that description, and for an
# adapter the difference is not small. With a gradient $g$, a learning rate $\eta$, a decay $\lambda$ and Adam's
# running means $\hat m$ of $g$ and $\hat v$ of $g^2$ (the small constant in the denominator is left out):
#
# $$
# \begin{aligned}
# \text{Adam:}\quad & g \leftarrow g + \lambda w,\quad w \leftarrow w - \eta\,\frac{\hat m}{\sqrt{\hat v}} \\
# \text{AdamW:}\quad & w \leftarrow w - \eta\,\frac{\hat m}{\sqrt{\hat v}} - \eta\lambda w
# \end{aligned}
# $$
#
# Adam divides the gradient by its own size. Where the decay is part of the gradient, it is divided as well: a weight
# of which the loss asks little is left with the decay alone, and $\lambda w / |\lambda w|$ is a whole step towards
# zero, whatever $\lambda$ is. AdamW {cite:p}`loshchilov2019adamw` takes the decay out of the quotient. LoRA starts
# where this hurts most: $B$ is zero, so the gradient of $A$ is zero at first and small for long, and the decay can
# take $A$ away before $B$ has learnt to use it.
#
# One weight shows it: 0.05, as large as those that $A$ starts with, under a gradient that is noise, a thousand times
# smaller than the weight and without a direction.

# %%
import torch

paths = []
for name, kind in {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}.items():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.tensor(0.05))
    optimizer = kind([weight], lr=0.001, weight_decay=0.01)
    for step in range(201):
        paths.append({"step": step, "weight": weight.item(), "optimiser": name})
        weight.grad = 5e-5 * torch.randn(())
        optimizer.step()

# %% tags=["hide-input"]
path = pd.DataFrame(paths)
caption = "A weight whose gradient is noise, under Adam and under AdamW with the same weight decay."
alt = "Two lines over 200 steps: under Adam the weight falls to zero and stays there, under AdamW it stays about level."
figure = charts.line_chart(path[path["step"] % 10 == 0], "step", "weight", "optimiser", log="")
page.figure(figure, "decay-path", caption, alt, data=path)

# %% [markdown]
# Over whole runs, at every rate, and paired on the same images:

# %%
both = dice[dice["experiment"] == "optimizer"]
rows = []
for rate, part in both.groupby("learning_rate"):
    means = stats.mean_interval(part, "optimizer").set_index("optimizer")
    row = {"learning rate": plots.setting(rate), **stats.as_text(means).to_dict()}
    if {"adam", "adamw"} <= set(part["optimizer"]):
        row["AdamW - Adam, points"] = stats.as_text(stats.paired(part, "optimizer", "adam"), sign=True).iloc[0]
    rows.append(row)
if rows:
    shown = pd.DataFrame(rows).rename(columns={"adam": "Adam, Dice in %", "adamw": "AdamW, Dice in %"}).fillna("–")
    page.table(
        shown, "optimizer", "Test Dice by learning rate under each optimiser, and paired differences.", both["run"]
    )

# %% [markdown]
# At 0.001 AdamW leads by {{ optimizer / AdamW, learning rate 0.001* - Adam, learning rate 0.001* / predictor dice }}
# points. At 0.01 Adam's decay is a kind of brake, and it loses less. All other pages train with AdamW.
