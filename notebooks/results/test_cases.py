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
# # Test cases
#
# Averages hide images. This page shows four test images of the main run, from the one with the lowest Dice to the one
# with the highest, as the study does: the input, the frozen model and the adapted one side by side, with the same
# region enlarged in all three.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import experiments, plots
from lorasam_core.report import page as report
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "test_cases", folder, data)
page = report.Page(read_edition(folder), "results/test_cases")
page.banner()

# %% [markdown]
# ## Which images
#
# Test images are ordered by the Dice of the adapted mask generator's union; the cases are the first, the last and two
# between, evenly spaced.

# %% tags=["hide-input"]
frozen, adapted = report.frozen_runs(page.edition), report.adapted_runs(page.edition)[:1]
cases = report.test_cases(frozen, adapted)
caption = "Dice of the mask generator's union by case, and of the study's four cases."
page.table(report.cases_table(cases), "cases", caption, data=cases)

# %% tags=["hide-input"]
page.say(report.cases_sentence(cases))

# %% [markdown]
# ## The two models

# %% tags=["hide-input"]
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lora import load_adapter

config, device = adapted[0].config, resolve_device("auto")
base = report.load_base(config, device)
tuned = report.load_base(config, device)

# %% tags=["hide-input"]
if shown := adapted[0].adapter is not None:
    load_adapter(tuned, adapted[0].adapter)
    page.say(f"The adapter is that of run `{adapted[0].run_id}`; everything else of the two models is equal.")
else:
    page.say("The adapter of this run is not part of the edition: its images cannot be shown.")

# %% tags=["hide-input"]
from functools import partial

from lorasam_core.models import devices
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator

samples, note = report.picture_samples(page.edition, ids=list(cases["id"])) if shown else ([], "")
settings = STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS
autocast = partial(devices.autocast, config.precision, device)  # as the runs were judged
before = [MaskGenerator(base, autocast=autocast, **settings).generate(s.image) for s in samples]
after = [MaskGenerator(tuned, autocast=autocast, **settings).generate(s.image) for s in samples]

# %% [markdown]
# ## Mask generator
#
# Each instance has a random colour. The red box is where the two outputs differ most, enlarged in the corner.

# %% tags=["hide-input"]
from lorasam_core.measure.metrics import dice

names = [*("lowest", "second", "third")[: len(samples) - 1], "highest"]
cased = [s.id for s in samples] == list(cases["id"])  # else others stand in
titled = [f"Case {name}" if cased else "Stand-in" for name in names]

# %% tags=["hide-input"]
for name, title, s, old, new in zip(names, titled, samples, before, after, strict=True):
    unions = [plots.instance_mosaic(s.image, masks).any(axis=-1) for masks in (old, new)]
    scores = [100 * dice(union, s.foreground) for union in unions]
    titles = ("input", f"frozen, Dice {scores[0]:.1f} %", f"adapted, Dice {scores[1]:.1f} %")
    figure = plots.comparison(s.image, old, new, plots.pick_inset(*unions), titles)
    alt = "A micrograph and the instances that the frozen and the adapted model find in it, with an enlarged region."
    page.figure(figure, f"case-{name}", f"{title}: {s.id}, mask generator. {note}", alt, runs=adapted)

# %% [markdown]
# ## Predictor
#
# One call, with a box around the whole image as its prompt; the single mask that comes back is laid over the image in
# blue. It shows what the model itself takes for particles, before any grid of points or post-processing.

# %% tags=["hide-input"]
from lorasam_core.measure.evaluation import predict_foreground

marked = [[predict_foreground(sam, s.image, autocast=autocast) for sam in (base, tuned)] for s in samples]

# %% tags=["hide-input"]
for name, title, s, masks in zip(names, titled, samples, marked, strict=True):
    scores = [100 * dice(mask, s.foreground) for mask in masks]
    titles = ("input", f"frozen, Dice {scores[0]:.1f} %", f"adapted, Dice {scores[1]:.1f} %")
    figure = plots.comparison(s.image, *masks, plots.pick_inset(*masks), titles)
    alt = "A micrograph, and over it in blue what the frozen and the adapted predictor mark, with an enlarged region."
    page.figure(figure, f"case-{name}-predictor", f"{title}: {s.id}, predictor. {note}", alt, runs=adapted)

# %% tags=["hide-input"]
better = sum(dice(new, s.foreground) > dice(old, s.foreground) for s, (old, new) in zip(samples, marked))
if shown:
    page.say(f"As a predictor, the adapted model has the higher Dice in {better} of these {len(samples)} images.")

# %% [markdown]
# ## The whole in one picture
#
# The case in the middle; of two, the lower.

# %% tags=["hide-input"]
pictures = {}
if shown:
    k = (len(samples) - 1) // 2
    s, (old, new) = samples[k], marked[k]
    pictures = {"input": plots.rgb(s.image), "frozen: predictor": plots.overlay(s.image, old)}
    pictures["adapted: predictor"] = plots.overlay(s.image, new)
    pictures["labels"] = plots.instance_mosaic(s.image, s.labels)
    pictures["frozen: mask generator"] = plots.instance_mosaic(s.image, before[k])
    pictures["adapted: mask generator"] = plots.instance_mosaic(s.image, after[k])

# %% tags=["hide-input"]
colors = {title: plots.COLORS.get(title.split(":")[0], "black") for title in pictures}
place = f"Test case {k + 1} of {len(samples)}, from the lowest Dice up" if cased else "Stand-in"
caption = f"{place}: input and labels, the frozen model, the adapted model. {note}"
alt = "Six pictures: a micrograph and its labels; the frozen and the adapted predictor's mask in blue; their instances."
if shown:
    figure = plots.panels(pictures, plots.pick_inset(old, new), columns=3, colors=colors)
    page.figure(figure, "main-picture", caption, alt, runs=adapted)

# %% [markdown]
# What to look for in the enlarged regions: particles that touch and were taken for one, particles that lie beneath
# others, and edges. The Dice in the titles counts none of these apart; [training](train.ipynb) has metrics that do.
