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
# # Training
#
# One run: the frozen base, an adapter, a loss, and a number of steps. As it stands this page shows the main run of the
# edition. Give any setting below another value, and it trains that run instead (or finds it finished).

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
rank: int = 0  # rank of A and B; 0: the main run's (so for every setting below)
alpha: float = 0.0  # numerator of the scaling; 0: the main run's
scaling: str = ""  # alpha/r, alpha/sqrt(r) or none
targets: str = ""  # what is adapted, of q, k, v, proj, lin1, lin2, such as "q,v"
objective: str = ""  # semantic, instance or mixed
steps: int = 0  # optimiser steps
batch_size: int = 0  # images a step
learning_rate: float = 0.0  # the highest, after warming up
crop_size: int = 0  # side of the training crops, pixels of the image
seed: int = -1  # of A, of the order of the images and of the prompts; -1: the main run's

# %% tags=["hide-input"]
from lorasam_core import charts, experiments
from lorasam_core.report import page as report
from lorasam_core.report.chapters import budgets, chance, comparisons
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "main", folder, data)
page = report.Page(read_edition(folder), "results/train")
page.banner()

# %% [markdown]
# ## The run

# %% tags=["hide-input"]
asked = {"rank": rank, "alpha": alpha, "scaling": scaling, "objective": objective, "steps": steps}
asked |= {"batch_size": batch_size, "learning_rate": learning_rate, "crop_size": crop_size}
changes = {key: value for key, value in asked.items() if value}
if targets:
    changes["targets"] = tuple(targets.split(","))
if seed >= 0:
    changes["seed"] = seed
main = report.adapted_runs(page.edition)  # one run a seed

# %% tags=["hide-input"]
runs = main
if changes:
    config = main[0].config.replace(name="custom", **changes)
    runs = [experiments.run_one(config, report.output_folder(page.edition))]
caption = f"Settings of the run `{runs[0].run_id}`."
page.table(report.settings_table(runs[0]), "train-settings", caption)

# %% [markdown]
# The objective `semantic` prompts with the box of the whole image and asks for all particles in one mask, our reading
# of the study; `instance` prompts with points and boxes and asks for single particles, and trains the model's own
# rating of its masks; `mixed` alternates them. Training, validation and test never share a specimen, and the adapter
# that is kept is the best by validation.
#
# ## Curves

# %% tags=["hide-input"]
run = runs[0]
caption = "Loss, accuracy and mIoU by step. Diamonds: the last values reported by the study (ViT-B, its own data)."
caption = f"{caption} {report.losses_note(run.config.objective)}".strip()
alt = "Three charts over the optimiser step, each with a line for training and one for validation."
figure = charts.curves(run.history, reported=report.STUDY["curves"])
page.figure(figure, "train-curves", caption, alt, runs=[run], data=run.history)

# %% tags=["hide-input"]
page.say(report.curves_sentence(run), budgets.budget_sentence([run]))

# %% [markdown]
# ## On the test images
#
# No run was trained or stopped by the test images. *Frozen* is the base without an adapter; the gain is paired, image
# by image.

# %% tags=["hide-input"]
rows = report.main_rows(page.edition, runs)
caption = "Frozen and adapted on the test images: means with bootstrap 95 % intervals over groups, in %."
caption = f"{caption} {report.seeds_clause(runs)} {report.outcomes_clause(page.edition)}"
page.table(report.main_table(page.edition, runs), "main", caption, data=rows)

# %% tags=["hide-input"]
caption = f"The same as a chart. {report.seeds_clause(runs)}"
alt = "Means and intervals of each metric, the frozen model in blue and the adapted one in vermilion."
page.figure(charts.interval_chart(rows, "%"), "main-metrics", caption, alt, data=rows)

# %% tags=["hide-input"]
for sentence in report.findings(page.edition, runs):
    page.say(sentence)
page.say(chance.noise_sentence(runs))

# %% [markdown]
# The Dice of the union cannot see whether two touching particles were taken for one. AP50, F1 and PQ can, and are the
# stricter test. Merges and splits say which way it went wrong.

# %% tags=["hide-input"]
for kind in ("merges", "splits"):
    page.say(report.counts_sentence(page.edition, runs, kind))

# %% [markdown]
# ## Longer
#
# Does the number of steps decide? The main configuration, and the same with more of them: a schedule of its own, more
# views of the same images, the same seed as the first of the main runs.

# %% tags=["hide-input"]
longer = report.records_of(page.edition, "longer")
everything = [*main, *longer, *report.frozen_runs(page.edition)]
compared = comparisons.comparison_table(everything, main[0].config.name)
measures = comparisons.measured(compared, ("predictor_dice", "point_iou", "ap50", "f1", "tuned_f1"))
if longer:
    caption = "The main configuration, all seeds; one run with more steps; the frozen model: % with 95 % intervals."
    page.table(comparisons.comparison_display(compared, measures), "longer", caption, data=compared)
page.say(report.left_out_sentence(page.edition, "longer"))

# %% tags=["hide-input"]
for measure in measures if longer else ():
    noise = comparisons.seed_noise(main, measure)["least"]
    page.say(comparisons.comparison_sentence(compared, measure, noise))
