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

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %%
from lorasam_core import experiments, plots, report
from lorasam_core.records import read_edition

folder = report.edition_folder(profile, edition, data)
records = experiments.sweep(profile, "batch_size", folder, data, workers)
page = report.Page(read_edition(folder), "07_batch_size")
page.banner()

# %% [markdown]
# ## Measured and reported
#
# Two things cannot both be held fixed: the number of steps and the number of images seen. The study fixed its epochs,
# so that small batches take more steps; so do these runs.

# %%
table = report.ablation_table(records, "batch_size")
caption = "Test Dice of the predictor by batch size, and the study's at the same batch size."
page.table(report.ablation_display(table), "batch-size", caption, data=table)

# %%
frozen = report.interval(report.frozen_runs(page.edition), "predictor", "dice")
level = {key: 100 * frozen[key] for key in ("mean", "low", "high")}
caption = "Test Dice by batch size. Bars are 95 % intervals over groups; diamonds are reported by the study."
alt = (
    "Measured Dice over the batch sizes with error bars, the study's reported Dice beside it, the frozen one as a band."
)
page.figure(plots.ablation_chart(table, "batch_size", level), "batch-size-dice", caption, alt, data=table)

# %%
page.say(report.ablation_sentence(records, "batch_size", seeds=report.adapted_runs(page.edition)))

# %% [markdown]
# ## What a batch costs
#
# Steps, images, time and memory of each run.

# %%
import pandas as pd

rows = [(r.config.batch_size, r.metrics) for r in records]
columns = ("steps", "images_seen", "seconds", "images_per_s", "peak_memory_mb")
cost = pd.DataFrame([{"batch_size": size, **{c: m[c] for c in columns}} for size, m in rows])
shown = cost.round(1).rename(columns=lambda name: name.replace("_", " ").replace(" mb", ", MB"))
page.table(shown, "batch-size-cost", "What each batch size cost.", runs=records, data=cost)

# %%
slow, fast = cost.loc[cost["images_per_s"].idxmin()], cost.loc[cost["images_per_s"].idxmax()]
page.say(
    f"Images a second go from {slow['images_per_s']:.1f} (batches of {slow['batch_size']:.0f}) to "
    f"{fast['images_per_s']:.1f} (batches of {fast['batch_size']:.0f}). Peak memory is that of the process so far: it "
    "cannot fall from one run to the next in the same process."
)

# %% [markdown]
# With as many images for each run, a larger batch is fewer steps: a difference between batch sizes is one between
# numbers of steps too, and a learning rate that suits one need not suit the other.
