"""What an adapted model makes of one generated micrograph: its file holds that, and `lorasam verify` makes it anew."""

from __future__ import annotations

from typing import Any

import numpy as np
from segment_anything.modeling import Sam

from lorasam_core.data.particles import GENERATOR_VERSION, generate
from lorasam_core.masks.predictor import Predictor, evaluating

SIDE, GRID = 256, 64  # pixels of the micrograph and of the mask that is kept
SEED, INDEX = 8, 3
LEAST_IOU, MOST_CHANGE = 0.98, 0.02  # within which a mask and its rating are the same on another machine


def picture(sam: Sam) -> dict[str, Any]:
    """The micrograph's foreground, which the box of the whole image asks for, and how the model rates it.

    mask: hex of GRID x GRID bits, row by row, 1 where the mean logit is above 0; rated: the predicted IoU; generator:
    the version of the generator that made the micrograph.
    """
    predictor = Predictor(sam)
    with evaluating(sam):
        predictor.set_image(generate(SEED, INDEX, (SIDE, SIDE)).image)
        logits, rated, _ = predictor.predict(
            box=np.array([0, 0, SIDE, SIDE]), multimask_output=False, return_logits=True
        )
    block = SIDE // GRID
    mask = logits[0].reshape(GRID, block, GRID, block).mean((1, 3)) > 0
    return {
        "generator": GENERATOR_VERSION,
        "mask": np.packbits(mask).tobytes().hex(),
        "rated": round(float(rated[0]), 4),
    }


def kept_mask(picture: dict[str, Any]) -> np.ndarray:
    """The mask of a picture, bool (GRID, GRID); raises ValueError where it holds none."""
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(picture["mask"]), np.uint8))
        return bits.reshape(GRID, GRID).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the picture is no mask of {GRID} x {GRID} bits; write the adapter anew.") from error


def agreement(first: dict[str, Any], second: dict[str, Any]) -> float:
    """IoU of the masks of two pictures; 1 where both are empty."""
    a, b = kept_mask(first), kept_mask(second)
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0
