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
# # The mask generator's filters
#
# The mask generator asks at every point of a grid and gets three masks for each: far more than there are objects. No
# label says which of them to keep. The model rates its own masks, and two thresholds decide. An adapter changes what
# the ratings are made of, so thresholds that suited the frozen model need not suit the adapted one. This page compares
# the ratings with the truth, and the study's thresholds with others.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import page as report
from lorasam_core.report.chapters import calibration, filter_plots, thresholds
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
page = report.Page(read_edition(folder), "results/filters")
page.banner()

# %% tags=["hide-input"]
series = {"frozen": report.frozen_runs(page.edition), "adapted": report.adapted_runs(page.edition)}
where = calibration.source(series)
page.say(report.left_out_sentence(page.edition, "main"), calibration.missing_sentence(series))
series = calibration.asked(series)

# %% [markdown]
# ## Two ratings of a mask
#
# **Predicted IoU.** A small network beside the mask decoder, the *IoU head*, reads one token of the decoder and says
# which IoU it expects between the mask and the object. It has learnt that from masks whose object was known; for a new
# image it is a forecast.
#
# **Stability.** The decoder gives every pixel a logit $\ell$, and the mask is where $\ell > 0$. A mask with a sharp
# edge stays the same when this cut moves. The stability is the area that survives a stricter cut over the area that a
# looser one admits,
#
# $$s = \frac{|\{\ell > \delta\}|}{|\{\ell > -\delta\}|}, \qquad \delta = 1,$$
#
# which is the IoU of the two, for one lies inside the other. It asks how sure the model is of the *edge*, not whether
# the mask is an object: one over the whole background can be very stable.
#
# The generator drops masks at or under the threshold of the predicted IoU, and masks under that of the stability. Of
# masks whose boxes are nearly the same, with an IoU above 0.7, it then keeps the one of the highest predicted IoU, and
# removes specks and holes under a minimum area. Where boxes overlap less, both masks stay. So the predicted IoU has
# three uses: it filters, it decides between duplicates, and it orders the masks for average precision.
#
# ## Trained token, used token
#
# The decoder answers with four mask tokens. A single-mask call, our reading of the study's, returns token 0, and its
# loss compares the pixels of that mask with the labels. The generator never looks at token 0: for a point it takes
# tokens 1 to 3 and trusts the IoU head, which a loss on pixels never trains. Both read an encoder that has changed
# meanwhile. Nothing then keeps a rating what it was, and the filters may drop good masks or admit bad ones.

# %% tags=["hide-input"]
page.say(calibration.training_sentence(series["adapted"][0]))

# %% [markdown]
# ## Rated and true
#
# Each mask is compared with the labelled particle that it fits best. Sorted into ten bins by the predicted IoU, masks
# that are worth what their rating says lie on the diagonal; under it the model promises too much, above it too little.

# %% tags=["hide-input"]
bins = calibration.calibration_table(series, where)
if where:
    caption = f"Predicted and true IoU: {calibration.SOURCES[where]}. Bars are 95 % intervals over groups."
    alt = "True over predicted IoU in ten bins, frozen and adapted, beside the diagonal; below, the share of the masks."
    page.figure(filter_plots.calibration_chart(bins), "filters-calibration", caption, alt, data=bins)

# %% tags=["hide-input"]
ratings = calibration.ratings_table(series, where)
if where:
    caption = f"How far the ratings are off, and how well they sort: {calibration.SOURCES[where]}."
    page.table(calibration.ratings_display(ratings), "filters-ratings", caption, data=ratings)
page.say(calibration.calibration_sentence(ratings), calibration.order_sentence(series, where))

# %% [markdown]
# The two models are asked at the same points of the same images and return different masks. The expected calibration
# error is the distance from the diagonal, averaged over the masks. The rank correlation (Spearman's) does not care for
# the diagonal: it is 1 where a better mask always has the higher rating, and 0 where the rating says nothing. It is
# taken among the masks of one image, of five at least, and averaged over images, for the generator sorts an image at a
# time. A threshold can correct ratings that are off; it cannot correct an order.
#
# ## Thresholds on validation images

# %% tags=["hide-input"]
swept = {name: table for name, runs in series.items() if len(table := thresholds.threshold_table(runs))}
if swept:
    page.say(
        "The generator again, with every pair of thresholds from a grid. These images were not trained on (though the "
        "adapter's step was chosen by them), and they are not the test images: a threshold that is chosen on the "
        "images by which it is then judged looks better than it is."
    )

# %% tags=["hide-input"]
if swept:
    behind = thresholds.sweep_rows(swept)
    caption = "F1 on validation images by the two thresholds; the highest value of each model is framed."
    alt = "One grid of numbers a model: rows are thresholds of the predicted IoU, columns thresholds of the stability."
    page.figure(filter_plots.threshold_heatmap(swept), "filters-thresholds", caption, alt, data=behind)

# %% tags=["hide-input"]
page.say(thresholds.sweep_sentence(series))
if swept:
    page.say(
        "Few images stand behind the grid, and it has no intervals: read whole rows and columns, not the difference "
        "between two neighbours."
    )

# %% tags=["hide-input"]
choice = thresholds.choice_table(series)
if len(choice):
    page.say(
        "How firm is the choice? The papers or specimens of the validation images are drawn anew, with replacement, "
        "and each time the pair of the greatest F1 is chosen."
    )
    caption = "How firmly the thresholds of each model and seed were chosen: 1,000 draws of the validation images."
    page.table(thresholds.choice_display(choice), "filters-choice", caption, data=choice)
page.say(thresholds.choice_sentence(choice))

# %% [markdown]
# ## On the test images

# %% tags=["hide-input"]
rows = thresholds.filters_rows(series)
if len(rows):
    page.say(
        "Three sets of filters: the runs' own, the study's, and for each model and seed the pair of the greatest F1 on "
        "the validation images. The grid of points is that of these runs. The study asks at far more points, on "
        "enlarged crops too: its row shows what its *filters* do to this model, not what its whole setting would give."
    )

# %% tags=["hide-input"]
if len(rows):
    caption = "The same masks under three sets of filters: test images, means with 95 % intervals over groups."
    page.table(thresholds.filters_table(series), "filters-test", caption, data=rows)
page.say(thresholds.thresholds_sentence(series))

# %% [markdown]
# Thresholds are part of a model. Those that were chosen for one, on one kind of image, are a starting point for
# another. With labelled images of your own, [your own particles](adapt.ipynb) chooses a pair on validation
# images; judge the choice on others, for a pair that was chosen on few of them can do worse elsewhere.
