"""The report's front door: what notebooks, book and README show of an edition. Imports no torch.

`Page` saves and shows figures and tables; this module adds the landing page's fragments, the README's table and the
pictures that a machine can show.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lorasam_core import stats
from lorasam_core.config import RunConfig
from lorasam_core.experiments.profiles import configs, edition_name, load_profile
from lorasam_core.experiments.records import Edition, Record, published_editions, root
from lorasam_core.experiments.study import REPORTED, STUDY
from lorasam_core.report.figures import Page, banner, figure_markdown, output_folder, table_markdown
from lorasam_core.report.numbers import fill

__all__ = [
    "REPORTED", "STUDY", "Page", "adapted_runs", "banner", "edition_facts", "edition_folder", "findings", "frozen_runs",
    "instance_measures", "load_base", "main_config", "main_table", "output_folder", "picture_samples", "picture_set",
    "run_table", "update_readme", "write_fragments",
]  # fmt: skip

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
MAIN_PICTURE = "main-picture"
INTERVALS = (
    "Means over test images, adapted over seeds too, with bootstrap 95 % intervals over groups, which reflect image "
    "sampling, not seed variance. Gains are paired on the same images. The verdict counts what seeds may do as well."
)
GENERATED = "Generated particles."
STAND_IN = "Generated particles stand in, because this edition's own images are not on this machine."
OTHER_EDITION = "The published edition `{}`, which is not the one in this table, has shown:\n\n"
MEASURES = {  # of the table of scores, as they are called in tables
    "predictor dice": "predictor: Dice",
    "predictor iou": "predictor: IoU",
    "predictor accuracy": "predictor: pixel accuracy",
    "point iou_rated": "point prompt: IoU, mask the model rates best",
    "point iou_best": "point prompt: IoU, best of three masks",
    "box iou_rated": "box prompt: IoU",
    "exact_box iou_rated": "exact box prompt: IoU",
    "generator dice": "mask generator: Dice of the union",
    "generator ap50": "mask generator: AP50",
    "generator ap": "mask generator: AP",
    "generator f1": "mask generator: F1 at IoU 0.5",
    "generator pq": "mask generator: PQ",
    "generator_tuned f1": "mask generator, thresholds by validation: F1 at IoU 0.5",
    "guided ap50": "guided generator: AP50",
    "guided f1": "guided generator, threshold by validation: F1 at IoU 0.5",
    "guided recall": "guided generator, before its threshold: recall at IoU 0.5",
    "guided d50_error": "guided generator, threshold by validation: error of D50",
}
HEADLINE = (  # of these, what the first page shows
    "predictor dice", "box iou_rated", "point iou_rated", "guided ap50", "guided f1", "guided d50_error",
)  # fmt: skip
UNGUIDED = (*HEADLINE[:3], "generator ap50", "generator f1", "generator_tuned f1")  # of an edition without it
# what is measured beside the result, or where and how a run is done: no difference between seeds
ASIDE: dict[str, Any] = {
    "name": "-", "seed": 0, "evaluate": ("predictor",), "truncate": (), "transfer": (), "filters": 0,
    "device": "auto", "workers": None, "checkpointing": False, "compile": False,
}  # fmt: skip


def edition_folder(profile: str, edition: str | Path = "", data: str = "") -> Path:
    """The folder of an edition's runs: `edition` where it is given, else runs/<profile>; relative to the repository."""
    if edition:
        return root() / edition
    return root() / "runs" / edition_name(load_profile(profile), data)


def main_config(edition: Edition) -> RunConfig:
    """Settings of the main run: of its record, or of the profile where it has not been done."""
    try:
        return adapted_runs(edition)[0].config
    except ValueError:
        table = configs(load_profile(edition.info.get("profile", "quick")), data=str(edition.info.get("data", "")))
        return next(c for runs in table.values() for c in reversed(runs) if c.method == "lora")


def adapted_runs(edition: Edition, experiment: str = "main") -> list[Record]:
    """The main configuration's adapted runs, one a seed; without such an experiment, the adapted run tested most."""
    if experiment in edition.experiments:
        runs = [r for r in edition.experiment(experiment) if r.config.method == "lora"]
        if runs:
            return [r for r in runs if training_of(r) == training_of(runs[0])]
    lora = [r for r in edition.records if r.config.method == "lora"]
    if not lora:
        raise ValueError(f"the edition {edition.name} has no adapted run; run its experiments first.")
    return [max(lora, key=lambda r: len(r.config.evaluate))]


def training_of(record: Record) -> RunConfig:
    """What was trained: equal for the seeds of one configuration, whatever else was measured of some of them."""
    return record.config.replace(**ASIDE)


