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
# # Other material
#
# An adapter learns from one collection of micrographs. Does it know particles afterwards, or that collection? Where an
# adapter was tested on other material, the frozen model stands beside it: what counts is whether the adapter is still
# worth loading there.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import charts
from lorasam_core.report import page as report
from lorasam_core.report.chapters import transfer_tables
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
page = report.Page(read_edition(folder), "results/other_material")
page.banner()
page.say(report.left_out_sentence(page.edition, "other_material"))

# %% [markdown]
# ## The materials
#
# - **EMPS** {cite:p}`yildirim2021emps`: electron micrographs of particles from hundreds of papers.
# - **Generated particles**: the package's own micrographs of an electron microscope that does not exist. Their labels
#   are exact.
# - **AMPIS powder**: a handful of micrographs of metal powder, the nearest public relative of the study's own
#   material. No adapter is trained on it, and it is used where it is on the machine. Its groups are single images,
#   perhaps of one powder.
#
# Nothing that an adapter was trained on is in a test: the generated test images are of other specimens than the
# generated training images, and those of EMPS come from other papers.

# %% tags=["hide-input"]
page.say(transfer_tables.left_out_materials(page.edition))
page.say(transfer_tables.steps_sentence(page.edition))

# %% [markdown]
# ## Trained here, tested there

# %% tags=["hide-input"]
rows = transfer_tables.transfer_rows(page.edition)
caption = "What each model was trained on, and what it was tested on: means with 95 % intervals over groups."
page.table(transfer_tables.transfer_table(rows), "transfer", caption, data=rows)

# %% tags=["hide-input"]
shown = transfer_tables.chart_rows(rows, "mask generator: AP50")
caption = f"AP50 of the mask generator by what a model was tested on; adapted: {rows.attrs['main']}."
alt = "Means and intervals on each material: the frozen model and each adapter in its own colour."
if len(shown):
    page.figure(charts.interval_chart(shown, "AP50, %"), "transfer-chart", caption, alt, data=shown)

# %% [markdown]
# The levels of two materials say how hard their images are, and cannot be compared. Within a row, models are judged on
# the same images, and the difference from the frozen model can be taken image by image.

# %% tags=["hide-input"]
caption = "Gain over the frozen model on the same images, in points with paired 95 % intervals over groups."
page.table(transfer_tables.transfer_table(rows, gains=True), "transfer-gains", caption, data=rows)

# %% tags=["hide-input"]
page.say(transfer_tables.transfer_sentence(rows))

# %% [markdown]
# A gain shows that something carries over, a loss that something does not; which, these numbers do not say. The size of
# the particles in pixels and the grid of points limit every model on the powder. With few groups the interval is too
# narrow: where a row rests on four or five, a difference is a hint, not a finding.
