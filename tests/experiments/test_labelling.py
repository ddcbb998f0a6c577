"""A labelling on disk: saved, loaded, and safe from a kill and from another's work."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

from lorasam_core.data.sample import DataError
from lorasam_core.experiments import labelling as files
from lorasam_core.masks.edit import Labelling

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)


def made():
    labels = np.zeros(IMAGE.shape, np.int32)
    labels[disk((12, 12), 7)], labels[disk((30, 40), 6)] = 1, 2
    return Labelling(IMAGE, labels)


def test_save_close_and_go_on_with_undo(tmp_path):
    work = made()
    work.merge(2, 1)
    files.save(work, tmp_path)
    again = files.load(tmp_path, IMAGE)
    assert np.array_equal(again.labels, work.labels) and again.log == work.log
    assert np.array_equal(tifffile.imread(tmp_path / "labels.tif"), work.labels)
    again.undo()
    assert np.array_equal(again.labels, made().labels)
    files.save(again, tmp_path)
    assert files.load(tmp_path, IMAGE).ids == [1, 2]
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


@pytest.mark.parametrize("killed", ["write_labels", "imsave", "os.replace", "os.fsync"])
def test_a_killed_save_loses_nothing(tmp_path, monkeypatch, killed):
    work = made()
    files.save(work, tmp_path)
    work.remove(1)

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"lorasam_core.experiments.labelling.{killed}", kill)
        with pytest.raises(KeyboardInterrupt):
            files.save(work, tmp_path)
    there = files.load(tmp_path, IMAGE).ids
    assert there == ([1, 2] if killed.startswith("os") else [2])  # as before, or as after
    files.save(work, tmp_path)
    assert files.load(tmp_path, IMAGE).ids == [2] == sorted({*tifffile.imread(tmp_path / "labels.tif").ravel()} - {0})


def test_what_another_saved_is_not_overwritten(tmp_path):
    files.save(made(), tmp_path)
    mine, theirs = files.load(tmp_path, IMAGE), files.load(tmp_path, IMAGE)
    theirs.remove(1)
    files.save(theirs, tmp_path)
    mine.remove(2)
    with pytest.raises(ValueError, match="holds other work; load it and go on"):
        files.save(mine, tmp_path)
    assert files.load(tmp_path, IMAGE).ids == [2]
    theirs.undo()
    files.save(theirs, tmp_path)  # its own work goes on


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no labelling; make one with `lorasam draft`"):
        files.load(tmp_path, IMAGE)
    files.save(made(), tmp_path)
    with pytest.raises(DataError, match="names no image; give the image"):
        files.load(tmp_path)
    with pytest.raises(DataError, match="of another image"):
        files.load(tmp_path, IMAGE[::-1])
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"action": "rem')
    with pytest.raises(DataError, match=r"log.jsonl is damaged in line 2"):
        files.load(tmp_path, IMAGE)
