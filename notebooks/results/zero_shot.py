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
# # Things and powders: the frozen model
#
# The Segment Anything Model has learnt from pictures of *things*: what can be named, pointed at and told from the rest.
# A powder is not a thing, and each of its particles looks like the one beneath it; the study reports that SAM struggles
# with one. This page gives the frozen base of this edition both kinds of picture and measures, question by question,
# on which of them it does better. That is no measurement of SAM on the study's images: the base may be a compact
# stand-in, and the micrographs may show loose particles more often than a powder.

# %% tags=["parameters", "hide-input"]
profile: str = "quick"  # table of runs in notebooks/profiles: smoke, quick, emps or study
edition: str = ""  # folder of the runs; "": runs/<profile>
data: str = ""  # synthetic, emps or a folder with images/ and labels/; "": the profile's own

# %% tags=["hide-input"]
from lorasam_core import charts, experiments, plots
from lorasam_core.report import page as report
from lorasam_core.experiments.records import read_edition

folder = report.edition_folder(profile, edition, data)
frozen = experiments.sweep(profile, "zero_shot", folder, data)[0]
page = report.Page(read_edition(folder), "results/zero_shot")
page.banner()

# %% [markdown]
# The model is the base of this edition, frozen: no adapter, no training on particles.

# %% tags=["hide-input"]
from lorasam_core.models.devices import resolve_device

config, device = frozen.config, resolve_device("auto")
sam = report.load_base(config, device)
total, encoder = (sum(p.numel() for p in part.parameters()) for part in (sam, sam.image_encoder))
page.say(f"`{sam.base_name}` has {total:,} parameters, {encoder:,} of them in the image encoder.")

# %% [markdown]
# ## Describable objects
#
# Generated scenes stand for ordinary pictures: a few whole objects on a ground, each with an outline, a colour or a
# texture of its own. These scenes were never trained on. Their labels are the whole objects.

# %% tags=["hide-input"]
from lorasam_core.data import Sample
from pretrain.scenes import generate_scene
from lorasam_core.measure.metrics import paint
from pretrain.measure import HELD_OUT_SEED

scenes = [generate_scene(HELD_OUT_SEED, index) for index in range(6)]
wholes = [scene.masks[scene.levels == 0] for scene in scenes]
labels = [paint(masks, range(len(masks)), masks.shape[1:]) for masks in wholes]
described = [Sample(s.image, y, f"scene {i + 1}", f"scene {i + 1}") for i, (s, y) in enumerate(zip(scenes, labels))]

# %% [markdown]
# The **predictor** is asked once, with a box around the whole image: its single mask, in blue, is what the model takes
# for the object. The **mask generator** asks with a grid of points and keeps the masks that the model rates well.

# %% tags=["hide-input"]
from functools import partial

from lorasam_core.models import devices
from lorasam_core.measure.evaluation import evaluate, predict_foreground
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator

autocast = partial(devices.autocast, config.precision, device)  # as the run was judged
settings = STUDY_SETTINGS if config.generator == "study" else QUICK_SETTINGS
generator = MaskGenerator(sam, autocast=autocast, **settings)

# %% tags=["hide-input"]
pictures = {}
for s in described[:2]:
    pictures[s.id] = s.image
    pictures[f"{s.id}: predictor"] = plots.overlay(s.image, predict_foreground(sam, s.image, autocast=autocast))
    pictures[f"{s.id}: mask generator"] = plots.instance_mosaic(s.image, generator.generate(s.image))
    pictures[f"{s.id}: labels"] = plots.instance_mosaic(s.image, s.labels)

# %% tags=["hide-input"]
caption = "The frozen model on generated scenes of describable objects."
alt = "Two colourful scenes; beside each the predictor's blue mask, the mask generator's instances, the true objects."
page.figure(plots.panels(pictures, columns=4), "zero-shot-scenes", caption, alt, runs=[frozen])

# %% [markdown]
# ## Particles
#
# The same model, asked in the same way.

# %% tags=["hide-input"]
particles, note = report.picture_samples(page.edition, part="test", count=2)
pictures = {}
for s in particles:
    pictures[s.id] = s.image
    pictures[f"{s.id}: predictor"] = plots.overlay(s.image, predict_foreground(sam, s.image, autocast=autocast))
    pictures[f"{s.id}: mask generator"] = plots.instance_mosaic(s.image, generator.generate(s.image))
    pictures[f"{s.id}: labels"] = plots.instance_mosaic(s.image, s.labels)

# %% tags=["hide-input"]
caption = f"The same frozen model on micrographs of particles. {note}"
alt = "Two micrographs; beside each the predictor's blue mask, the mask generator's instances and the true particles."
page.figure(plots.panels(pictures, columns=4), "zero-shot-particles", caption, alt, runs=[frozen])

# %% tags=["hide-input"]
marked = [100 * predict_foreground(sam, s.image, autocast=autocast).mean() for s in particles]
covered = [100 * s.foreground.mean() for s in particles]
pairs = [
    f"{m:.0f} % of the {place} image, where particles cover {c:.0f} %"
    for place, m, c in zip(("first", "second"), marked, covered)
]
page.say(f"The predictor marks {', and '.join(pairs)}.")

# %% [markdown]
# ## Measured
#
# Every test image of this edition was given to the frozen model; here are the same metrics on the six scenes.

# %% tags=["hide-input"]
of_particles = dict(tuple(frozen.per_image.groupby("evaluator")))
of_scenes = evaluate(sam, described, config.evaluate, settings, autocast=autocast)
rows = report.compare({"scenes": of_scenes, "particles": of_particles})
caption = "The frozen model on describable scenes and on the test images of this edition, with 95 % intervals."
alt = "Means and intervals of each metric, scenes and particles in two colours."
page.figure(charts.interval_chart(rows, "%"), "zero-shot-metrics", caption, alt, runs=[frozen], data=rows)

# %% tags=["hide-input"]
means = rows.pivot(index="metric", columns="series", values="mean")
lead = (means["scenes"] - means["particles"]).dropna().sort_values()
page.say(
    f"The {len(described)} scenes score higher than the particles in {(lead > 0).sum()} of {len(lead)} metrics. "
    "So few cannot decide it. The lead of the scenes over "
    f"the particles runs from {lead.iloc[0]:+.1f} points in *{lead.index[0]}* to {lead.iloc[-1]:+.1f} in "
    f"*{lead.index[-1]}*."
)

# %% [markdown]
# Where there is a gap, there are several ways to go at it: better prompts, an encoder that has learnt what a particle
# looks like, or a decoder that reads the same features in another way. The study chose the encoder, with
# [LoRA](lora_layer.ipynb); [another page](rivals.ipynb) tries more of them.
