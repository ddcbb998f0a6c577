"""Files to arrays as they are stored: PNG, BMP, JPEG, TIFF and, through RosettaSciIO, the formats of microscopes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from lorasam_core.data.sample import DataError

TIFF = (".tif", ".tiff")
LOSSLESS = (".png", *TIFF, ".bmp")
LOSSY = (".jpg", ".jpeg")
MICROSCOPE = {  # suffix: what it is, and the module of RosettaSciIO that reads it
    ".dm3": ("a DigitalMicrograph file", "digitalmicrograph"),
    ".dm4": ("a DigitalMicrograph file", "digitalmicrograph"),
    ".emd": ("an EMD file", "emd"),
    ".mrc": ("an MRC file", "mrc"),
    ".ser": ("a TIA file", "tia"),
}
MOST_PIXELS = 20_000 * 20_000  # of a packed file: a bomb of a few kB can hold more
ORIENTATION = 0x0112  # the tag of EXIF and TIFF

Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow's own limit is below a stitched micrograph, and its error above ours


def decode(path: Path, *, labels: bool = False, page: int | None = None) -> np.ndarray:
    """The pixels of a file, (H, W) or (H, W, channels), in their own type, without alpha; equal channels become one.

    labels: palettes are kept as numbers, and so is the lookup table that shows an 8-bit TIFF inverted (ImageJ writes
        masks so); images are read as they are meant to be seen.
    page: from 1, of a file that holds several. Previews beside one larger page do not count.
    The orientation of EXIF and TIFF is applied. Raises DataError for a file that cannot be read, several pages and none
    chosen, and labels in a JPEG.
    """
    if labels:
        require_lossless(path)
    suffix = path.suffix.lower()
    read = _decode_tiff if suffix in TIFF else _decode_microscope if suffix in MICROSCOPE else _decode_pillow
    try:
        return _one_channel(read(path, labels, page))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to be unpacked; cut it into tiles, or save it as uncompressed TIFF."
        ) from error
    except Exception as error:  # decoders raise a dozen types for a broken file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); export it again as PNG or TIFF.") from error


def require_lossless(path: Path, file_format: str | None = None) -> None:
    """Raise DataError for a label file that is a JPEG by its name or by its contents."""
    if path.suffix.lower() in LOSSY or file_format in ("JPEG", "MPO"):
        raise DataError(f"{path} is a JPEG, whose compression changes ids; save the mask as PNG or TIFF.")


def _choose(path: Path, areas: Sequence[int], page: int | None) -> int:
    """Index of the page to read, of pages with these areas in pixels: the only large one, or the one asked for."""
    large = [k for k, area in enumerate(areas) if 3 * area >= max(areas)]
    if len(large) == 1:
        return large[0]
    if page is None:
        raise DataError(f"{path} holds {len(areas)} pages; save one image a file, or give --page 1.")
    if not 1 <= page <= len(areas):
        raise DataError(f"{path} holds {len(areas)} pages and no page {page}; give --page 1 to --page {len(areas)}.")
    return page - 1


def _decode_pillow(path: Path, labels: bool, page: int | None) -> np.ndarray:
    with Image.open(path) as picture:
        if labels:
            require_lossless(path, picture.format)
        areas = []
        for k in range(getattr(picture, "n_frames", 1)):
            picture.seek(k)
            areas.append(picture.width * picture.height)
        picture.seek(_choose(path, areas, page))
        array = _load(path, picture, labels)
        return _upright(array, picture.getexif().get(ORIENTATION, 1))


def _load(path: Path, picture: Image.Image, labels: bool) -> np.ndarray:
    """The frame at which a picture stands."""
    if picture.width * picture.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    deep_colour = picture.mode in ("RGB", "RGBA") and ";16" in str(picture.tile)
    picture.load()  # raises for a truncated file, which OpenCV would fill up
    if deep_colour:  # Pillow reads 16 bits a colour as 8
        return _decode_opencv(path, picture.tell())
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") or (not labels and picture.mode in ("P", "PA")):
        return np.asarray(picture.convert("RGB"))
    return np.asarray(picture)


def _decode_tiff(path: Path, labels: bool, page: int | None) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        pages = [tiff.pages.first, *tiff.pages[1:]]
        in_one = (tiff.imagej_metadata or {}).get("images", 1)  # a large stack of ImageJ has one directory for all
        if in_one > len(pages):
            raise DataError(f"{path} holds a stack of {in_one} images; save one image a file.")
        chosen = _choose(path, [0 if p.is_reduced else p.imagewidth * p.imagelength for p in pages], page)
        directory = pages[chosen]
        packed = directory.compression != tifffile.COMPRESSION.NONE
        if labels and directory.compression in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG):
            require_lossless(path, "JPEG")
        if packed and directory.imagewidth * directory.imagelength > MOST_PIXELS:
            raise Image.DecompressionBombError
        inverted = directory.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        tag = directory.tags.get(ORIENTATION)
        try:
            array = directory.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _decode_packed_tiff(path, chosen, labels, inverted, tag.value if tag else 1)
        if directory.axes == "SYX":  # planes -> channels last
            array = np.moveaxis(array, 0, -1)
        if not labels and directory.photometric == tifffile.PHOTOMETRIC.PALETTE and directory.colormap is not None:
            array = (np.moveaxis(directory.colormap[:, array], 0, -1) >> 8).astype(np.uint8)
        elif inverted and array.dtype.kind in "bu" and (array.dtype == bool or not labels):
            array = ~array
        return _upright(array, tag.value if tag else 1)


def _decode_packed_tiff(path: Path, index: int, labels: bool, inverted: bool, orientation: int) -> np.ndarray:
    """LZW and the like, which tifffile alone does not unpack; Pillow does not know 16-bit colour, OpenCV does."""
    try:
        with Image.open(path) as picture:
            picture.seek(index)
            array = _load(path, picture, labels)  # turned upright already, and inverted if it has 1 or 8 bits
    except UnidentifiedImageError:
        return _upright(_decode_opencv(path, index), orientation)
    if inverted and array.dtype.kind == "u" and labels == (array.dtype == np.uint8):
        return ~array
    return array


def _decode_opencv(path: Path, index: int) -> np.ndarray:
    found, pages = cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if not found:
        raise DataError(f"{path} cannot be read; export it again as PNG or uncompressed TIFF.")
    array = pages[index]
    if array.ndim == 3:  # B G R A -> R G B A
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return array


def _decode_microscope(path: Path, labels: bool, page: int | None) -> np.ndarray:
    kind, module = MICROSCOPE[path.suffix.lower()]
    try:
        signals = importlib.import_module(f"rsciio.{module}").file_reader(str(path))
    except ImportError as error:
        package = '"rosettasciio[hdf5]"' if module == "emd" else "rosettasciio"
        raise DataError(f"{path} is {kind}; pip install {package} (GPL-3.0), or export it as TIFF.") from error
    images = [
        plane
        for signal in signals
        if [axis["navigate"] for axis in signal["axes"]][-2:] == [False, False]  # else a spectrum at each pixel
        for plane in np.asarray(signal["data"]).reshape(-1, *signal["data"].shape[-2:])
    ]
    if not images:
        raise DataError(f"{path} holds no image; export one from it as TIFF.")
    return images[_choose(path, [plane.size for plane in images], page)]


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rows and columns (H, W, ...) as the orientation says that they are to be seen (TIFF 6.0, section 8)."""
    if orientation not in range(2, 9):
        return array
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows, columns = (-1 if orientation in turned else 1 for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(array[::rows, ::columns])


def _one_channel(array: np.ndarray) -> np.ndarray:
    """Drop alpha; make one channel of equal ones."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = array[..., :-1]
    if array.ndim == 3 and all(np.array_equal(array[..., 0], array[..., k]) for k in range(1, array.shape[2])):
        array = array[..., 0]
    return array
