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
# # How the mask generator filters
#
# The mask generator needs nobody who points: it asks with a grid of points and keeps a small part of the answers. This
# page follows the masks of one image through every filter. {doc}`../method` lists the settings. The image is one whose
# particles lie apart, so that every stage has something to show.

# %% tags=["parameters"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
from lorasam_core import experiments, plots
from lorasam_core.report import page as report
from lorasam_core.report.chapters import lesson_plots, stages
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
experiments.sweep(profile, "generator", folder, data)
page = report.Page(read_edition(folder), "lessons/generator")
page.banner()

# %%
from lorasam_core.data.particles import generate
from lorasam_core.models.devices import resolve_device
from lorasam_core.masks.generator import MaskGenerator

config = report.main_config(page.edition)
sam = report.load_base(config, resolve_device("auto"))
sample = generate(seed=0, index=18, size=(384, 384))
generator = MaskGenerator(sam, **stages.lesson_settings(config.generator))
passed = stages.stages(generator, sample.image)

# %%
asked, rated, stable, distinct, clean = (stage.answers for stage in passed)
page.say(
    f"The image is generated and shows {len(set(sample.labels.flat) - {0})} particles; the model is the base of this",
    f"edition, `{sam.base_name}`, frozen. It is asked with {len(generator.point_grids[0])} points and no crops, and",
    f"filtered with the thresholds of this edition, {generator.pred_iou_thresh:g} for the predicted IoU and",
    f"{generator.stability_score_thresh:g} for stability.",
)

# %% [markdown]
# ## A grid of points
#
# The points know nothing of the image. A large particle gets several; a small one may lie between them, and is then
# seldom found.

# %%
best = asked.rated.unflatten(0, (-1, 3)).max(dim=1)
figure = lesson_plots.point_map(sample.image, asked.points[::3].numpy(), best.values.numpy(), "predicted IoU")
caption = "The grid, coloured by the rating of the best of the three masks of each point."
alt = "A micrograph of particles under a regular grid of dots, light where the model trusts its mask."
page.figure(figure, "generator-grid", caption, alt)

# %%
import numpy as np

columns, rows = asked.points[::3].numpy().astype(int).T
under = sample.labels[rows, columns]
particles = np.unique(sample.labels[sample.labels > 0])
page.say(
    f"{(under > 0).sum()} of {len(under)} points lie on a particle, and {len(set(under) - {0})} of {len(particles)}",
    f"particles have a point on them. The mean rating is {best.values[under > 0].mean():.2f} on particles and",
    f"{best.values[under == 0].mean():.2f} elsewhere.",
)

# %% [markdown]
# ## Three masks for each
#
# A mask may be the particle, a part of it or a heap. This is the point with the mask that fits a particle best.

# %%
from lorasam_core.measure.metrics import mask_iou_matrix

