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
# # Rank
#
# How many dimensions does the update need? The rank is what decides the size of an adapter, and the study's first
# ablation. Its four ranks are shares of the width of ViT-B; here each stands beside the rank that is the same share of
# the width of this edition's model. Ranks that the study did not run have no value beside them.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own
workers: int = 1  # processes that share the cores

# %% tags=["hide-input"]
from lorasam_core import experiments
from lorasam_core import plots
from lorasam_core.report import page as report
from lorasam_core.report.chapters import budgets, chance, comparison_plots, comparisons, spectra
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
records = experiments.sweep(profile, "rank", folder, data, workers)
page = report.Page(read_edition(folder), "results/rank")
page.banner()

# %% [markdown]
# ## Measured and reported
#
# Every run differs from the others in its rank alone. The study's Dice stands beside ours to compare the *shape* of the
# result: its model, data and machine are others.

# %% tags=["hide-input"]
table = report.ablation_table(records, "rank")
caption = "Test Dice of the predictor by rank, and the study's at the same share of the width."
page.table(report.ablation_display(table), "rank", caption, data=table)

# %% tags=["hide-input"]
frozen = report.interval(report.frozen_runs(page.edition), "predictor", "dice")
level = {key: 100 * frozen[key] for key in ("mean", "low", "high")}
caption = "Test Dice by rank. Bars are 95 % intervals over groups; diamonds are reported by the study."
alt = "Measured Dice over the ranks with error bars, the study's reported Dice beside it, the frozen model as a band."
page.figure(plots.ablation_chart(table, "rank", level), "rank-dice", caption, alt, data=table)

# %% tags=["hide-input"]
seeds = report.records_of(page.edition, "noise")
page.say(report.ablation_sentence(records, "rank", seeds=seeds or report.adapted_runs(page.edition)))
page.say(report.left_out_sentence(page.edition, "rank"), budgets.steps_note(records))
page.say(budgets.budget_sentence(records))

# %% [markdown]
# The intervals say how far the Dice would move with other test images of the same kind. They do not say how far it
# would move with another seed, which the paragraph above does where this edition has several.
#
# ## What the rank changes beside the size
#
# Two things change with the rank: how many directions the update has, and how large a step of the optimiser is
# ([the layer's page](lora_layer.ipynb) shows by how much).

# %% tags=["hide-input"]
config = (records or report.adapted_runs(page.edition))[0].config
even = report.break_even(report.width_of(config.model))
page.say(
    spectra.factor_sentence(records),
    f"Above rank {even}, half the width of `{config.model}`, A and B hold more numbers than the matrices that they "
    "update.",
)

# %% [markdown]
# If the number of directions were what counts, a rank past the width could bring nothing. If the size of the step is
# what counts, a higher learning rate at a low rank does the same for less: compare
# [learning rate](learning_rate.ipynb).
#
# ## Rank or step size?
#
# Ranks of this sweep at the same learning rate, under two rules that divide. At the lowest of them the factor is that
# of the runs above, so that one run stands for all rules; from there it falls with the rank. What is a step of the
# same size has two answers ([the layer's page](lora_layer.ipynb) computes both): divided by √r, a random first step
# has the same norm at every rank; divided by r, the first step has the same effect on the loss. If the rank counts,
# the Dice changes with it under both divisions. If only the step counts, the Dice stays level under the division that
# keeps the step, and at one rank the rules differ.

# %% tags=["hide-input"]
scaled = report.records_of(page.edition, "scaling")
rules = spectra.by_rule(records, scaled)
scaling = spectra.scaling_table(rules)
if scaled:
    caption = "Factor and test Dice of the predictor by rank and scaling rule, all at one learning rate."
    page.table(spectra.scaling_display(scaling), "rank-scaling", caption, data=scaling)
page.say(report.left_out_sentence(page.edition, "scaling"))

# %% tags=["hide-input"]
if scaled:
    caption = "Test Dice by rank, a line a scaling rule, with 95 % intervals over groups; the band is the frozen model."
    alt = "Dice over the ranks, a line a scaling rule with error bars; the lines meet where their factors are equal."
    page.figure(comparison_plots.scaling_chart(scaling, level), "rank-scaling-dice", caption, alt, data=scaling)

