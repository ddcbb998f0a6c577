"""The U-Net: its input is SAM's, it learns discs, and a run of it is a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasam_core.config import RunConfig
from lorasam_core.experiments import unet
from lorasam_core.measure import metrics
from tests.disc_set import disc_set
from tests.tiny_sam import tiny_sam


@pytest.fixture
def net():
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    sam = tiny_sam()
    return unet.UNet(64, sam.pixel_mean, sam.pixel_std).eval()


def test_padding_is_zero_after_normalisation(net):
    seen = []
    net.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    assert net(image, [(40, 64)]).shape == (1, 64, 64)
    sam = tiny_sam()
    expected = sam.preprocess(image[:, :, :40].float())
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("shape", [(30, 64), (100, 70), (64, 64, 3)])
def test_masks_have_the_images_size(net, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = net.segment(image)
    assert found.shape == shape[:2] and found.dtype == np.int32
    assert np.array_equal(found > 0, net.foreground(image))


@pytest.mark.slow
def test_it_learns_discs_and_keeps_its_best_state(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    data = disc_set(4, 2)
    config = RunConfig(
        method="unet", steps=30, batch_size=4, learning_rate=1e-2, crop_size=64, device="cpu", precision="32-true"
    )
    net, found = unet.train_unet(tiny_sam(), data.subset("train"), data.subset("val"), config, tmp_path)
    assert found["val"]["dice"] > 0.8 and found["trainable_parameters"] > 10**7
    files = {"config.json", "history.csv", "weights.safetensors", "checkpoint.pt"}
    assert {path.name for path in tmp_path.iterdir()} == files
    scores = [metrics.dice(net.segment(s.image) > 0, s.labels > 0) for s in data.subset("val")]
    assert np.mean(scores) == pytest.approx(found["val"]["dice"], abs=1e-6)
