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
# **What does the frozen model see, and by which prompt?** Asked with a point, its IoU with the particle is {{ main /
# frozen / point iou_rated }} %; with the particle's box, {{ main / frozen / box iou_rated }} %. A box says where a
# particle ends before the model has looked. Asked for the whole image, which holds nothing of the answer, its Dice is
# {{ main / frozen / predictor dice }} %. Adapting raises that to {{ main / main* / predictor dice }} % and changes
# neither the answer to a point nor that to a box by as much.
#
# The Segment Anything Model has learnt from pictures of *things*: what can be named, pointed at and told from the rest.
# A powder is not a thing, and each of its particles looks like the one beneath it; the study reports that SAM struggles
# with one. So the frozen model is asked here about both, and in every way that it can be asked.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %%
import pandas as pd

from lorasam_core import charts, plots, stats
from lorasam_core.experiments import records
from lorasam_core.report import page as report

kept = records.read_edition(report.edition_folder(profile, edition, data))
page = report.Page(kept, "results/prompts")
page.banner(written=True)

# %% [markdown]
# ## What each prompt holds
#
# **Whole image**: a box around everything; one mask comes back. This is our reading of the study's predictor call
# ({doc}`../method` says why). **Mask generator**: a grid of points, the same for every image. Neither knows anything
# of the labels.
#
# **Point**: one pixel, drawn at random inside a labelled particle. The model answers with three masks and rates them;
# to take the best of the three instead of the one rated best is to look at the answer a second time. **Jittered box**:
# the particle's bounding box, each side moved by a normal deviate of a twentieth of the box's length, as a hurried user
# would draw it. **Exact box**: the same box, not moved. A box is answered with one mask, another of the decoder's than
# the three. Up to eight particles an image are asked for, of at least 16 pixels where there are such, the same ones by
# every prompt.

# %%
asked = pd.DataFrame(
    [
        ("predictor dice", "whole image", "no", "Dice", "foreground_dice"),
        ("generator dice", "mask generator, union", "no", "Dice", ""),
        ("generator ap50", "mask generator, AP50", "no", "AP50", ""),
        ("point iou_rated", "point", "yes", "IoU, rated best", "point_rated_iou"),
        ("point iou_best", "point, best mask", "yes", "IoU, best of 3", "point_best_iou"),
        ("box iou_rated", "jittered box", "yes", "IoU", "box_iou"),
        ("exact_box iou_rated", "exact box", "yes", "IoU", ""),
    ],
    columns=["measure", "prompt", "uses labels", "in %", "card"],
)

# %% [markdown]
# ## Measured
#
# Every test image was given to the frozen model and to the adapted ones, which differ in their seed. Dice is that of
# all particles together, IoU that of one mask with the particle that was asked for. Where
# [the model's card](model_card.ipynb) is of this edition's base, the column *scenes* has the frozen model on generated
# scenes: things against particles. Intervals are over scenes, and over the papers or specimens of the test
# images; the card's prompts are means over objects, ours over images.

# %%
models = kept.runs[kept.runs["experiment"] == "main"].drop_duplicates("run")
models = models.assign(model=models["method"].map({"frozen": "frozen", "lora": "adapted"}))
scores = kept.scores.merge(models[["run", "model"]], on="run").merge(asked, on="measure")
means = stats.mean_interval(scores, ["measure", "model"])
gains = []
for measure, part in scores.groupby("measure", sort=False):
    if set(part["model"]) == {"frozen", "adapted"}:
        noise = stats.seed_noise(part[part["model"] == "adapted"])
        found = stats.verdict(stats.paired(part, "model", "frozen"), noise, untrained=["frozen"])
        gains.append(found.assign(measure=measure, **{"gain, points": stats.as_text(found, sign=True)}))

# %%
from lorasam_core.report.model_card import read_card

card = read_card()
found = card["measures"]["scenes"] if card["base_hash"] == kept.info.get("base_hash") else {}
named = asked[asked["card"].isin(found)]
scenes = pd.DataFrame([{"measure": row.measure, "model": "scenes"} | found[row.card] for row in named.itertuples()])
every = pd.concat([scenes, means]) if len(scenes) else means
cells = every.assign(text=stats.as_text(every)).pivot(index="measure", columns="model", values="text")
cells = cells.reindex(columns=["scenes", "frozen", "adapted"]).dropna(axis=1, how="all").add_suffix(", %").fillna("–")
shown = asked.drop(columns="card").merge(cells.reset_index(), on="measure")
if gains:
    shown = shown.merge(pd.concat(gains)[["measure", "gain, points", "verdict"]], on="measure", how="left").fillna("–")
caption = "The same models, asked in different ways: means with 95 % intervals, the paired gain in points."
page.table(shown.drop(columns="measure"), "prompts", caption, scores["run"], every)

# %%
rows = asked.merge(every, on="measure").rename(columns={"prompt": "metric", "model": "series"})
rows[["mean", "low", "high"]] *= 100
caption = "The same numbers. The whole image and the mask generator need nobody who knows where a particle is."
alt = "Means and intervals of each prompt, the frozen model in blue and the adapted one in vermilion."
page.figure(charts.interval_chart(rows, "%"), "prompts-chart", caption, alt, scores["run"], rows)

