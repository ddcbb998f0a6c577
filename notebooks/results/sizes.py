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
# # Sizes
#
# Few people segment particles for their outlines. They want a size distribution: how large is the typical particle,
# how fine is the finest tenth, how coarse the coarsest. This page takes those numbers from the masks of the mask
# generator and from the labels of the same test images, and shows the error on what people measure.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import page as report
from lorasam_core.report.chapters import size_plots, size_sentences, sizes
from lorasam_core.config import DIVIDED
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
page = report.Page(read_edition(folder), "results/sizes")
page.banner()
page.say(report.left_out_sentence(page.edition, "main"))

# %% [markdown]
# ## What is compared
#
# The size of a particle is its **equivalent diameter**, that of the disc of equal area. D10, D50 and D90 are the
# diameters that a tenth, half and nine tenths of the particles stay below, each particle counting once, however large
# it is. Laser diffraction reports D10, D50 and D90 too, but weights each particle by its volume: they answer another
# question, and are not to be compared with these directly.
#
# - **Particles that the edge of the image cuts are left out**, of the labels and of what was found: their size is not
#   known. That favours small particles, which fit into an image more easily, on both sides alike.
# - **Errors are relative and taken image by image**, then averaged, with intervals over groups. Micrographs without a
#   scale are measured in pixels and those with one in nm; a ratio has no unit.
# - **An image without a whole labelled particle** has nothing to compare with and drops out.
# - **An image in which nothing was found**, or in which the edge cuts everything that was, has no predicted D50. It
#   counts in the error of the number of particles, and is missing from those of the diameters: so the rows of the two
#   models can rest on different images. The column *images* counts them. The *change* is taken on the images that both
#   rows have, and the last column counts those.

# %% tags=["hide-input"]
series = {"frozen": report.frozen_runs(page.edition), "adapted": report.adapted_runs(page.edition)}
errors = sizes.size_errors(series)
adapted = sizes.measured(series["adapted"])
if len(errors):
    caption = "Errors of sizes and of distributions over the test images, with 95 % intervals over groups."
    caption += f" {report.seeds_clause(adapted)}" if adapted else ""
    page.table(sizes.error_table(errors), "size-errors", caption, data=errors)

# %% tags=["hide-input"]
page.say(size_sentences.filters_sentence(series))
page.say(size_sentences.size_sentence(errors))
page.say(size_sentences.few_sentence(series), size_sentences.speck_sentence(series))

# %% [markdown]
# The *mean error* keeps its sign: it is what remains when many images are averaged. The *mean absolute error* is what
# to expect of one image. A few images with few particles can carry either, so half of the images do better than the
# median that stands beside them. The Wasserstein distance is how far a diameter has to be moved, in the mean, to turn
# one distribution into the other; the Kolmogorov-Smirnov distance is the largest gap between their cumulative curves.
#
# ## With filters for each model
#
# Too many masks are too many particles, and small ones. With thresholds that are chosen on validation images
# ([the filters' page](filters.ipynb)), for each model and seed, other masks stay, and with them other sizes. A
# watershed stands beside them, where it was measured: on Otsu's threshold, which learns nothing, and on the foreground
# of [a U-Net](rivals.ipynb) that learnt from the same images.

# %% tags=["hide-input"]
divided = {r.config.name: [r] for r in report.records_of(page.edition, "rivals") if r.config.method in DIVIDED}
chosen = {name: sizes.measured(runs, tuned=True) for name, runs in (series | divided).items()}
tuned = sizes.size_errors(chosen, tuned=True)
if chosen["frozen"] and chosen["adapted"]:
    caption = "The same errors with thresholds chosen on validation images, for each model and seed."
    caption += f" {report.seeds_clause(chosen['adapted'])}"
    page.table(sizes.error_table(tuned), "size-errors-tuned", caption, data=tuned)
    page.say(size_sentences.size_sentence(tuned), size_sentences.beside_sentence(tuned, list(divided)))
else:
    page.say("The runs of this edition kept no particles of masks under thresholds chosen on validation images.")

# %% [markdown]
# ## Image by image
#
# Charts and pooled numbers from here on are of the masks of the first table.

# %% tags=["hide-input"]
rows = sizes.agreement(series)
if len(rows):
    caption = "D50 of every test image in which whole particles are labelled and found: predicted against true. "
    caption += "Images on the line are read without error."
    alt = "Scatter of predicted over true D50 with the diagonal, frozen in blue squares and adapted in vermilion dots."
    page.figure(size_plots.agreement_chart(rows), "size-agreement", caption, alt, data=rows)

# %% tags=["hide-input"]
off = (rows["predicted"] / rows["true"]).astype(float)
above = {name: int((off[rows["series"] == name] > 1).sum()) for name in dict.fromkeys(rows["series"])}
total = rows["series"].value_counts()
page.say(*(f"The {name} model reads D50 too high in {n} of {total[name]} of these." for name, n in above.items()))

# %% [markdown]
# ## All particles together
#
# Magnifications differ from micrograph to micrograph, and some scales are not known. Before the particles of all
# images are put together, each diameter is therefore divided by the true D50 of its image: a typical particle has the
# size one.

# %% tags=["hide-input"]
together = sizes.pooled_rows(series)
curves = sizes.percentiles(series)
if len(curves):
    caption = "All test particles together: cumulative curves, from the 1st to the 99th percentile."
    alt = "Cumulative curves of relative diameters: labels in grey, frozen in blue, adapted in vermilion."
    page.figure(size_plots.distribution_chart(curves), "size-curves", caption, alt, data=curves)

# %% tags=["hide-input"]
if len(together):
    caption = "The same in numbers: diameters in units of the true D50 of their image, distances to the labels."
    page.table(sizes.pooled_table(together), "size-pooled", caption, data=together)
    page.say(size_sentences.pooled_sentence(together))

# %% [markdown]
# Images with many particles weigh more here than images with few; in the first table every image weighs the same. So a
# model that finds too many particles where there are few, and too few where there are many, can be off either way.