def frozen_runs(edition: Edition) -> list[Record]:
    """The frozen model's run on the data and the test images of the main configuration (an empty list: none)."""
    wanted = adapted_runs(edition)[0].config
    same = ("data", "limit", "split_seed", "model", "image_size", "test_limit", "generator")
    runs = [r for r in edition.records if r.config.method == "frozen"]
    runs = [r for r in runs if all(getattr(r.config, f) == getattr(wanted, f) for f in same)]
    return sorted(runs, key=lambda r: -len(r.config.evaluate))[:1]


def instance_measures(edition: Edition) -> dict[str, str]:
    """The measures by which single particles are judged, with what they are called: those of the guided generator
    where the edition asked it, else of the mask generator.
    """
    by = ("guided", "guided") if "guided f1" in set(edition.scores["measure"]) else ("generator", "generator_tuned")
    return {f"{by[0]} ap50": "AP50", f"{by[1]} f1": "F1, thresholds by validation"}


def main_table(edition: Edition) -> pd.DataFrame:
    """Frozen against adapted, a row a measure of HEADLINE: %, the paired gain on the same test images, the verdict."""
    sides = dict.fromkeys((r.run_id for r in frozen_runs(edition)), "frozen")
    sides |= dict.fromkeys((r.run_id for r in adapted_runs(edition)), "adapted")
    scores, rows = edition.scores.assign(side=edition.scores["run"].map(sides)).dropna(subset="side"), []
    for measure in HEADLINE if "guided f1" in set(scores["measure"]) else UNGUIDED:
        part = scores[scores["measure"] == measure]
        if part["side"].nunique() == 2:
            found = stats.compared(part, "side", "frozen", "adapted", ["frozen"]).set_index("side")
            change = found.loc["adapted", ["difference, points", "verdict"]]
            rows.append([MEASURES[measure], *found.loc[["frozen", "adapted"], "mean, %"], *change])
    return pd.DataFrame(rows, columns=["metric, %", "frozen", "adapted", "gain, points", "verdict"])


def run_table(edition: Edition) -> pd.DataFrame:
    """Every run of the edition: id, the experiments it stands in, steps, seconds, images a second, peak memory."""
    listed = edition.runs.assign(place=edition.runs["experiment"] + ": " + edition.runs["name"])
    places, metrics = listed.groupby("run")["place"].agg("; ".join), {r.run_id: r.metrics for r in edition.records}
    table = pd.DataFrame({"run": list(metrics)})
    table["in"] = table["run"].map(places)
    columns = {"steps": "{:,.0f}", "seconds": "{:,.0f}", "images_per_s": "{:.1f}", "peak_memory_mb": "{:,.0f}"}
    for column, form in columns.items():
        table[column] = [form.format(values.get(column) or 0) for values in metrics.values()]
    return table.rename(columns={"images_per_s": "images a second", "peak_memory_mb": "peak memory, MB"})


def load_base(config: RunConfig, device: str = "cpu") -> Any:
    """The base model of a run, to draw pictures with; where it no longer exists, what took its place."""
    from lorasam_core.models.sam import REPLACED, load_sam

    return load_sam(REPLACED.get(config.model, config.model), config.checkpoint, config.image_size, device)


def picture_set(edition: Edition) -> tuple[Any, str]:
    """(SampleSet to draw from, a sentence on what it is): the edition's data, or generated particles in their stead.

    An edition whose data are not on this machine and cannot be fetched falls back, and the sentence says so.
    """
    from lorasam_core.data import load_dataset

    config = main_config(edition)
    try:
        samples = load_dataset(config.data, seed=config.split_seed, limit=config.limit)
    except (OSError, ValueError):
        return load_dataset("synthetic", limit=30), STAND_IN
    return samples, GENERATED if config.data == "synthetic" else f"Images: {samples.name}."


def picture_samples(
    edition: Edition, part: str = "test", ids: Sequence[str] | None = None, count: int = 12
) -> tuple[list[Any], str]:
    """(Samples, the sentence of `picture_set`): the images `ids` in this order, else `count` spread over a part.

    Stand-ins for images that are not here are as many others.
    """
    whole, note = picture_set(edition)
    if ids is not None and set(ids) <= set(whole.ids):
        return [whole[whole.ids.index(i)] for i in ids], note
    samples = whole.subset(part)
    places = np.linspace(0, len(samples) - 1, min(len(ids) if ids is not None else count, len(samples)))
    return [samples[int(i)] for i in places.round()], note


