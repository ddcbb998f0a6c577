"""What adapting is going to do: settings from the images, and which of them train, choose and measure."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.io import imsave

from lorasam_core.data.sample import DataError
from lorasam_core.experiments.adapt_plan import Held, crop_size, limits, prepare
from tests.adapting import make, plan_of, small_start
from tests.disc_set import disc_sample


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return small_start(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize(
    ("diameters", "longest", "side"),
    [
        ((20, 20, 20), 2048, 256),  # 40 of 512
        ((10, 60, 100), 2048, 320),  # the small ones 16 of 512
        ((2, 60, 200), 2048, 608),  # the large ones a third
        ((3, 4, 5), 2048, 160),
        ((300, 400, 500), 1536, 1536),
        ((30, 40, 50), 96, 96),
    ],
)
def test_the_window_suits_small_and_large_particles(diameters, longest, side):
    assert crop_size(diameters, longest) == side


def test_settings_come_from_the_particles_and_the_number_of_images(tmp_path, start):
    plan = prepare(make(tmp_path / "one", 1, shape=(400, 300)), start=start, device="cpu")
    labels = disc_sample(0, (400, 300)).labels
    areas = [(labels == i).sum() for i in np.unique(labels)[1:]]
    assert plan.diameters == pytest.approx(np.percentile(2 * np.sqrt(np.array(areas) / np.pi), (10, 50, 90)))
    assert plan.config.crop_size == crop_size(plan.diameters, 416)
    assert (plan.config.steps, plan.config.rank, plan.config.image_size, plan.particles) == (60, 2, 128, len(areas))
    assert prepare(make(tmp_path / "five", 5), start=start).config.steps == 200


def test_ten_groups_are_split_and_fewer_cross_validated(tmp_path, start):
    ten = plan_of(make(tmp_path / "ten", 12, groups=[f"g{i % 10}" for i in range(12)]), start)
    parts = [{ten.sets["folder"].groups[i] for i in ids} for ids in
             (ten.train, [h.id for h in ten.choose], [h.id for h in ten.test])]  # fmt: skip
    assert [len(part) for part in parts] == [7, 2, 1] and len(set.union(*parts)) == 10 and not ten.folds
    nine = plan_of(make(tmp_path / "nine", 9, groups=list("aabbccddd")), start, folds=4)
    assert sorted(i for fold in nine.folds for i in fold) == sorted(nine.train) and len(nine.folds) == 4
    of = [{nine.sets["folder"].groups[i] for i in fold} for fold in nine.folds]
    assert sum(len(groups) for groups in of) == 4  # no group in two folds


def test_folders_of_ones_own_measure_and_choose(tmp_path, start):
    folder, other = make(tmp_path / "a", 2), make(tmp_path / "b", 3, first=5)
    plan = plan_of(folder, start, test=other)
    assert {held.part for held in plan.test} == {"test"} and {held.part for held in plan.choose} == {"folder"}
    assert len(plan.folds) == 2 and "took no part in training" in limits(plan)[0]
    plan = plan_of(folder, start, validation=other)
    assert plan.test == plan.choose == tuple(Held("validation", f"image{i}") for i in (5, 6, 7)) and not plan.folds


def test_images_without_labels_are_left_out_and_named(tmp_path, start):
    folder = make(tmp_path / "a", 3)
    (folder / "labels" / "image1.png").unlink()
    plan = prepare(folder, start=start, pixel_size=2.5)
    assert plan.train == ("image0", "image2") and plan.sample(plan.test[0]).pixel_size == 2.5
    assert limits(plan)[-1] == "Left out, without labels: image1.png."


def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path, start):
    folder = make(tmp_path / "a", 2)
    with pytest.raises(DataError, match=r"image0 of .* is image0 of .* too; keep it in one"):
        prepare(folder, test=make(tmp_path / "b", 1), start=start)
    with pytest.raises(ValueError, match=r"folds is 3, and .* has 2 groups"):
        prepare(folder, folds=3, start=start)
    with pytest.raises(ValueError, match=r"rank is 8, and that of .* is 2"):
        prepare(folder, rank=8, start=start)
    for path in (folder / "labels").iterdir():
        imsave(path, np.zeros((128, 144), np.uint16), check_contrast=False)
    with pytest.raises(DataError, match="no labelled particle"):
        prepare(folder, start=start)


def test_samples_are_selected_by_their_ids(tmp_path, start):
    images = plan_of(make(tmp_path / "four", 4, names=list("abcd")), start).sets["folder"]
    chosen = images.select(["c", "b"])
    assert [sample.id for sample in chosen] == ["c", "b"] and set(chosen.groups) == {"b", "c"}
    with pytest.raises(ValueError, match="no sample 'e'"):
        images.select(["e"])
