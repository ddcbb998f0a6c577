"""Read micrographs (PNG, TIFF, BMP, JPEG) and their labels (PNG, TIFF, BMP)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from lorasam_core.data.sample import DataError, Sample, labels_from_mask

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
LOSSY = (".jpg", ".jpeg")
LARGEST_ID = 65535  # ids above are renumbered
MOST_REGIONS = 3  # of one id, on average; particles in front divide some instances, few of them into more than two
STRETCH = (0.1, 99.9)  # percentiles that become 0 and 255


@dataclass(frozen=True)
class Record:
    """Files of one sample. `instances`: the label file holds ids even where it has only two values."""

    id: str
    image: Path
    labels: Path
    group: str
    pixel_size: float | None = None
    instances: bool = False


def read_record(record: Record) -> tuple[Sample, bool]:
    """The sample, and whether its instances are connected components of a binary mask.

    Raises DataError for a file that cannot be read, sizes that differ and a mask with no particle.
    """
    image = read_image(record.image)
    labels, binary = read_labels(record.labels, record.instances)
    if image.shape[:2] != labels.shape:
        raise DataError(
            f"{record.labels} is {labels.shape[1]}x{labels.shape[0]} and its image {image.shape[1]}x{image.shape[0]} "
            "pixels; give both the same size."
        )
    if not labels.any():
        raise DataError(f"{record.labels} has no particle; label one, or remove it with its image.")
    return Sample(image, labels, record.id, record.group, record.pixel_size), binary


def read_image(path: str | Path) -> np.ndarray:
    """A micrograph as uint8 (H, W), or (H, W, 3) where the channels differ.

    8-bit images are taken as they are. Others (16-bit, 32-bit, floating point) are stretched linearly: their 0.1 and
    99.9 percentiles become 0 and 255, and what lies beyond is clipped. Alpha is dropped; equal channels become one.
    Raises DataError for a file that cannot be read, several pages, and NaN or infinite values.
    """
    array = _one_channel(_decode(Path(path), colours=True))
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.dtype.kind not in "buif":
        raise DataError(f"{path} has shape {array.shape} of {array.dtype}; export it as one grey or RGB image.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path} holds NaN or infinite values; replace them, or export the image with 8 or 16 bits.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    array = array.astype(np.float64)
    low, high = np.percentile(array, STRETCH)
    return np.round(255 * np.clip((array - low) / ((high - low) or 1), 0, 1)).astype(np.uint8)


def read_labels(path: str | Path, instances: bool = False) -> tuple[np.ndarray, bool]:
    """Instance ids as int32 (H, W), 0 background, and whether they come from a binary mask.

    A file with at most two distinct values (0 and 255, 0 and 1) is a binary mask, unless `instances` says otherwise:
    its instances are its connected components. Ids above 65,535 are renumbered in order.
    Raises DataError for a JPEG, a coloured mask, values that are no whole numbers from 0 and an unreadable file; unless
    `instances`, also for values that are in many places each, as the grey rims of an anti-aliased mask and classes are.
    """
    path = Path(path)
    array = _one_channel(_decode(path, colours=False))
    if array.ndim != 2:
        raise DataError(f"{path} is coloured; save the instance ids in one channel, as 8- or 16-bit PNG or TIFF.")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise DataError(f"{path} holds values that are no whole numbers; save instance ids as 8- or 16-bit integers.")
    if array.size and array.min() < 0:
        raise DataError(f"{path} holds negative values; use 0 for background and ids above it.")
    if not instances and ((array == array.min()) | (array == array.max())).all():
        return labels_from_mask(array), True
    if array.max() > LARGEST_ID:
        array = relabel_sequential(array.astype(np.int64))[0]
    labels = array.astype(np.int32)
    if not instances:
        _require_ids(path, labels)
    return labels, False


def _require_ids(path: Path, labels: np.ndarray) -> None:
    """Raise DataError where the values of int32 (H, W) are in more places than those of instances are."""
    for step in (2, 1):  # every second pixel at a quarter of the time first: nearly all files pass
        part = labels[::step, ::step]
        ids = np.count_nonzero(np.bincount(part.ravel())[1:])
        regions = label(part, background=0, return_num=True, connectivity=2)[1]
        if regions <= MOST_REGIONS * ids:
            return
    raise DataError(
        f"{path} has {ids} values in {regions} separate regions, as an anti-aliased mask has, or one of classes; "
        "save it as 0 and 255, or give every particle a number of its own."
    )


def require_lossless(path: Path, file_format: str | None = None) -> None:
    """Raise DataError for a label file that is a JPEG by its name or by its contents."""
    if path.suffix.lower() in LOSSY or file_format == "JPEG":
        raise DataError(f"{path} is a JPEG, whose compression changes ids; save the mask as PNG or TIFF.")


def _decode(path: Path, colours: bool) -> np.ndarray:
    """The pixels of a file; palettes are applied for images (colours) and kept as numbers for labels."""
    if not colours:
        require_lossless(path)
    try:
        tiff = path.suffix.lower() in (".tif", ".tiff")
        return _decode_tiff(path, colours) if tiff else _decode_pillow(path, colours)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to be unpacked; cut it into tiles, or save it as uncompressed TIFF."
        ) from error
    except Exception as error:  # decoders raise a dozen types for a broken file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); export it again as PNG or TIFF.") from error


def _decode_pillow(path: Path, colours: bool) -> np.ndarray:
    with Image.open(path) as picture:
        if not colours:
            require_lossless(path, picture.format)
        if getattr(picture, "n_frames", 1) > 1:
            raise DataError(f"{path} holds {picture.n_frames} images; save one image a file.")
        deep_colour = picture.mode in ("RGB", "RGBA") and ";16" in str(picture.tile)
        picture.load()  # raises for a truncated file, which OpenCV would fill up
        if deep_colour:  # Pillow reads 16 bits a colour as 8
            return _decode_opencv(path)
        if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") or (colours and picture.mode in ("P", "PA")):
            picture = picture.convert("RGB")
        return np.asarray(picture)


def _decode_tiff(path: Path, colours: bool) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        if len(tiff.pages) > 1:
            raise DataError(f"{path} holds {len(tiff.pages)} pages; save one image a file.")
        page = tiff.pages.first
        if not colours and page.compression in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG):
            require_lossless(path, "JPEG")
        try:
            array = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _decode_packed_tiff(path, colours)
        if page.axes == "SYX":  # planes -> channels last
            array = np.moveaxis(array, 0, -1)
        if colours and page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            array = (np.moveaxis(page.colormap[:, array], 0, -1) >> 8).astype(np.uint8)
        elif colours and page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "bu":
            array = ~array
        return array


def _decode_packed_tiff(path: Path, colours: bool) -> np.ndarray:
    """LZW and the like, which tifffile alone does not unpack; Pillow does not know 16-bit colour, OpenCV does."""
    try:
        return _decode_pillow(path, colours)
    except UnidentifiedImageError:
        return _decode_opencv(path)


def _decode_opencv(path: Path) -> np.ndarray:
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise DataError(f"{path} cannot be read; export it again as PNG or uncompressed TIFF.")
    if array.ndim == 3:  # B G R A -> R G B A
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return array


def _one_channel(array: np.ndarray) -> np.ndarray:
    """Drop alpha; make one channel of equal ones."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = array[..., :-1]
    if array.ndim == 3 and all(np.array_equal(array[..., 0], array[..., k]) for k in range(1, array.shape[2])):
        array = array[..., 0]
    return array
