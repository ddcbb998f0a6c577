"""The virtual set: item i depends on (seed, i) and nothing else."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from lorasam_core.data.sample import Sample
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.data.windows import sliding_windows

SHAPES = ((70, 90), (64, 64), (130, 64))


def make_samples(shapes=SHAPES):
    rng = np.random.default_rng(1)
    return [
        Sample(rng.integers(0, 256, s, np.uint8), rng.integers(0, 5, s).astype(np.int32), f"s{k}", f"g{k}")
        for k, s in enumerate(shapes)
    ]


def digest(item) -> str:
    return hashlib.sha256(item[0].tobytes() + item[1].tobytes()).hexdigest()


def all_digests() -> list[str]:
    """Used by the other process below as well."""
    data = VirtualSet(make_samples(), size=20, seed=3, crop_size=64)
    return [digest(data[i]) for i in range(len(data))]


def test_order_does_not_matter():
    data = VirtualSet(make_samples(), size=20, seed=3, crop_size=64)
    order = np.random.default_rng(0).permutation(20)
    seen = {i: digest(data[i]) for i in order}
    assert [seen[i] for i in range(20)] == all_digests()


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_count_does_not_matter(workers):
    data = VirtualSet(make_samples(), size=20, seed=3, crop_size=64)
    loader = pytest.importorskip("torch.utils.data").DataLoader(data, batch_size=None, num_workers=workers)
    assert [hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest() for x, y in loader] == all_digests()


def test_process_does_not_matter():
    code = "import runpy, sys; print(*runpy.run_path(sys.argv[1])['all_digests']())"
    other = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert other.stdout.split() == all_digests()


def test_the_wide_augmentation_shows_other_scales_and_is_as_repeatable():
    study, wide, again = (VirtualSet(make_samples(), 60, 0, 64, kind) for kind in ("study", "wide", "wide"))
    assert [digest(wide[i]) for i in range(60)] == [digest(again[i]) for i in range(60)]
    assert all(wide[i][0].shape == study[i][0].shape for i in range(60))
    shares = [[np.mean(data[i][1] > 0) for i in range(60)] for data in (study, wide)]
    assert np.std(shares[1]) > np.std(shares[0])
    with pytest.raises(ValueError, match="augmentation is 'tall'; choose one of study, wide"):
        VirtualSet(make_samples(), augmentation="tall")


def test_seed_and_index_matter():
    samples = make_samples()
    first, second = VirtualSet(samples, seed=0, crop_size=64), VirtualSet(samples, seed=1, crop_size=64)
    assert digest(first[0]) != digest(second[0])
    assert len({digest(first[i]) for i in range(len(first))}) == len(first) == 24 * 3


def test_shapes_and_types():
    for i, (image, labels) in enumerate(VirtualSet(make_samples(((40, 90), (90, 90))), size=4, crop_size=64)):
        side = 40 if i % 2 == 0 else 64
        assert image.shape == labels.shape == (side, side)
        assert image.dtype == np.uint8 and labels.dtype == np.int32


def test_every_image_gets_as_many_views():
    """The study's number: 5,820 items of 243 images."""
    tiny = make_samples(((8, 8),)) * 243
    data = VirtualSet(tiny, size=5820)
    assert len(data) == 5820 == 83 * 20 + 160 * 26
    counts = np.bincount([data.parent(i) for i in range(len(data))])
    assert len(counts) == 243 and set(counts) == {23, 24}


def test_a_crop_shows_its_parent_alone():
    """Image k is all instance k: so is whatever is cropped from it."""
    grey, shape = np.zeros((50, 60), np.uint8), (50, 60)
    samples = [Sample(grey, np.full(shape, k, np.int32), str(k), str(k)) for k in range(5)]
    data = VirtualSet(samples, crop_size=32)
    for i in range(len(data)):
        assert set(np.unique(data[i][1])) == {data.parent(i)}


def test_windows_reach_every_corner():
    """Over the views of one long image the crops see its first and its last particle."""
    labels = np.zeros((64, 400), np.int32)
    labels[:, :20], labels[:, -20:] = 1, 2
    data = VirtualSet([Sample(np.zeros((64, 400), np.uint8), labels, "a", "a")], size=24, crop_size=64)
    seen = set().union(*(set(np.unique(data[i][1])) for i in range(len(data))))
    assert seen == {0, 1, 2}


def windows_seen(shape, samples=1, size=None, crop_size=512):
    """The windows that each image's views show, in turn, and all windows of an image of this shape."""
    data = VirtualSet(make_samples(((8, 8),)) * samples, size, crop_size=crop_size)
    every = sliding_windows(shape, crop_size)
    shown = [[data.window(i, shape) for i in range(k, len(data), samples)] for k in range(samples)]
    assert all(set(windows) <= set(every) for windows in shown)
    return shown, every


@pytest.mark.parametrize("shape", [(3072, 4096), (4096, 3072)])
def test_few_views_of_a_large_image_are_spread_over_it(shape):
    shown, every = windows_seen(shape, samples=2)
    assert len(every) == 88 and [len(set(windows)) for windows in shown] == [24, 24]
    assert all({window[0] for window in windows} == {window[0] for window in every} for windows in shown)
    # an even step of 88 / 24 windows would show three of the eleven columns
    assert {window[1] for windows in shown for window in windows} == {window[1] for window in every}


@pytest.mark.parametrize(("shape", "size"), [((768, 1024), None), ((3072, 4096), 2 * 88), ((768, 1024), 13)])
def test_an_image_with_no_more_windows_than_views_shows_them_in_turn(shape, size):
    shown, every = windows_seen(shape, samples=2, size=size)
    for windows in shown:
        assert windows == [every[view % len(every)] for view in range(len(windows))]


def test_bad_values():
    with pytest.raises(ValueError, match="no training image"):
        VirtualSet([])
    for bad in ({"size": 0}, {"crop_size": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            VirtualSet(make_samples(), **bad)
    with pytest.raises(IndexError):
        VirtualSet(make_samples(), size=3)[3]
