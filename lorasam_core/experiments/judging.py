"""What a finished model is worth: on the run's test images, on other data, and with less of its adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam

from lorasam_core.config import RunConfig
from lorasam_core.data import DataError, SampleSet
from lorasam_core.data.sample import Sample
from lorasam_core.experiments.baselines import Segmenter
from lorasam_core.masks import generator as mask_generator
from lorasam_core.measure import evaluation
from lorasam_core.models import devices
from lorasam_core.models.lora import adapter_state
from lorasam_core.models.lora.spectrum import effective_rank, norm, rank_of_energy, singular_values, truncate

EMPTY = pd.DataFrame(columns=["evaluator", "id", "group"])  # of `evaluate`, where nothing is asked
USED_WHOLE = 20  # images of a data set that a model is transferred to

logger = logging.getLogger(__name__)


def test_images(data: SampleSet, config: RunConfig) -> list[Sample]:
    """The test images that the settings allow, spread over the specimens."""
    count = min(len(data), config.test_limit or len(data))
    return [data[int(i)] for i in np.linspace(0, len(data) - 1, count).round()]


def transfer(
    judged: Sam | Segmenter, config: RunConfig, device: str, folder: Path,
    load: Callable[[str, int, int | None], SampleSet], taught: SampleSet,
) -> dict[str, Any]:  # fmt: skip
    """transfer: {data set: {evaluator: summary}} of the data sets that the settings name, or why one was left out; the
    rows of their images, with a column `data`, go to transfer.csv. A small set is used whole, unless the model was
    trained on it; else its test part.
    load: gives the data set of a name, a seed of its split and a limit. taught: the set that the model was trained on.
    """
    if not config.transfer:
        return {}
    summaries: dict[str, Any] = {}
    tables = []
    for name in config.transfer:
        try:
            data = load(name, config.split_seed, None)
        except (DataError, OSError) as error:
            summaries[name] = f"left out: {error}"
            logger.warning("transfer to %s is left out: %s", name, error)
            continue
        whole = len(data) <= USED_WHOLE and data.fingerprint != taught.fingerprint
        images = data if whole else data.subset("test")
        summaries[name], rows = evaluate(judged, images, config, device)
        tables.append(rows.assign(data=name))
    if tables:
        pd.concat(tables).to_csv(folder / "transfer.csv", index=False)
    return {"transfer": summaries}


def adapter_measures(sam: Sam, test: SampleSet, config: RunConfig, device: str) -> dict[str, Any]:
    """spectrum: norm, effective rank and ranks of 90 and 99 % of the energy of every learnt matrix; truncated: the
    predictor's Dice of the adapter cut down to each rank that the settings name. The adapter is whole again after it.
    """
    spectrum = []
    for name, values in singular_values(sam).items():
        ranks = {f"rank_{round(100 * share)}": rank_of_energy(values, share) for share in (0.9, 0.99)}
        spectrum.append({"matrix": name, "norm": norm(values), "effective_rank": effective_rank(values)} | ranks)
    truncated = {}
    whole = {name: tensor.detach().clone() for name, tensor in adapter_state(sam).items()}
    for rank in config.truncate:
        truncate(sam, rank)
        asked = config.replace(evaluate=("predictor",))
        truncated[str(rank)] = evaluate(sam, test, asked, device)[0]["predictor"]["dice"]
        with torch.no_grad():
            for name, tensor in adapter_state(sam).items():
                tensor.copy_(whole[name])
    return {"spectrum": spectrum} | ({"truncated": truncated} if truncated else {})


def evaluate(
    judged: Sam | Segmenter, test: SampleSet, config: RunConfig, device: str,
    details: dict[str, list[dict[str, Any]]] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:  # fmt: skip
    """Every evaluator that the settings name on the test images: ({evaluator: summary}, one row each and image).

    judged: a model, or what makes an instance image of an image. details: as `evaluation.evaluate` fills them.
    """
    samples = test_images(test, config)
    settings = mask_generator.STUDY_SETTINGS if config.generator == "study" else mask_generator.QUICK_SETTINGS
    autocast = partial(devices.autocast, config.precision, device)
    if isinstance(judged, Sam):
        # the guided generator's threshold is chosen on validation images, which this has not: `filters.guided`
        asked = [name for name in config.evaluate if name != "guided"]
        tables = evaluation.evaluate(judged, samples, asked, settings, autocast=autocast, details=details)
    else:
        found = evaluation.evaluate_segmenter(judged, samples, details)
        tables = {name: rows for name, rows in found.items() if name in config.evaluate}
    summaries = {}
    for name, rows in tables.items():
        summaries[name] = evaluation.summarize(rows)
        logger.info("%s: %s", name, {k: round(v["mean"], 4) for k, v in summaries[name].items()})
        rows.insert(0, "evaluator", name)
    return summaries, pd.concat([EMPTY, *tables.values()], ignore_index=True)
