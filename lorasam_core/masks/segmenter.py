"""Instances of a micrograph of any size by one model: as it is, or with an adapter that says how it is to be used."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from segment_anything import SamAutomaticMaskGenerator

from lorasam_core.errors import brief
from lorasam_core.masks import generator, guided, operations
from lorasam_core.masks.generator import QUICK_SETTINGS, MaskGenerator
from lorasam_core.masks.guided import GUIDED_SETTINGS, GuidedGenerator
from lorasam_core.masks.tiles import Found, segment_tiled
from lorasam_core.models import devices
from lorasam_core.models.lora import adapter_path, load_adapter, merge, read_adapter
from lorasam_core.models.sam import MODELS, REPLACED, load_sam

GENERATORS = ("guided", "exact")
RATINGS = ("score", "predicted_iou", "stability_score")  # columns of a Found's scores
TILE = 512  # pixels of the image, where no adapter says what it was trained on
TILE_SHARE = 0.9  # of a tile, which a large object may nearly fill; what covers all of it is its background
SPECK = 0.1  # of a mask's area: smaller islands are removed, smaller holes filled
LEAST_TILE, LONGEST = 64, 100_000  # pixels of a tile; no particle is longer, either
WHOLE = 1.6  # an image of at most this many tiles a side is taken at once: better, on validation images of EMPS


class Segmenter:
    """What `lorasam segment` asks of a model: image in, `Found` out, its scores in the columns RATINGS.

    An adapter's metadata may hold `segment`: {"crop_size": pixels of a training window, "diameter": median of its
    particles in the model's pixels, "guided": {...}, "exact": {...}: settings of the two generators}. Images are cut
    into tiles as large as a training window, in which particles look as they did in training; `diameter` (pixels of the
    image) scales the tiles so that particles of that size do.
    """

    def __init__(
        self, adapter: str | None = None, *, model: str = "lite", checkpoint: str | None = None, device: str = "auto",
        generator: str = "guided", tile: int | None = None, diameter: float | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        """settings: those of the generator that differ from the adapter's; the guided one's largest_share is of an
        image that is one tile. Raises ValueError for what does not fit.
        """
        if generator not in GENERATORS:
            raise ValueError(f"generator is {generator!r}; choose one of {', '.join(GENERATORS)}.")
        path = None if adapter is None else adapter_path(adapter)
        metadata = {} if path is None else read_adapter(path)[0]
        if path is not None:
            model = metadata["base_name"]
            if model not in (*MODELS, *REPLACED):
                raise ValueError(f"adapter {path} is for {model[:40]!r}; give one for {', '.join(MODELS)}.")
        device = devices.resolve_device(device)
        sam = load_sam(model, checkpoint, image_size=metadata.get("image_size"), device=device)
        if path is not None:
            load_adapter(sam, path)
            merge(sam)
        own = {} if path is None else way_of_asking(metadata, path)
        usual = GUIDED_SETTINGS if generator == "guided" else QUICK_SETTINGS if model == "lite" else {}
        settings = usual | own.get(generator, {}) | settings
        self.sam, self.autocast = sam, partial(devices.autocast, devices.resolve_precision("auto", device), device)
        kind = GuidedGenerator if generator == "guided" else MaskGenerator
        of_tiles = {"largest_share": TILE_SHARE} if generator == "guided" else {}
        self._generator: Any = kind(sam, autocast=self.autocast, **settings)
        self._of_tiles: Any = kind(sam, autocast=self.autocast, **settings | of_tiles)
        self.image_size = sam.image_encoder.img_size
        self.side = self._side(own, tile, diameter)
        self.described = {
            "model": model, "base_hash": sam.base_hash, "adapter": None if path is None else Path(path).name,
            "adapter_sha256": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
            "generator": generator, "settings": settings, "tile": self.side, "image_size": self.image_size,
        }  # fmt: skip

    def _side(self, own: dict[str, Any], tile: int | None, diameter: float | None) -> int:
        usual = int(own.get("crop_size", TILE))
        if diameter is not None:
            if not diameter > 0:
                raise ValueError(f"diameter is {diameter}; give the particles' usual diameter in pixels, above 0.")
            if "diameter" not in own:
                raise ValueError("the model does not say how large its particles were; give tile in place of diameter.")
            usual = round(diameter * self.image_size / own["diameter"])
        side = usual if tile is None else tile
        if side < LEAST_TILE:
            raise ValueError(f"tiles of {side} pixels are too small; give at least {LEAST_TILE}.")
        return side

    def __call__(self, image: np.ndarray) -> Found:
        """uint8 (H, W) or (H, W, 3), at least 16 pixels a side -> instances; the better score is on top."""
        if max(image.shape[:2]) <= WHOLE * self.side:
            return _found(self._generator.generate(image), image.shape[:2])
        return segment_tiled(
            lambda tile: _found(self._of_tiles.generate(tile), tile.shape[:2]), image, self.side, self.side // 4
        )


def anywhere(**arguments: Any) -> Callable[[np.ndarray], Found]:
    """`Segmenter(**arguments)` as a function that other processes get without its weights: each makes its own, once.

    arguments: JSON-ready.
    """
    return partial(_by_arguments, json.dumps(arguments))


def _by_arguments(arguments: str, image: np.ndarray) -> Found:
    return _made(arguments)(image)


@lru_cache(maxsize=1)
def _made(arguments: str) -> Segmenter:
    return Segmenter(**json.loads(arguments))


def way_of_asking(metadata: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The entry `segment` of an adapter's metadata; ValueError, which names the file, where it cannot be used."""
    own: Any = metadata.get("segment", {})
    try:
        exact = own.get("exact", {})
        guided.check_settings(own.get("guided", {}))
        generator.check_settings(exact)
        unknown = exact.keys() - inspect.signature(SamAutomaticMaskGenerator).parameters
        wrong = [
            f"{name} is {own[name]!r}"
            for name, least in (("crop_size", LEAST_TILE), ("diameter", 0.1))
            if name in own and not least <= own[name] <= LONGEST
        ]
        if unknown or wrong:
            raise ValueError(wrong[0] if wrong else f"{min(unknown)!r} is no setting of the exact generator")
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"adapter {path} says of its use what cannot be ({brief(error)}); copy it again or train it anew."
        ) from error
    return dict(own)


def _found(annotations: list[dict[str, Any]], shape: tuple[int, int]) -> Found:
    """Annotations of an image, painted so that the better score is on top."""
    for annotation in annotations:
        annotation.setdefault("score", annotation["predicted_iou"] * annotation["stability_score"])
    annotations.sort(key=lambda a: -a["score"])
    labels = np.zeros(shape, np.int32)
    for number in range(len(annotations), 0, -1):
        mask, area = annotations[number - 1]["segmentation"], annotations[number - 1]["area"]
        labels[operations.without_small_regions(mask, SPECK * area)[0]] = number
    seen = np.unique(labels[labels > 0])  # a mask under better ones is gone
    renumbered = np.zeros(len(annotations) + 1, np.int32)
    renumbered[seen] = np.arange(1, len(seen) + 1)
    scores = np.array([[annotations[k - 1][name] for name in RATINGS] for k in seen], float).reshape(-1, 3)
    return Found(renumbered[labels], scores)