# %% [markdown]
# Rows that measure different things cannot be ranked: all particles together, single particles found, and one particle
# that was pointed at are three questions. The prompts that ask for one particle can be compared, on the same particles.
# *Scenes* above *frozen*, with intervals apart, would be the study's gap between things and powders; but many of these
# micrographs show loose particles, not a powder, and the base may be a compact stand-in for SAM.
#
# ## What the answer is worth
#
# Each row puts a prompt that holds more of the answer in the place of one that holds less, and takes the paired
# difference on the same test images. The verdict is on the change: whether the adapted model needs the answer more or
# less than the frozen one. In the first row neither model can lose: the best of three masks is never worse than one of
# them. The box is also answered by another of the decoder's masks, so its row holds that difference too.

# %%
steps = {
    "the best mask of a point for the one rated best": ("point iou_rated", "point iou_best"),
    "a jittered box for a point": ("point iou_rated", "box iou_rated"),
    "the exact box for a jittered one": ("box iou_rated", "exact_box iou_rated"),
}
wide = scores.pivot(index=["run", "model", "id", "group"], columns="measure", values="value").reset_index()
asked_both = {step: both for step, both in steps.items() if set(both) <= set(wide)}
leads = [wide.assign(step=step, value=wide[more] - wide[less]) for step, (less, more) in asked_both.items()]

# %%
changes = []
for lead in leads if gains else ():
    noise = stats.seed_noise(lead[lead["model"] == "adapted"])
    change = stats.verdict(stats.paired(lead, "model", "frozen"), noise, untrained=["frozen"])
    worth = stats.mean_interval(lead, "model")
    worth = dict(zip(worth["model"], stats.as_text(worth, sign=True)))
    changes.append(change.assign(step=lead["step"].iloc[0], **worth, change=stats.as_text(change, sign=True)))

# %%
if changes:
    rows = pd.concat(changes)
    shown = rows[["step", "frozen", "adapted", "change", "verdict"]]
    shown.columns = ["more of the answer", "frozen, points", "adapted, points", "change by adapting, points", "verdict"]
    caption = "IoU that more of the answer gives, with paired 95 % intervals over groups."
    page.table(shown, "prompt-leads", caption, scores["run"], rows)

# %% [markdown]
# ## Things and powders
#
# The same question in pictures. The generated scenes stand for ordinary pictures: a few whole objects on a ground, each
# with an outline, a colour or a texture of its own, none of them trained on. The **predictor** is asked once, with a
# box around the whole image: its single mask, in blue, is what the model takes for the foreground. The **mask
# generator** keeps the masks that the model rates well.

# %%
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator
from lorasam_core.measure.evaluation import predict_foreground
from lorasam_core.models.devices import resolve_device

config = report.main_config(kept)
sam = report.load_base(config, resolve_device("auto"))
generator = MaskGenerator(sam, **(STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS))

# %%
from lorasam_core.measure.metrics import paint
from pretrain.measure import HELD_OUT_SEED
from pretrain.scenes import generate_scene

scenes = [generate_scene(HELD_OUT_SEED, index) for index in range(2)]
wholes = [scene.masks[scene.levels == 0] for scene in scenes]  # not the parts inside them
things = [(s.image, paint(masks, range(len(masks)), masks.shape[1:])) for s, masks in zip(scenes, wholes)]
samples, note = report.picture_samples(kept, part="test", count=2)
powders = [(s.image, s.labels) for s in samples]

# %%
views = {"scene": {}, "particles": {}}
for kind, images in (("scene", things), ("particles", powders)):
    for number, (image, labels) in enumerate(images, start=1):
        name, mask, masks = f"{kind} {number}", predict_foreground(sam, image), generator.generate(image)
        views[kind][name] = plots.rgb(image)
        views[kind][f"{name}: {mask.mean():.0%} marked"] = plots.overlay(image, mask)
        views[kind][f"{name}: {len(masks)} masks"] = plots.instance_mosaic(image, masks)
        views[kind][f"{name}: labels cover {(labels > 0).mean():.0%}"] = plots.instance_mosaic(image, labels)

# %%
caption = "The frozen model on generated scenes of describable objects."
alt = "Two colourful scenes; beside each the predictor's blue mask, the mask generator's instances, the true objects."
page.figure(plots.panels(views["scene"], columns=4), "zero-shot-scenes", caption, alt)

# %% [markdown]
# And on particles, asked in the same way:

# %%
caption = f"The same model, asked in the same way, on micrographs of particles. {note}"
alt = "Two micrographs; beside each the predictor's blue mask, the mask generator's instances and the true particles."
page.figure(plots.panels(views["particles"], columns=4), "zero-shot-particles", caption, alt)

# %% [markdown]
# What is marked should be what the labels cover, and each object should have one colour of its own. These are single
# pictures; the table above has all test images.
#
# ## What to take away
#
# - Who prompts with boxes from the ground truth at test time reports the last rows of the first table. For a micrograph
#   that nobody has labelled, its first rows are what counts.
# - Where you can draw a box, draw one, as a hurried user would: it needs no adapter.
# - [LoRA](lora_layer.ipynb) on the encoder, the study's choice, is one way to close a gap; [another
#   page](rivals.ipynb) tries more of them.
