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
# # Against what else
#
# LoRA is one way to make a segmenter of micrographs. This page puts it beside the frozen model, beside training other
# parts of the same model, beside a U-Net {cite:p}`ronneberger2015unet` that starts from nothing, and beside Otsu's
# threshold, which learns nothing at all. A watershed may divide what a U-Net or the threshold finds.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core.report import phrases
from lorasam_core.report import page as report
from lorasam_core.report import tables
from lorasam_core.report.chapters import budgets, chance, comparison_plots, comparisons
from lorasam_core.experiments.records import read_edition

page = report.Page(read_edition(report.edition_folder(profile, edition, data)), "results/rivals")
page.banner()

# %% tags=["hide-input"]
main = report.adapted_runs(page.edition)
seeds = comparisons.groups(comparisons.with_seeds(main, page.edition.records))[0]
noise = {measure: comparisons.seed_noise(seeds, measure)["least"] for measure in comparisons.MEASURES}
rivals = [*report.records_of(page.edition, "rivals"), *report.frozen_runs(page.edition), *main]
records = comparisons.with_seeds(rivals, page.edition.records)
table = comparisons.comparison_table(records, comparisons.shared_name(records, main))

# %% [markdown]
# ## The foreground
#
# Which pixels are particle? The models of the SAM family are asked with a box around the whole image, our
# reading of how the study asks its predictor; the others give a mask of the image directly.

# %% tags=["hide-input"]
foreground = ("predictor_dice", "generator_dice")
caption = "Foreground: test Dice in % with 95 % intervals, and the paired difference in the predictor's to LoRA."
page.table(comparisons.comparison_display(table, foreground), "rivals-foreground", caption, data=table)
page.say(report.left_out_sentence(page.edition, "rivals"))

# %% tags=["hide-input"]
page.say(comparisons.comparison_sentence(table, "predictor_dice", noise["predictor_dice"]))
cases = report.STUDY["test_cases"].values()
before, after = ([case[k] for case in cases] for k in (0, 1))
page.say(
    f"{report.REPORTED.capitalize()}: Dice of the mask generator's union from {min(before):.1f} to {max(before):.1f} % "
    f"frozen and from {min(after):.1f} to {max(after):.1f} % with LoRA, on four images. It reports no other method."
)

# %% [markdown]
# ## Single particles
#
# A foreground can be right and every particle lost in it. AP50, F1 and PQ count instances. Those of a U-Net and of the
# threshold are the connected parts of the foreground, so that particles which touch are one, unless a watershed on the
# distance to the ground divides them. It leaves the foreground as it is: the U-Net beneath it is trained once more,
# from the same seed.

# %% tags=["hide-input"]
instances = comparisons.measured(table, ("tuned_f1", "f1", "pq", "ap50", "point_iou"))
if "tuned_f1" in instances:
    page.say(
        "A mask generator has two thresholds for its masks, and what suits one model need not suit another. "
        "*Thresholds by validation* are those of the greatest F1 on validation images, for each model and seed; in the "
        "other columns all models have one pair, which was chosen for the frozen model. A watershed's distance was "
        "chosen on validation images too; Otsu's threshold and the U-Net's cut, at a half, were not chosen."
    )
caption = "Instances: test metrics in % with 95 % intervals, and the paired difference to LoRA in the first of them."
page.table(comparisons.comparison_display(table, instances), "rivals-instances", caption, data=table)

# %% tags=["hide-input"]
for measure in comparisons.measured(table, ("tuned_f1", "f1", "pq", "ap50")):
    page.say(comparisons.comparison_sentence(table, measure, noise[measure]))
scoreless = table["f1"].notna() & table["ap50"].isna() if {"f1", "ap50"} <= set(table) else []
silent = [f"*{name}*" for name in table.loc[scoreless, "name"]]
if silent:
    names = phrases.listed(silent)
    page.say(f"AP ranks instances by a score. There is none from {names}, and so no AP; F1 and PQ need none.")

# %% tags=["hide-input"]
if len(table) > 1:
    asked = comparisons.measured(table, ("predictor_dice", "tuned_f1", "f1"))
    caption = f"Paired differences to LoRA with 95 % intervals.{chance.grey_clause(seeds, asked)}"
    alt = "For each method a point with an interval on an axis of differences to LoRA, a panel a metric."
    page.figure(comparison_plots.paired_chart(table, asked, noise), "rivals-differences", caption, alt, data=table)

# %% [markdown]
# Left of zero LoRA is better. The intervals are of other test images; other settings of a rival are not in them. Rivals
# that are trained are taken to vary with the seed as LoRA does; the frozen model and the thresholds have no seed. What
# starts from nothing may vary more: [the same training on two kinds of processor](how-equal) parts a U-Net further than
# LoRA.
#
# ## What it costs

# %% tags=["hide-input"]
cost = comparisons.cost_display(table)
rates = [runs[0].config.learning_rate for runs in comparisons.groups(records)]
cost["learning rate"] = [tables.setting(rate) if steps else "–" for rate, steps in zip(rates, table["steps"])]
caption = f"What each method cost. {comparisons.cost_note(table)}"
page.table(cost, "rivals-cost", caption, data=table.assign(learning_rate=rates))

# %% tags=["hide-input"]
trained = table[table["trainable"] > 0]
if len(trained) > 1:
    least, most = trained.loc[trained["trainable"].idxmin()], trained.loc[trained["trainable"].idxmax()]
    page.say(
        f"*{least['name']}* trains the fewest numbers, {least['trainable']:,.0f}, and *{most['name']}* the most, "
        f"{most['trainable']:,.0f}."
    )
page.say(budgets.steps_note(records))
page.say(report.rivals_sentence(page.edition))

# %% [markdown]
# The learning rates of the rivals are usual ones for such methods; none was tuned, while LoRA's stands in
# [a sweep](learning_rate.ipynb). All methods that train take as many steps, not as much time, and a network that
# starts from nothing may need more of both. A watershed's one setting was chosen on the validation images. So this
# page can show how LoRA and a rival compare as they were run here, and not what tuning would do to a gap.
