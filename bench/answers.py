"""Whether both sides of a case gave the same answer: `python -m bench.answers JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import parity, work
from bench.cases import TENTH
from lorasam_core.masks.generator import MaskGenerator


def agreement(order: dict[str, Any]) -> dict[str, float]:
    """What differs between the kept results: tensors by relative error and cosine, annotations by `parity.compare`."""
    found, expected = (torch.load(Path(order[side]), weights_only=True) for side in ("ours", "reference"))
    if isinstance(found, Tensor):
        return tensors(found.cpu().double(), expected.cpu().double())
    for annotation in (*found, *expected):
        annotation |= {key: value.numpy() for key, value in annotation.items() if isinstance(value, Tensor)}
    overlap = {"matched_iou": parity.matched_iou(found, expected)}
    if order["other_masks"]:
        return {"ours": len(found), "reference": len(expected), **overlap}
    asked = order["settings"]
    settings = work.generator_settings(**{k: asked.get(k) for k in ("model", "side", "crops", "passing", "threshold")})
    sam = work.generator_sam(False, asked["model"], asked["encoding"], order["device"])
    logits_of = parity.reference_logits(sam, work.micrograph())
    return parity.compare(found, expected, logits_of, settings, sam.mask_threshold) | overlap


def tensors(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Norm of the difference over the norm of the reference, and the cosine between both."""
    error = float((found - expected).norm() / expected.norm())
    return {"relative_error": error, "cosine": float(torch.cosine_similarity(found.flatten(), expected.flatten(), 0))}


def threshold(order: dict[str, Any]) -> dict[str, float]:
    """The predicted IoU that a tenth of the masks of the image's own points exceeds."""
    asked = order["settings"]
    sam = work.generator_sam(True, asked["model"], asked["encoding"], order["device"])
    generator = MaskGenerator(
        sam, points_per_side=asked["side"], pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0,
        output_mode="uncompressed_rle",
    )  # fmt: skip
    rated = [annotation["predicted_iou"] for annotation in generator.generate(work.micrograph())]
    return {"threshold": float(np.quantile(rated, 1 - TENTH))}


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print(json.dumps((agreement if "ours" in wanted else threshold)(wanted)))
