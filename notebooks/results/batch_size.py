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
# # Batch size
#
# How many images make one step. The study lists four and eight in different places and reports its best Dice at eight,
# which is therefore taken for the batch size of its headline.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %% tags=["hide-input"]
from lorasam_core import experiments
from lorasam_core import plots
from lorasam_core.report import page as report
from lorasam_core.report.chapters import budgets, chance, comparison_plots, comparisons
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
records = experiments.sweep(profile, "batch_size", folder, data, workers)
page = report.Page(read_edition(folder), "results/batch_size")
page.banner()

# %% [markdown]
# ## Measured and reported
#
# Two things cannot both be held fixed: the number of steps and the number of images seen. The study fixed its epochs,
# so that small batches take more steps; so do these runs.

# %% tags=["hide-input"]
table = report.ablation_table(records, "batch_size")
caption = "Test Dice of the predictor by batch size, and the study's at the same batch size."
page.table(report.ablation_display(table), "batch-size", caption, data=table)

# %% tags=["hide-input"]
frozen = report.interval(report.frozen_runs(page.edition), "predictor", "dice")
level = {key: 100 * frozen[key] for key in ("mean", "low", "high")}
caption = "Test Dice by batch size. Bars are 95 % intervals over groups; diamonds are reported by the study."
alt = (
    "Measured Dice over the batch sizes with error bars, the study's reported Dice beside it, the frozen one as a band."
)
page.figure(plots.ablation_chart(table, "batch_size", level), "batch-size-dice", caption, alt, data=table)

# %% tags=["hide-input"]
seeds = report.records_of(page.edition, "noise")
page.say(report.ablation_sentence(records, "batch_size", seeds=seeds or report.adapted_runs(page.edition)))
page.say(report.left_out_sentence(page.edition, "batch_size"))
page.say(budgets.budget_sentence(records))

# %% [markdown]
# ## Equal images, equal steps
#
# The other way to hold a budget: every batch size takes as many steps, so that a large batch sees more images. If a
# batch size were better in itself, it would lead both ways.

# %% tags=["hide-input"]
same_steps = report.records_of(page.edition, "batch_size_steps")
held = {"equal images": records, "equal steps": same_steps}
lines = comparisons.series_table(held, "batch_size")
if same_steps:
    figure = comparison_plots.lines_chart(lines, "batch_size", "series", level)
    caption = "Test Dice by batch size at equal images seen and at equal steps, with 95 % intervals."
    alt = "Dice over the batch size, one line at equal images seen and one at equal steps, the frozen model as a band."
    page.figure(figure, "batch-size-budgets", caption, alt, data=lines)

# %% tags=["hide-input"]
shared = seeds or report.records_of(page.edition, "rank")
noise = comparisons.seed_noise(seeds)["least"]
both = [comparisons.with_seeds(runs, seeds) for runs in held.values()]
references = [comparisons.shared_name(runs, shared) for runs in both]
tables = [comparisons.comparison_table(runs, reference) for runs, reference in zip(both, references)]

# %% tags=["hide-input"]
for runs, table in zip(held, tables):
    if len(table):
        base = table.loc[table["reference"], "name"].iloc[0]
        caption = f"Batch sizes at {runs}: test Dice, and paired differences to *{base}*."
        page.table(comparisons.comparison_display(table), f"batch-size-{runs.replace(' ', '-')}", caption, data=table)

# %% tags=["hide-input"]
for runs, table, reference in zip(held, tables, references):
    sentence = comparisons.comparison_sentence(table, noise=noise)
    page.say(f"At {runs}: {sentence}" if len(table) else "", comparisons.reference_sentence(table, reference))
page.say(report.left_out_sentence(page.edition, "batch_size_steps"))

# %% [markdown]
# ## What noise alone does
#
# The Dice reported by the study rises, falls and rises again with the batch size. Whether a bend is a finding depends
# on how far seeds alone move a number, which [the learning rate's page](learning_rate.ipynb) shows for the reference
# of all sweeps.

# %% tags=["hide-input"]
page.say(chance.noise_sentence(seeds, records, "batch_size"), report.left_out_sentence(page.edition, "noise"))

# %% [markdown]
# ## What a batch costs
#
# Steps, images, time and memory of each run. Speed itself is measured on [another page](speed.ipynb).

# %% tags=["hide-input"]
import pandas as pd

rows = [(r.config.batch_size, r.metrics) for r in [*records, *same_steps]]
columns = ("steps", "images_seen", "seconds", "peak_memory_mb")
cost = pd.DataFrame([{"batch_size": size, **{c: m[c] for c in columns}} for size, m in rows]).drop_duplicates()
shown = cost.round(0).astype(int).rename(columns=lambda name: name.replace("_", " ").replace(" mb", ", MB"))
caption = "What each batch size cost. The wall time is of runs that may have shared the processor: no measure of speed."
if len(cost):
    page.table(shown, "batch-size-cost", caption, runs=[*records, *same_steps], data=cost)

# %% tags=["hide-input"]
if len(cost):
    page.say(
        "Peak memory is a run's own, training and evaluation together, where the system lets it be counted anew, and "
        "else that of the process so far."
    )
page.say(budgets.steps_note([*records, *same_steps]))

# %% [markdown]
# With as many images for each run, a larger batch is fewer steps: a difference between batch sizes is one between
# numbers of steps too. With as many steps it is one between numbers of images. Either way all share one learning rate,
# and a rate that suits one batch size need not suit another.
