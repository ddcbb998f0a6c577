"""What `lorasam segment` asks of a model: how its adapter says it is to be used, and what is painted on what."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lorasam_core.masks.segmenter import TILE, Segmenter
from lorasam_core.models.lora import LoRAConfig, add_lora, read_adapter, save_adapter
from lorasam_core.models.lora.files import SHIPPED
from lorasam_core.models.sam import load_sam

USE = {"crop_size": 320, "diameter": 40.0, "guided": {"points_per_side": 5, "score_thresh": 0.2}}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    sam = add_lora(load_sam("lite", image_size=128), LoRAConfig(rank=2))
    path = tmp_path_factory.mktemp("adapter") / "own.safetensors"
    save_adapter(sam, path, segment=USE)
    return path


def test_an_adapter_says_how_it_is_used(adapter):
    segment = Segmenter(str(adapter), device="cpu")
    assert (segment.side, segment.image_size) == (320, 128)
    assert segment.described["settings"]["points_per_side"] == 5
    assert segment.described["settings"]["score_thresh"] == 0.2
    assert Segmenter(str(adapter), device="cpu", score_thresh=0.6).described["settings"]["score_thresh"] == 0.6
    json.dumps(segment.described)


def test_tiles_show_particles_as_large_as_they_were_in_training(adapter):
    assert Segmenter(str(adapter), device="cpu", diameter=100).side == 320  # 100 pixels of the image: 40 of the model
    assert Segmenter(str(adapter), device="cpu", diameter=50).side == 160
    assert Segmenter(str(adapter), device="cpu", tile=200).side == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "best"}, "guided, exact"),
        ({"tile": 20}, "at least 64"),
        ({"diameter": 30.0}, "does not say how large its particles were; give tile"),
        ({"adapter": "nowhere"}, "nowhere is no adapter; give a file"),
        ({"point": 3}, "'point' is no setting"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(device="cpu", **options)


def test_the_better_score_is_on_top_and_specks_are_gone():
    segment = Segmenter(device="cpu")
    masks = np.zeros((3, 80, 90), bool)
    masks[0, 10:40, 10:40], masks[0, 70, 80] = True, True  # with a speck far away
    masks[1, 20:60, 20:60], masks[1, 40:42, 50:52] = True, False  # with a hole
    masks[2, 22:30, 22:30] = True  # under both
    scores = (0.9, 0.7, 0.3)

    class Stub:
        def generate(self, image):
            rows = zip(masks, scores)
            return [
                {"segmentation": m, "area": int(m.sum()), "predicted_iou": s, "stability_score": 1.0} for m, s in rows
            ]

    segment._generator = Stub()
    found = segment(np.zeros((80, 90), np.uint8))
    expected = np.zeros((80, 90), int)
    expected[20:60, 20:60] = 2
    expected[10:40, 10:40] = 1
    assert np.array_equal(found.labels, expected)
    assert found.scores[:, 0].tolist() == [0.9, 0.7]


def test_the_adapter_that_ships_fits_the_base_that_ships():
    path = SHIPPED / "emps.safetensors"
    metadata, _ = read_adapter(path)
    segment = Segmenter("emps", device="cpu")
    assert segment.side == TILE == metadata["segment"]["crop_size"]
    assert metadata["card"]["images"] == 285 and 10 < metadata["segment"]["diameter"] < 100
    assert path.stat().st_size < 2**20