fit = mask_iou_matrix(asked.masks.numpy(), sample.labels).max(axis=1)  # IoU with the particle that it covers best
first = 3 * int(fit.argmax() // 3)
pictures = {}
for i in range(first, first + 3):
    title = f"rated {asked.rated[i]:.2f}, IoU {fit[i]:.2f}"
    pictures[f"{i - first + 1}: {title}"] = lesson_plots.Prompted(
        sample.image, asked.masks[i].numpy(), asked.points[i : i + 1]
    )

# %%
caption = "The three masks of one point: what the model expects of each, and its IoU with a particle."
alt = "The micrograph three times, with the same starred point and another mask in blue each time."
page.figure(lesson_plots.prompts(pictures, columns=3, width=6.6), "generator-three", caption, alt)
areas = [f"{asked.masks[i].sum():,}" for i in range(first, first + 3)]
page.say(f"They cover {', '.join(areas)} pixels. All three go into the filters, as do those of every other point.")

# %% [markdown]
# ## Two thresholds
#
# The first filter asks what the model thinks of a mask: the predicted IoU. The second asks how firm its outline is. The
# **stability score** compares the mask at two thresholds of its logits, one above and one below zero: pixels above the
# upper one over pixels above the lower one.

# %%
import pandas as pd

right = fit >= 0.5
dots = pd.DataFrame({"rated": asked.rated.numpy(), "stable": asked.stable.numpy(), "right": right})
figure = lesson_plots.filter_chart(dots, generator.pred_iou_thresh, generator.stability_score_thresh)
caption = "Every mask by predicted IoU and stability. What is right of and above both dashed lines passes."
alt = "A cloud of crosses and dots; dots, masks of a particle, lie towards the upper right."
page.figure(figure, "generator-thresholds", caption, alt, data=dots)

# %%
passes = ((asked.rated > generator.pred_iou_thresh) & (asked.stable >= generator.stability_score_thresh)).numpy()
page.say(stages.thresholds_sentence(right, passes))

# %% [markdown]
# ### A firm outline, and one that is not
#
# The best rated mask that passes the second filter, and the best rated that does not.

# %%
fails = rated.take(~(rated.stable >= generator.stability_score_thresh))
chosen = {"passes": stable, "does not": fails}
chosen = {name: some.take(some.rated.argsort(descending=True)[:1]) for name, some in chosen.items() if len(some)}
predictor = generator.predictor
predictor.set_image(sample.image)
logits = {}
for name, one in chosen.items():
    three, _, _ = predictor.predict(one.points.numpy(), np.array([1]), return_logits=True)
    logits[f"{name}: stability {one.stable[0]:.2f}"] = three[int(one.number[0]) % 3]

# %%
offset = generator.stability_score_offset
caption = "Outlines of two masks at three thresholds of their logits. A firm mask hardly changes between them."
alt = "Two enlarged parts of the micrograph, each with three outlines: close together, and far apart."
if logits:
    page.figure(lesson_plots.threshold_pictures(sample.image, logits, offset), "generator-stability", caption, alt)

# %%
inner, outer = ([int((v > sign * offset).sum()) for v in logits.values()] for sign in (1, -1))
counts = [f"{a:,} of {b:,} pixels for the mask that {name}" for a, b, name in zip(inner, outer, chosen)]
page.say(
    f"Above the upper threshold are, of those above the lower one, {', and '.join(counts)}." if counts else "",
    "" if len(fails) else "On this image no mask that is rated well enough fails the second filter.",
)

# %% [markdown]
# ## One mask for each thing
#
# Many points lie on the same particle, and give nearly the same mask. Non-maximum suppression goes through the masks
# from the best rated on, and drops those whose box has an IoU above 0.7 with that of a better one; where boxes overlap
# less, both masks stay.

# %%
if len(distinct):
    group, winner = stages.duplicates(stable, distinct, generator.box_nms_thresh)
    before, after = stable.take(group).masks.numpy(), distinct.masks[winner : winner + 1].numpy()
    part = lesson_plots.around(before.any(axis=0))
    drawn = {f"{len(group)} masks": lesson_plots.outlines(sample.image, before)[part]}
    drawn["the one that is kept"] = lesson_plots.outlines(sample.image, after)[part]
    caption = "The largest group of masks whose boxes overlap that much, and the one that stays: the best rated."
    alt = "A part of the micrograph with many nearly equal outlines around one particle, and with a single one."
    page.figure(plots.panels(drawn, width=6.5), "generator-duplicates", caption, alt)

# %%
page.say(
    f"{len(stable)} masks become {len(distinct)}. Only boxes are compared, which is fast, and cannot tell a mask from",
    "another of the same box: a ring from a disc, or a heap from the background around it.",
)

# %% [markdown]
# ## Crumbs and holes
#
# Last, regions under a number of pixels are removed and holes under it filled. What has changed may have become a
# duplicate, so boxes are compared once more.

# %%
changed = stages.changes(distinct, clean)
if len(changed):
    row = int((clean.number == int(changed["number"][0])).nonzero()[0, 0])
    old = int((distinct.number == clean.number[row]).nonzero()[0, 0])
    two = {"before": distinct.masks[old].numpy(), "after": clean.masks[row].numpy()}
    part = lesson_plots.around(two["before"])
    drawn = {name: plots.overlay(sample.image, mask)[part] for name, mask in two.items()}
    caption, alt = "The mask that is changed most.", "One mask in blue before and after its crumbs and holes are gone."
    page.figure(plots.panels(drawn, width=6.5), "generator-clean", caption, alt)

# %%
page.say(
    f"{len(changed)} of {len(clean)} masks are changed, by {changed['pixels'].sum()} pixels in all.",
    f"{len(distinct) - len(clean)} masks were dropped as new duplicates.",
)

# %% [markdown]
# ## All stages

# %%
table = stages.funnel(passed, sample.labels)
caption = "What is left after each stage; masks of a particle have an IoU of at least 0.5 with it."
page.table(stages.shown_funnel(table), "generator-table", caption, data=table)

# %%
caption = "Masks that are left after each stage."
alt = "Five bars that shrink from the masks of all points to those that the generator returns."
page.figure(lesson_plots.funnel_chart(table), "generator-funnel", caption, alt, data=table)

# %%
page.say(stages.funnel_sentence(table, len(particles)))

# %%
drawn = {f"{s.name}: {len(s.answers)}": lesson_plots.outlines(sample.image, s.answers.masks.numpy()) for s in passed}
annotations = generator.generate(sample.image)
drawn["result"] = plots.instance_mosaic(sample.image, annotations)
caption = "Outlines of the masks that are left after each stage, and the result as instances."
alt = "The micrograph six times, with ever fewer coloured outlines, and last the instances in colours on black."
page.figure(plots.panels(drawn, columns=3, width=6.6), "generator-stages", caption, alt)

# %%
alone, pixels = stages.agreement(clean, annotations)
assert alone <= 0.1 * len(clean) + 1
page.say(
    f"`MaskGenerator.generate` returns {len(annotations)} masks for this image, and the last stage has {len(clean)}.",
    f"{alone} of them have no counterpart on the other side; the others differ in {pixels} pixels.",
)

# %% [markdown]
# ## The same in less time
#
# Here every mask was enlarged to the image before the first filter looked at it, as segment-anything's own generator
# does. But the rating is known before a single pixel is painted. This project's generator rates all points first and
# paints only what passes; [the page on speed](speed.ipynb) derives this and measures it.

# %%
page.say(
    f"On this image {len(rated)} of {len(asked)} masks pass the first filter. The other",
    f"{100 * (1 - len(rated) / len(asked)):.0f} % need not be painted, enlarged or measured.",
)
