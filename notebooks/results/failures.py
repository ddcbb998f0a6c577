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
# # Failures
#
# The test images on which the adapted model does worst, and what goes wrong in them. Whoever wants to use the model
# learns more from these than from a mean.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import page as report
from lorasam_core.report.chapters import failures
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
page = report.Page(read_edition(folder), "results/failures")
page.banner()
record = report.adapted_runs(page.edition)[0]
page.say(f"The model is that of run `{record.run_id}`, asked by the mask generator.")

# %% [markdown]
# ## The worst images
#
# Two orders: by AP50, which counts single particles, and by the Dice of the union, which asks only whether a pixel
# belongs to some particle. The table holds the ten worst of each; an image can be among both. *Merges* are instances
# that swallow two particles or more, *splits* are particles that fall into several instances.

# %% tags=["hide-input"]
worst = failures.worst_images(record)
caption = "The test images with the lowest AP50 or the lowest Dice, the lowest AP50 first; rank 1 is the worst."
if len(worst):
    page.table(failures.worst_table(worst), "failures-worst", caption, data=worst)

# %% tags=["hide-input"]
page.say(failures.overlap_sentence(record, worst))

# %% [markdown]
# ## What goes wrong
#
# Every labelled particle gets one of five kinds, the first that fits:
#
# - **found**: matched one to one with an instance, with an IoU of half or more;
# - **merged**: at least half of it lies under an instance that covers at least half of another particle too;
# - **split**: two instances or more lie in it, each with at least half of its own area;
# - **missed**: less than half of it lies under any instance;
# - **outline off**: covered, and yet not matched.
#
# An instance is **spurious** when it matches no particle, covers none by half, and lies on none by more than half of
# its own area. Labels are made by people: what counts as spurious here may be a particle that nobody has labelled.

# %% tags=["hide-input"]
from lorasam_core.models.devices import resolve_device
from lorasam_core.models.lora import load_adapter
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator

config, device = record.config, resolve_device("auto")
sam = report.load_base(config, device)
if record.adapter:
    load_adapter(sam, record.adapter)
page.say("" if record.adapter else "The adapter of this run is not part of the edition: its images cannot be shown.")

# %% tags=["hide-input"]
from functools import partial

from lorasam_core.models import devices

ids = list(worst["id"]) if record.adapter else []
samples, note = report.picture_samples(page.edition, ids=ids) if ids else ([], "")
settings = STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS
autocast = partial(devices.autocast, config.precision, device)  # as the run was judged
generator = MaskGenerator(sam, autocast=autocast, **settings)

# %% tags=["hide-input"]
from lorasam_core.measure.metrics import paint

labels = {}
for s in samples:
    found = generator.generate(s.image)
    masks, scores = [a["segmentation"] for a in found], [a["predicted_iou"] for a in found]
    labels[s.id] = paint(masks, scores, s.image.shape[:2])

# %% [markdown]
# In the last picture of each row, labelled particles have the colour of their kind, and spurious instances are drawn
# beside them.

# %% tags=["hide-input"]
diagnoses = {s.id: failures.diagnose(labels[s.id], s.labels) for s in samples}
alt = "A micrograph, its labels, the instances of the adapted model, and the labels coloured by what went wrong."
for k, (title, s) in enumerate(failures.gallery(samples, worst), start=1):
    figure = failures.failure(s.image, s.labels, labels[s.id])
    page.figure(figure, f"failure-{k}", f"{title}: {s.id}. {note}", alt, runs=[record])
    page.say(failures.diagnosis_sentence(s.id, diagnoses[s.id]))

# %% [markdown]
# ## Which error dominates
#
# The same counts over all images of the table above: the worst by each measure, and then by specimen or paper.

# %% tags=["hide-input"]
table = failures.error_table(diagnoses, failures.groups_of(samples, worst))
caption = f"Labelled particles by kind, and spurious instances, in the worst test images. {note}"
if len(table):
    names = {"dominant": "most frequent", "dominant_in": "images in which it is"}
    page.table(table.rename(columns=names), "failures-kinds", caption, [record], data=table)

# %% tags=["hide-input"]
page.say(failures.summary_sentence(table))

# %% [markdown]
# Missed particles ask for a finer grid of points or for looser filters of the mask generator; merged ones for labels
# in which touching particles are told apart; split ones for larger training crops. These are suggestions. Of these,
# the book tries other filters alone, with thresholds chosen on validation images ([filters](filters.ipynb)); the
# images above decided nothing.
