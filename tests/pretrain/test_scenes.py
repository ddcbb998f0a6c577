"""Scenes of describable objects: exact nested masks, and nothing like a micrograph of particles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from skimage.draw import polygon2mask
from skimage.filters import sobel
from skimage.measure import euler_number, regionprops
from skimage.segmentation import find_boundaries

from lorasam_core.data.particles import generate
from pretrain import outlines, shapes
from pretrain.scenes import MAX_MASKS, MIN_AREA, MIN_MASKS, Scene, coverage, generate_scene

SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(11, index, size=256) for index in range(90)]


def ancestors(scene: Scene, i: int) -> set[int]:
    found: set[int] = set()
    while scene.parents[i] >= 0:
        i = int(scene.parents[i])
        found.add(i)
    return found


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, index=SEEDS, size=st.sampled_from([64, 97, 128]))
def test_a_scene_is_a_function_of_its_arguments(seed: int, index: int, size: int) -> None:
    first, again, other = (generate_scene(seed, i, size) for i in (index, index, index + 1))
    for field in ("image", "masks", "levels", "parents"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.image, other.image)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, index=SEEDS, size=st.sampled_from([64, 97, 128, 256]))
def test_masks_are_nested_by_parent_and_disjoint_otherwise(seed: int, index: int, size: int) -> None:
    scene = generate_scene(seed, index, size)
    n = len(scene.masks)
    assert MIN_MASKS <= n <= MAX_MASKS
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert scene.masks.shape == (n, size, size) and scene.masks.dtype == bool
    assert (scene.levels.shape, scene.levels.dtype) == ((n,), np.int8)
    assert (scene.parents.shape, scene.parents.dtype) == ((n,), np.int32)
    assert scene.masks.sum(axis=(1, 2)).min() >= MIN_AREA
    assert scene.masks.view(np.uint8).max() == 1
    lines = [ancestors(scene, i) for i in range(n)]
    for i in range(n):
        assert scene.levels[i] == len(lines[i]) <= 2
        assert all(j < i for j in lines[i])
        for j in range(i):
            shared = np.count_nonzero(scene.masks[i] & scene.masks[j])
            assert shared == (scene.masks[i].sum() if j in lines[i] else 0)
            if j in lines[i]:
                assert scene.masks[i].sum() < scene.masks[j].sum()


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 63)])
def test_bad_arguments_are_named(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="start at 0"):
        generate_scene(*arguments)


def test_sizes_levels_and_grey_are_spread_as_promised(scenes: list[Scene]) -> None:
    levels = np.concatenate([scene.levels for scene in scenes])
    assert np.bincount(levels).min() > 0.08 * len(levels)
    wholes = [mask for scene in scenes for mask in scene.masks[scene.levels == 0]]
    extent = np.array([max(np.ptp(np.flatnonzero(m.any(axis=k))) + 1 for k in (0, 1)) for m in wholes])
    octaves = np.histogram(extent, bins=[0, 16, 32, 64, 128, 256])[0] / len(extent)
    assert octaves.min() > 0.05, octaves
    grey = np.mean([(np.ptp(scene.image, axis=2) == 0).all() for scene in scenes])
    assert 0.15 < grey < 0.45  # 0.3, three standard errors of 90 draws
    holed = [euler_number(m) < 1 for s in scenes for m in s.masks]
    assert np.mean(holed) > 0.05


def test_the_picture_has_an_edge_where_a_mask_ends(scenes: list[Scene]) -> None:
    """The labels are drawn apart from the picture: Sobel's gradient along their borders must stand out."""
    stronger = []
    for scene in scenes[:40]:
        edges = np.max([sobel(scene.image[..., c].astype(float)) for c in range(3)], axis=0)
        borders = [find_boundaries(mask) for mask in scene.masks]
        elsewhere = np.median(edges[~np.any(borders, axis=0)])
        stronger += [edges[border].mean() > 1.5 * elsewhere for border in borders]
    assert np.mean(stronger) > 0.85


def describe(regions: list) -> dict[str, float]:
    """What tells a scene from a micrograph of particles with no look at colours or grey values."""
    regions = [region for region in regions if region.area >= 40]
    solidity = np.array([region.solidity for region in regions])
    aspect = np.array([region.axis_minor_length / region.axis_major_length for region in regions])
    return {
        "objects": len(regions),
        "convex and round": float(np.mean((solidity > 0.9) & (aspect > 0.6))),
        "spread of solidity": float(solidity.std()),
        "spread of log size": float(np.log([region.area for region in regions]).std()),
    }