# %% tags=["hide-input"]
noise = comparisons.seed_noise(seeds)["least"]
page.say(spectra.scaling_sentence(rules, noise), budgets.steps_note(scaled))
page.say(chance.noise_sentence(seeds, records, "rank") if seeds else "")

# %% [markdown]
# ### At a lower learning rate
#
# Where a rate is the best for the lowest rank, a larger or smaller step has little to show. At a rate that is too low a
# larger step helps, which [the learning rate's page](learning_rate.ipynb) measures: there the factor can be told
# from the rank. One low rank, and a high one with and without a division by r.

# %% tags=["hide-input"]
lower = report.records_of(page.edition, "scaling_low_rate")
if lower:
    compared = comparisons.comparison_table(lower)
    caption = "A low and a high rank at a lower learning rate, with and without a division by r."
    page.table(comparisons.comparison_display(compared), "rank-low-rate", caption, data=compared)
page.say(spectra.low_rate_sentence(lower, noise), report.left_out_sentence(page.edition, "scaling_low_rate"))

# %% [markdown]
# ## The rank that was used
#
# A trained rank is a limit. How much of it an update $s\,BA$ uses shows in its singular values: the *effective rank*
# {cite:p}`roy2007effective` is the exponential of the entropy of their shares, as many as there are if all are equal,
# and one if one is all there is. The energy is the sum of their squares.

# %% tags=["hide-input"]
spectrum = spectra.spectrum_table([*records, *scaled])
if len(spectrum):
    used = spectra.used_table(spectrum)
    caption = "What the learnt updates used of their rank, over all adapted matrices."
    page.table(spectra.used_display(used), "rank-used", caption, data=used)
page.say(spectra.used_sentence(spectrum) or "The runs of this edition hold no singular values.")

# %% tags=["hide-input"]
alone = spectra.spectrum_table(records)
if len(alone):
    caption = "Effective rank of the learnt updates by block, a panel a target, a line a trained rank."
    alt = "Effective rank over the blocks of the encoder, a panel for each target, a line for each trained rank."
    page.figure(comparison_plots.spectrum_chart(alone), "rank-spectrum", caption, alt, data=alone)

# %% [markdown]
# Directions that an update has are not all directions that it needs. An adapter can be cut down to its largest singular
# values after training, which is the nearest update of that rank, and asked again.

# %% tags=["hide-input"]
cut = spectra.truncation_table(records)
if len(cut):
    caption = "Test Dice of an adapter cut down, without training, to its largest singular values."
    alt = "Dice over the number of singular values kept, with error bars, and the frozen model as a band."
    page.figure(comparison_plots.truncation_chart(cut, level), "rank-cut", caption, alt, data=cut)
page.say(spectra.truncation_sentence(cut) or "No adapter of this edition was cut down.")

# %% [markdown]
# The margin is a choice and not a test: of an adapter that is cut down only the mean and its own interval are kept, so
# that no paired interval can be drawn.
#
# ## One image, three ranks
#
# The mask generator's output for one test image. A number can hide what kind of error it counts.

# %% tags=["hide-input"]
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lora import load_adapter
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator

settings = STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS
(sample,), note = report.picture_samples(page.edition, count=1)
pictures = {"input": plots.rgb(sample.image), "labels": plots.instance_mosaic(sample.image, sample.labels)}
there = [record for record in records if record.adapter][:3]

# %% tags=["hide-input"]
counts = []
for record in there:
    sam = report.load_base(config, resolve_device("auto"))
    load_adapter(sam, record.adapter)
    found = MaskGenerator(sam, **settings).generate(sample.image)
    counts.append(f"{len(found)} at rank {record.config.rank}")
    pictures[f"rank {record.config.rank}"] = plots.instance_mosaic(sample.image, found)

# %% tags=["hide-input"]
without = "" if there else " The adapters of these runs are not part of a published edition: only the image is shown."
caption = f"One test image and the mask generator's instances at up to three ranks.{without} {note}"
alt = "A micrograph, its labels, and the instances found at increasing ranks, each in a random colour on black."
page.figure(plots.panels(pictures), "rank-instances", caption, alt, runs=there)

# %% tags=["hide-input"]
if there:
    page.say(
        f"The image holds {len(set(sample.labels.flat) - {0})} particles; the mask generator finds {', '.join(counts)}."
    )