def edition_facts(edition: Edition) -> pd.DataFrame:
    """What an edition was made with, as two columns of text: profile, model, data, device, dates, versions, time."""
    info = edition.info
    images = info.get("images") or {}
    packages = info.get("packages") or {}
    seconds = sum(float(r.environment.get("wall_seconds") or r.metrics.get("seconds") or 0) for r in edition.records)
    facts = {
        "edition": edition.name,
        "profile": info.get("profile"),
        "model": f"{info.get('model')}, base SHA-256 {info.get('base_hash')}",
        "data": info.get("data_name", info.get("data")),
        "images": ", ".join(f"{n} {part}" for part, n in images.items()),
        "data fingerprint": info.get("data_fingerprint"),
        "split": info.get("split_hash"),
        "notes on the data": " ".join(info.get("data_notes") or []),
        "taken over": info.get("taken"),
        "device": edition.devices(counted=True),
        "precision": ", ".join(dict.fromkeys(r.config.precision for r in edition.records)) or info.get("precision"),
        "threads": ", ".join(edition.environments("threads")) or info.get("threads"),
        "made": info.get("created"),
        "last run": info.get("updated"),
        "code": ", ".join(edition.environments("commit")) or info.get("commit"),
        "result version": info.get("result_version"),
        "software": ", ".join(f"{k} {v}" for k, v in {"python": info.get("python"), **packages}.items() if v),
        "not run": "; ".join(f"{name}: {', '.join(runs)}" for name, runs in info.get("left_out", {}).items() if runs),
        "runs": f"{len(edition.records)} in {seconds / 60:.1f} minutes of wall time in all",
    }
    rows = [(key, str(value)) for key, value in facts.items() if value not in (None, "")]
    return pd.DataFrame(rows, columns=["what", "this edition"])


def write_fragments(edition: Edition, out_dir: str | Path) -> list[Path]:
    """landing.md and edition.md for the book's pages to include; figures/ and tables/ they link are copied beside them.

    out_dir must lie directly in the book's source folder: links start at its root. Returns the files written.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("figures", "tables"):
        if (output_folder(edition) / kind).is_dir():
            shutil.copytree(output_folder(edition) / kind, out / kind, dirs_exist_ok=True)
    caption = f"Frozen and adapted `{main_config(edition).model}` on the test images. {INTERVALS}"
    table = table_markdown(main_table(edition), caption, "tab-landing")
    landing = [_main_picture(out), table, "", findings(edition), banner(edition)]
    runs = run_table(edition)
    (out / "tables").mkdir(exist_ok=True)
    runs.to_csv(out / "tables" / "edition-runs.csv", index=False)
    facts = [
        table_markdown(edition_facts(edition), "What this edition was made with", "tab-edition"), "",
        table_markdown(runs, "Its runs; the id is a hash of all that decides a result", "tab-edition-runs"), "",
        f"{{download}}`data (CSV) </{out.name}/tables/edition-runs.csv>`",
    ]  # fmt: skip
    return [_write(out / "landing.md", landing), _write(out / "edition.md", facts)]


def findings(edition: Edition) -> str:
    """What a person wrote of the published edition (book/_written/findings.md), filled; another edition says so."""
    published = published_editions()
    text = (root() / "book" / "_written" / "findings.md").read_text(encoding="utf-8")
    if not published:
        return ""
    filled = fill(text, published[0])
    if edition.name == published[0].name and edition.published:
        return filled
    return OTHER_EDITION.format(published[0].name) + filled


def update_readme(edition: Edition, readme_path: str | Path) -> None:
    """Put the main table, with edition and caveats, between the README's markers; raises ValueError without them."""
    path = Path(readme_path)
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} must hold {BEGIN} and, after it, {END} once each; add the two lines.")
    table = table_markdown(main_table(edition), "", "")
    block = f"{banner(edition)}\n\n{table}\n\n{INTERVALS}\n\n{findings(edition)}"
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    path.write_text(f"{before}\n{block}{after}", encoding="utf-8")


def _main_picture(out: Path) -> str:
    """The figure of the picture that the main run's notebook saved; where there is none, that of the README."""
    picture = out / "figures" / f"{MAIN_PICTURE}.png"
    if picture.is_file():
        about = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        source, alt, caption = f"/{out.name}/figures/{picture.name}", about["alt"], about["caption"]
    else:
        source, alt = "/_static/overview.png", "Images, the masks of the frozen model, and the masks after adapting it."
        caption = "Generated particles, the masks of the frozen model, and those of the adapted one."
    return figure_markdown(source, "fig-landing", alt, caption) + "```\n"


def _write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
