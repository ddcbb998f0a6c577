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
# # Prompts
#
# One model can be asked in several ways, and some ways of asking hold part of the answer. A box drawn from a label says
# where a particle ends before the model has looked. A number from such a prompt is no forecast for images without
# labels; set beside the others, it says how much of the work the prompt has done.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import charts
from lorasam_core.report import page as report
from lorasam_core.report.chapters import prompt_tables
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
page = report.Page(read_edition(folder), "results/prompts")
page.banner()
page.say(report.left_out_sentence(page.edition, "main"))

# %% [markdown]
# ## What each prompt holds
#
# **Whole image**: a box around everything; one mask comes back. This is our reading of the study's predictor call
# ({doc}`../method` says why).
# **Mask generator**: a grid of points over the image, the same for every image; the model's own ratings choose among
# the masks. Neither knows anything of the labels.
#
# **Point**: one pixel, drawn at random inside a labelled particle. It says that something is there, and where. The
# model answers with three masks and rates them; to take the best of the three instead of the one rated best is to
# look at the answer a second time. **Jittered box**: the particle's bounding box, each side moved by a normal deviate
# of a twentieth of the box's length, as a hurried user would draw it. **Exact box**: the same box, not moved. A box is
# answered with one mask, another of the decoder's than the three. Up to eight particles an image are asked for, of at
# least 16 pixels where there are such, the same ones by every prompt.

# %% tags=["hide-input"]
table = prompt_tables.prompt_table(page.edition)
rows = prompt_tables.prompt_rows(page.edition)
caption = "The same models, asked in different ways: means over the test images with 95 % intervals over groups."
caption = f"{caption} {report.seeds_clause(report.adapted_runs(page.edition))}"
page.table(table, "prompts", caption, data=rows)

# %% tags=["hide-input"]
caption = "The same numbers. The whole image and the mask generator need nobody who knows where a particle is."
alt = "Means and intervals of each prompt, the frozen model in blue and the adapted one in vermilion."
page.figure(charts.interval_chart(rows, "%"), "prompts-chart", caption, alt, data=rows)

# %% [markdown]
# Rows that measure different things cannot be ranked: all particles together, single particles found, and one particle
# that was pointed at are three questions. The prompts that ask for one particle can be compared, on the same particles.
#
# ## What the answer is worth
#
# Each row puts a prompt that holds more of the answer in the place of one that holds less, and takes the paired
# difference on the same test images. The column on adapting says whether the adapted model needs it as much as the
# frozen one. In the first row neither model can lose: the best of three masks is never worse than one of them. The box
# is also answered by another of the decoder's masks than the point, so its row holds that difference too.

# %% tags=["hide-input"]
found = prompt_tables.leads(page.edition)
if len(found):
    caption = "IoU that more of the answer gives, with paired 95 % intervals over groups."
    page.table(prompt_tables.lead_table(found), "prompt-leads", caption, data=found)

# %% tags=["hide-input"]
page.say(prompt_tables.prompt_sentence(page.edition))

# %% [markdown]
# Who prompts with boxes from the ground truth at test time reports the last rows of the first table. For a micrograph
# that nobody has labelled, its first rows are what counts.
