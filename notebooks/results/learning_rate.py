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
# The size of a step. Too small, and the budget of steps ends before the adapter has learnt; too large, and it may
# forget what the base knew. The study gives four values over three decades.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %% tags=["hide-input"]
from lorasam_core import experiments
from lorasam_core import plots
from lorasam_core.report import page as report
from lorasam_core.report import tables
from lorasam_core.report.chapters import budgets, chance, comparison_plots, comparisons
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
records = experiments.sweep(profile, "learning_rate", folder, data, workers)
page = report.Page(read_edition(folder), "results/learning_rate")
page.banner()

# %% [markdown]
# ## Measured and reported
#
# Every run differs from the others in its learning rate alone. The rate is the highest of a run: it is reached after a
# warm-up and falls to zero along a cosine.

# %% tags=["hide-input"]
table = report.ablation_table(records, "learning_rate")
caption = "Test Dice of the predictor by learning rate, and the study's at the same rate."
page.table(report.ablation_display(table), "learning-rate", caption, data=table)

# %% tags=["hide-input"]
frozen = report.interval(report.frozen_runs(page.edition), "predictor", "dice")
level = {key: 100 * frozen[key] for key in ("mean", "low", "high")}
caption = "Test Dice by learning rate. Bars are 95 % intervals over groups; diamonds are reported by the study."
alt = "Measured Dice over the learning rates with error bars, the study's reported Dice beside it, the frozen model."
page.figure(plots.ablation_chart(table, "learning_rate", level), "learning-rate-dice", caption, alt, data=table)

# %% tags=["hide-input"]
seeds = report.records_of(page.edition, "noise")
page.say(report.ablation_sentence(records, "learning_rate", seeds=seeds or report.adapted_runs(page.edition)))
page.say(report.left_out_sentence(page.edition, "learning_rate"))
page.say(budgets.budget_sentence(records))

# %% [markdown]
# ## What noise alone does
#
# An interval over test images says what other images would change. It is silent on what another seed would: other
# first values of A, another order of the images, other crops. The reference of the three sweeps was therefore trained
# again from other seeds, with nothing else changed. Where this edition has these runs, the grey is what other seeds
# alone may do, and a difference inside it is no finding.

# %% tags=["hide-input"]
reference = comparisons.shared_name(records, seeds or report.records_of(page.edition, "rank"))
paired = comparisons.comparison_table(comparisons.with_seeds(records, seeds), reference)
noise = comparisons.seed_noise(seeds)
if len(paired):
    base = paired.loc[paired["reference"], "name"].iloc[0]
    caption = f"The runs, and paired differences to *{base}* over all its seeds."
    page.table(comparisons.comparison_display(paired), "learning-rate-paired", caption, data=paired)
page.say(comparisons.reference_sentence(paired, reference))

# %% tags=["hide-input"]
if len(paired) > 1:
    figure = comparison_plots.paired_chart(paired, noise={"predictor_dice": noise["least"]})
    caption = f"Paired differences in test Dice to *{base}* with 95 % intervals.{chance.grey_clause(seeds)}"
    alt = "A point with an interval for each learning rate on an axis of differences, around a line at zero."
    page.figure(figure, "learning-rate-differences", caption, alt, data=paired)

# %% tags=["hide-input"]
page.say(comparisons.comparison_sentence(paired, noise=noise["least"]))
page.say(chance.noise_sentence(seeds, records, "learning_rate"), report.left_out_sentence(page.edition, "noise"))

# %% [markdown]
# ## Curves
#
# A rate that is too small shows in the curve: the loss is still falling when the steps are spent. One that is too large
# shows as a loss that jumps, or settles high.

# %% tags=["hide-input"]
import pandas as pd

parts = [r.history.assign(rate=tables.setting(r.config.learning_rate))[["step", "rate", "val_loss"]] for r in records]
if parts:
    losses = pd.concat(parts).dropna().rename(columns={"rate": "learning rate"})
    figure = plots.line_chart(losses, "step", "val_loss", "learning rate", log="", ylabel="validation loss")
    caption = "Validation loss by step, a line for each learning rate."
    alt = "Validation loss over the optimiser step, one line a learning rate."
    page.figure(figure, "learning-rate-curves", caption, alt, runs=records, data=losses)

# %% tags=["hide-input"]
if parts:
    ends = losses.sort_values("step").groupby("learning rate")["val_loss"].last()
    page.say(
        f"At the last validation the loss is lowest for a rate of {ends.idxmin()} ({ends.min():.3f}) and highest for "
        f"{ends.idxmax()} ({ends.max():.3f})."
    )

# %% [markdown]
# The best rate belongs to a number of steps, a rank and a scaling. With fewer steps a higher rate may win: read the two
# columns of the table with the length of the runs in mind.

# %% tags=["hide-input"]
page.say(budgets.steps_note(records))
