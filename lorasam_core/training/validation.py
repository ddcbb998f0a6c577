"""How well a model does on the validation images while it is trained, by which its best state is chosen."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from lorasam_core.config import RunConfig
from lorasam_core.data.sets import SampleSet
from lorasam_core.models.sam import preprocess
from lorasam_core.training import processes
from lorasam_core.training.items import prompts_for, shrink
from lorasam_core.training.losses import mask_iou
from lorasam_core.training.objectives import Objective, decode


class Validation:
    """Whole images through the predictor's transform, compared at mask resolution without the padding.

    score, by which the best adapter is chosen: the foreground's Dice (semantic), the instances' IoU for a point
    (instance), or the mean of both (mixed). Processes that train together share out the images.
    """

    def __init__(
        self, sam: Sam, objective: Objective, val_set: SampleSet, config: RunConfig, autocast: bool = False
    ) -> None:
        """autocast: whether the image encoder computes in bf16. Raises ValueError for an empty val_set."""
        if not len(val_set):
            raise ValueError("There is no image to validate with; give at least one, in a group of its own.")
        self.sam, self.objective, self.kind, self.autocast = sam, objective, config.objective, autocast
        side, grid = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0]
        self.items = []
        for number in range(processes.rank(), len(val_set), processes.count()):
            sample = val_set[number]
            image, (height, width) = preprocess(sam, sample.image)
            rows, columns = max(1, round(height * grid / side)), max(1, round(width * grid / side))
            valid = np.zeros((grid, grid), bool)
            valid[:rows, :columns] = True
            targets, points, _ = prompts_for(
                sample.labels, (height, width), (rows, columns), config.prompts_per_image,
                np.random.default_rng((0, number)),
            )  # fmt: skip
            masks = np.zeros((1 + len(targets), grid, grid), bool)
            masks[0, :rows, :columns] = shrink(sample.labels > 0, rows, columns)
            masks[1:, :rows, :columns] = targets
            tensors = torch.from_numpy(masks), torch.from_numpy(valid), torch.from_numpy(points)
            self.items.append((image.cpu(), (height, width), *tensors))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """loss, accuracy, miou, dice, instance_iou and score: means over the validation images."""
        training = self.sam.training
        self.sam.eval()
        rows = pd.DataFrame(processes.in_turn([self._image(*item) for item in self.items]))
        self.sam.train(training)
        means: dict[str, float] = {str(k): float(v) for k, v in rows.mean().items()}
        parts = {"semantic": ["dice"], "instance": ["instance_iou"], "mixed": ["dice", "instance_iou"]}[self.kind]
        known = [means[part] for part in parts if not math.isnan(means[part])] or [means["dice"]]
        return means | {"score": float(np.mean(known))}

    def _image(
        self, image: Tensor, size: tuple[int, int], masks: Tensor, valid: Tensor, points: Tensor
    ) -> dict[str, float]:
        device = self.sam.device
        masks, valid, points = masks.to(device), valid.to(device)[None], points.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            embedding = self.sam.image_encoder(image.to(device)).float()
        loss, measures = self.objective.semantic(embedding, masks[:1], valid, [size])
        overlap = mask_iou(self.objective.foreground(embedding, [size]), masks[:1], valid)
        row = {"loss": float(loss), **{k: float(v) for k, v in measures.items()}}
        row["dice"] = float((2 * overlap / (1 + overlap)).mean())
        row["instance_iou"] = math.nan
        if self.kind != "semantic" and len(points):
            named = torch.ones(len(points), 1, device=device)
            sparse, dense = self.sam.prompt_encoder((points[:, None], named), None, None)
            owner = torch.zeros(len(points), dtype=torch.long, device=device)
            logits, _ = decode(self.sam, embedding, owner, sparse, dense)
            best = mask_iou(logits[:, 1:], masks[1:], valid.expand(len(points), -1, -1)).max(1).values
            row["instance_iou"] = float(best.mean())
        return row