def test_scenes_are_unlike_particles(scenes: list[Scene]) -> None:
    """Few objects of many shapes and sizes against many of one kind, and colour and parts against neither.

    Each figure is the probability that a scene and a micrograph drawn at random are in the stated order.
    """
    ours, theirs = [], []
    for scene in scenes[:40]:
        wholes = [m for m, level in zip(scene.masks, scene.levels, strict=True) if level == 0 and m.sum() >= 40]
        if wholes:
            ours.append(describe([regionprops(m.astype(np.uint8))[0] for m in wholes]))
    for specimen in range(20):
        regions = regionprops(generate(5, 3 * specimen, size=(256, 256)).labels)
        if any(region.area >= 40 for region in regions):
            theirs.append(describe(regions))

    def order(name: str) -> float:
        a, b = [row[name] for row in ours], [row[name] for row in theirs]
        return float(mannwhitneyu(a, b).statistic) / (len(a) * len(b))

    assert order("objects") < 0.1
    assert order("convex and round") < 0.15
    assert order("spread of solidity") > 0.85
    assert order("spread of log size") > 0.75
    parts = np.mean([(scene.levels > 0).any() for scene in scenes])
    colour = np.mean([np.ptp(scene.image.astype(int), axis=2).mean() > 8 for scene in scenes])
    assert parts > 0.75 and colour > 0.5  # a particle micrograph has neither: one level of labels, one channel


def test_objects_differ_in_hue_within_a_scene(scenes: list[Scene]) -> None:
    """Of the coloured scenes, most hold wholes whose mean colours lie far apart."""
    spread = []
    for scene in scenes:
        if np.ptp(scene.image, axis=2).max() > 0 and np.count_nonzero(scene.levels == 0) > 2:
            means = np.array([scene.image[m].mean(axis=0) for m in scene.masks[scene.levels == 0]])
            spread.append(np.linalg.norm(means - means.mean(axis=0), axis=1).mean())
    assert np.median(spread) > 30


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 8))
def test_cells_of_a_mosaic_fill_their_polygon(seed: int, n: int) -> None:
    """Shoelace areas of the cells add up to that of the unit square."""
    cells = shapes.split_convex(np.random.default_rng(seed), outlines.box(0, 0, 1, 1), n)
    after = [np.roll(c, -1, axis=0) for c in cells]
    areas = [abs(np.sum(c[:, 0] * d[:, 1] - c[:, 1] * d[:, 0])) / 2 for c, d in zip(cells, after, strict=True)]
    assert len(cells) == n
    assert sum(areas) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_objects_are_trees_in_drawing_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for item in [shapes.composed(rng), *shapes.touching(rng)]:
        assert item[0].parent == -1
        assert all(0 <= part.parent < i and part.contours for i, part in enumerate(item) if i)
        assert np.isfinite(np.concatenate([p for part in item for p in part.contours])).all()


@settings(max_examples=30, deadline=None)
@given(x=st.floats(10, 50), y=st.floats(10, 50), r=st.floats(5, 30), n=st.integers(3, 12))
def test_coverage_agrees_with_scikit_image(x: float, y: float, r: float, n: int) -> None:
    """Half-covered pixels against skimage's polygon, whose pixel centres lie at whole numbers."""
    polygon = outlines.ellipse(x, y, r, n=n)
    cover = coverage(outlines.Part(-1, (polygon,)), 64)
    assert cover is not None
    mine = np.zeros((64, 64), dtype=bool)
    mine[cover[1]] = cover[0] >= 128
    theirs = polygon2mask((64, 64), polygon[:, ::-1] - 0.5)
    differing, border = np.count_nonzero(mine ^ theirs), np.count_nonzero(find_boundaries(theirs))
    assert differing <= 0.35 * border + 2


def test_holes_are_left_out() -> None:
    ring = outlines.Part(-1, (outlines.ellipse(32, 32, 20),), (outlines.ellipse(32, 32, 10),))
    cover = coverage(ring, 64)
    assert cover is not None and euler_number(cover[0] >= 128) == 0
    assert np.count_nonzero(cover[0] >= 128) == pytest.approx(np.pi * 300, rel=0.04)
