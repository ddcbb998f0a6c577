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
# # Where and what
#
# An adapter has to sit somewhere, and has to be asked for something. The study put LoRA into the attention layers of
# the image encoder and trained it on the whole image. This page moves it: to fewer matrices, to more, to some of the
# blocks; and asks it for the whole image, for single particles, or for both by turns.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import page as report
from lorasam_core.report.chapters import budgets, chance, comparison_plots, comparisons
from lorasam_core.experiments.records import read_edition

page = report.Page(read_edition(report.edition_folder(profile, edition, data)), "results/where")
page.banner()

# %% [markdown]
# Everything is compared with the main configuration, on the same test images and with the same number of steps. The
# seeds of the main configuration say what another seed alone would do, and every row is taken to vary as much. A
# difference that is no larger than other images and other seeds may make it together is no finding. F1 is taken under
# one pair of thresholds for all, not chosen for each model: a change of it may be one of the model's ratings and not
# of its masks ([failures](failures.ipynb)), so that the table is to be read by the Dice and the AP50.

# %% tags=["hide-input"]
main = report.adapted_runs(page.edition)
seeds = comparisons.groups(comparisons.with_seeds(main, page.edition.records))[0]
noise = {measure: comparisons.seed_noise(seeds, measure)["least"] for measure in comparisons.MEASURES}
asked = ("predictor_dice", "point_iou", "ap50", "f1")
grey = chance.grey_clause(seeds, asked)

# %% [markdown]
# ## Which matrices, which blocks
#
# *q*, *k* and *v* make queries, keys and values of the attention, *proj* brings its output back, and the MLP holds the
# other two linear layers. Blocks with windows let a token see its surroundings, those with global attention the whole
# image.

# %% tags=["hide-input"]
where = report.records_of(page.edition, "where")
records = comparisons.with_seeds([*where, *main], page.edition.records)
table = comparisons.comparison_table(records, comparisons.shared_name(records, main))
caption = "Where the adapter sits: test metrics in % with 95 % intervals, and the paired difference in predictor Dice."
page.table(comparisons.comparison_display(table, asked), "where", caption, data=table)
page.say(report.left_out_sentence(page.edition, "where"))

# %% tags=["hide-input"]
if len(table) > 1:
    caption = f"Paired differences to the main configuration with 95 % intervals.{grey}"
    alt = "For each place of the adapter a point with an interval on an axis of differences, in four panels."
    page.figure(comparison_plots.paired_chart(table, asked, noise), "where-differences", caption, alt, data=table)

# %% tags=["hide-input"]
for measure in asked:
    page.say(comparisons.comparison_sentence(table, measure, noise[measure]) if len(table) > 1 else "")
page.say(comparisons.smallest_sentence(table, noise=noise["predictor_dice"]) if len(table) > 1 else "")

# %% tags=["hide-input"]
caption = f"What each place costs. {comparisons.cost_note(table)}"
page.table(comparisons.cost_display(table), "where-cost", caption, data=table)
page.say(budgets.steps_note(records))

# %% [markdown]
# Each interval stands alone: of twenty comparisons of equals, about one excludes zero by chance.
#
# ## What it is asked for
#
# The objective `semantic`, our reading of the study's, prompts with the whole image and wants all particles in one
# mask. `instance` prompts with points and boxes, wants single particles, and trains the model's rating of its own
# masks. `mixed` alternates the two. The mask generator lives on points and on that rating, of which a model that is
# only ever asked for the union is taught neither.

# %% tags=["hide-input"]
objectives = report.records_of(page.edition, "objective")
records = comparisons.with_seeds([*objectives, *main], page.edition.records)
table = comparisons.comparison_table(records, comparisons.shared_name(records, main))
caption = "What the adapter is trained for: test metrics in % with 95 % intervals, paired difference in predictor Dice."
if objectives:
    page.table(comparisons.comparison_display(table, asked), "objective", caption, data=table)
page.say(report.left_out_sentence(page.edition, "objective"))

# %% tags=["hide-input"]
if len(table) > 1:
    caption = f"Paired differences to the main configuration with 95 % intervals.{grey}"
    alt = "For each objective a point with an interval on an axis of differences to the main one, in four panels."
    page.figure(comparison_plots.paired_chart(table, asked, noise), "objective-differences", caption, alt, data=table)

# %% tags=["hide-input"]
for measure in asked:
    page.say(comparisons.comparison_sentence(table, measure, noise[measure]) if len(table) > 1 else "")
page.say(budgets.steps_note(records) if objectives else "")

# %% [markdown]
# The steps are the same for all, so `mixed` spends half as many on each of its two questions as the others do on their
# one. Of these choices the study reports one each: the attention layers of all blocks, and the union as the target.
