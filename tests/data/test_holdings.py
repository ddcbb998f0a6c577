"""What a part holds, counted by hand."""

import numpy as np

from lorasam_core.data.holdings import holdings
from lorasam_core.data.sample import Sample


def sample(name, blocks, shape=(10, 20), pixel_size=None):
    """A micrograph with `blocks` particles of ten pixels each."""
    labels = np.zeros(shape, np.int32)
    for k in range(blocks):
        labels[k, :10] = 3 * k + 1
    return Sample(np.zeros(shape, np.uint8), labels, name, name, pixel_size)


def test_particles_cover_sides_and_scales_of_each_part():
    train = [sample("a", 1), sample("b", 4, pixel_size=2.0), sample("c", 9, shape=(40, 10))]
    table = holdings({"train": train, "test": [sample("d", 0)]}).set_index("part")
    assert table.loc["train"].to_dict() == {
        "particles": "14", "particles an image": "4 (1 to 9)", "covered by them, %": "20 (5 to 22)",
        "longer side, pixels": "20 (20 to 40)", "images with a scale": "1",
    }  # fmt: skip
    assert table.loc["test", "particles an image"] == "0 (0 to 0)" and table.loc["test", "images with a scale"] == "0"
