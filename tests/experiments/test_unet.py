"""The U-Net: its input is SAM's, it learns discs, and a run of it is a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorasam_core.config import RunConfig
from lorasam_core.experiments import unet
from lorasam_core.measure import metrics
from lorasam_core.models.lite import build_lite
from tests.disc_set import disc_set
from tests.tiny_sam import tiny_sam


@pytest.fixture
def net():
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    return unet.UNet(tiny_sam()).eval()


def test_padding_is_zero_after_normalisation(net):
    seen = []
    net.net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    assert net(image, [(40, 64)]).shape == (1, 1, 64, 64)
    sam = tiny_sam()
    expected = sam.preprocess(image[:, :, :40].float())
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("shape", [(30, 64), (100, 70), (64, 64, 3)])
def test_masks_have_the_images_size(net, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert net.answer(image).shape == (1, *shape[:2])
    assert np.array_equal(net.foreground(image), net.answer(image)[0] > 0)


def test_a_base_with_a_stem_lends_it():
    """Its features of every stride, in the places where the decoder expects them, at the start those of the base."""
    pytest.importorskip("segmentation_models_pytorch")
    sam = build_lite(64)
    net = unet.UNet(sam, distances=True).eval()
    seen = []
    net.net.decoder.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(images, [(64, 64), (64, 64)]).shape == (2, 2, 64, 64)
        features = sam.image_encoder.stem((images.float() - 127) / 128)
    assert [f.shape[-1] for f in seen] == [64, 32, 16, 8, 4, 2]
    for stride, feature in zip((4, 8, 16, 32), seen[2:]):
        torch.testing.assert_close(feature, features[stride])
    stem = sam.image_encoder.stem.state_dict()
    before = stem["first.weight"].clone()
    net.net.stem.first.weight.data.zero_()
    assert torch.equal(stem["first.weight"], before)  # a copy


def test_distances_to_the_rim_of_a_square_and_of_its_neighbour():
    labels = np.zeros((9, 14), np.int32)
    labels[1:8, 1:8], labels[1:8, 8:13] = 3, 5  # they touch
    found = unet.rim_distance(labels)
    expected = np.zeros((9, 14))
    for depth in (1, 2, 3):
        expected[1 + depth : 8 - depth, 1 + depth : 8 - depth] = depth / 3
    for depth in (1, 2):
        expected[1 + depth : 8 - depth, 8 + depth : 13 - depth] = depth / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not unet.rim_distance(np.zeros((3, 4), np.int32)).any()


def test_touching_squares_grow_from_their_own_seeds():
    labels = np.zeros((9, 17), np.int32)
    labels[1:8, 1:8], labels[1:8, 8:15] = 1, 2
    labels[0, 16] = 3  # too thin for a seed
    distance = unet.rim_distance(labels)
    answer = np.stack([np.where(labels > 0, 5.0, -5.0), np.log((distance + 1e-6) / (1 - distance + 1e-6))])
    found = unet.grown(answer, 0.5)
    assert metrics.f1(found, labels) == 1 and np.array_equal(found > 0, labels > 0)
    assert unet.grown(-answer - 9, 0.5).max() == 0


@pytest.mark.slow
def test_it_learns_discs_and_keeps_its_best_state(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    data = disc_set(4, 2)
    config = RunConfig(
        method="unet", steps=60, batch_size=4, learning_rate=1e-2, crop_size=64, device="cpu", precision="32-true"
    )
    net, found = unet.train_unet(tiny_sam(), data.subset("train"), data.subset("val"), config, tmp_path, (), True)
    assert found["val"]["dice"] > 0.8 and found["trainable_parameters"] > 10**7
    files = {"config.json", "history.csv", "weights.safetensors", "checkpoint.pt"}
    assert {path.name for path in tmp_path.iterdir()} == files
    scores = [metrics.dice(net.foreground(s.image), s.labels > 0) for s in data.subset("val")]
    assert np.mean(scores) == pytest.approx(found["val"]["dice"], abs=1e-6)
    learnt = [
        np.corrcoef(net.answer(s.image)[1][s.labels > 0], unet.rim_distance(s.labels)[s.labels > 0])[0, 1]
        for s in data.subset("val")
    ]
    assert min(learnt) > 0.5
