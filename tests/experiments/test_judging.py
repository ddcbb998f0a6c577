"""Which images a trained model is judged on, with stand-ins for the data and for what judges."""

from __future__ import annotations

import pandas as pd
import pytest

from lorasam_core.config import RunConfig
from lorasam_core.data import SampleSet, split_by_group
from lorasam_core.experiments import judging


def image_set(name: str, count: int, contents: str) -> SampleSet:
    """A set of images that are never read."""
    groups = {f"{name}-{k}": f"{name}-{k}" for k in range(count)}
    return SampleSet(name, name, groups, load=None, split=split_by_group(groups), fingerprint=contents)


@pytest.mark.parametrize(
    ("count", "contents", "whole"),
    [(20, "others", True), (12, "others", True), (21, "others", False), (12, "the training's", False)],
)
def test_a_small_set_is_used_whole_unless_it_was_trained_on(tmp_path, monkeypatch, count, contents, whole):
    asked = []

    def evaluate(judged, images, config, device):
        asked.append(images.ids)
        return {}, pd.DataFrame({"id": images.ids})

    monkeypatch.setattr(judging, "evaluate", evaluate)
    taught, other = image_set("taught", 12, "the training's"), image_set("other", count, contents)
    config = RunConfig(transfer=("other",))
    judging.transfer(None, config, "cpu", tmp_path, lambda name, seed, limit: other, taught)
    assert asked == [other.ids if whole else other.subset("test").ids]
    assert pd.read_csv(tmp_path / "transfer.csv")["id"].tolist() == list(asked[0])
