"""A U-Net (Ronneberger et al. 2015) trained from scratch on the same crops, for as many steps: what LoRA is up against.

ResNet-18 as its encoder, without pretrained weights, from segmentation_models_pytorch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from skimage.measure import label
from torch import Tensor, nn

from lorasam_core.config import RunConfig
from lorasam_core.data.sample import Sample
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.masks.predictor import as_rgb
from lorasam_core.measure import metrics
from lorasam_core.models.devices import resolve_device, resolve_precision
from lorasam_core.training.items import TrainingItems, inside
from lorasam_core.training.loop import OBLONG, Task, run_task
from lorasam_core.training.losses import per_mask_dice_ce
from lorasam_core.training.objectives import agreement


class UNet(nn.Module):
    """Logits of the foreground, with the input of a SAM: its side, its normalisation, its padding."""

    def __init__(self, side: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        from segmentation_models_pytorch import Unet  # needed by this method alone

        net = Unet("resnet18", encoder_weights=None, in_channels=3, classes=1)
        self.side, self.net = side, net.to(memory_format=torch.channels_last)  # faster convolutions, on a CPU too
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)

    def forward(self, images: Tensor, extents: Sequence[tuple[int, int]]) -> Tensor:
        """uint8 (B, 3, S, S) with the (h, w) of each that is not padding -> logits (B, S, S)."""
        normal = (images.float() - self.mean) / self.std * inside(extents, self.side, images.device)[:, None]
        logits: Tensor = self.net(normal)[:, 0]
        return logits.float()

    @torch.no_grad()
    def foreground(self, image: np.ndarray) -> np.ndarray:
        """Bool (H, W) of a uint8 image (H, W) or (H, W, 3), through the predictor's own transform."""
        resized = ResizeLongestSide(self.side).apply_image(as_rgb(image, min_side=1))
        h, w = resized.shape[:2]
        tensor = torch.as_tensor(resized, device=self.mean.device).permute(2, 0, 1)[None]  # H W C -> 1 C H W
        padded = F.pad(tensor, (0, self.side - w, 0, self.side - h))
        logits = self(padded, [(h, w)])[:, None, :h, :w]
        whole = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        mask: np.ndarray = (whole[0, 0] > 0).cpu().numpy()
        return mask

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Connected components of the foreground, 8-connected: int32 (H, W)."""
        return label(self.foreground(image), connectivity=2).astype(np.int32)


class UNetObjective(nn.Module):
    """Dice + cross-entropy of the foreground, at the input's resolution."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """batch as `items.collate` makes it, with targets as large as the input -> loss and measures."""
        logits = self.net(batch["image"], batch["extents"])
        valid = inside(batch["extents"], self.net.side, logits.device)
        loss = per_mask_dice_ce(logits, batch["semantic"], valid).mean()
        return loss, agreement(logits, batch["semantic"], valid)


class UNetValidation:
    """Dice of whole validation images at their own resolution."""

    def __init__(self, net: UNet, samples: Sequence[Sample]) -> None:
        if not len(samples):
            raise ValueError("There is no image to validate with; give at least one, in a group of its own.")
        self.net, self.samples = net, samples

    def measure(self) -> dict[str, float]:
        """dice, miou and accuracy, means over the images, and the score, which is dice."""
        training = self.net.training
        self.net.eval()
        rows = []
        for sample in self.samples:
            found, true = self.net.foreground(sample.image), sample.labels > 0
            both = [metrics.iou(found, true), metrics.iou(~found, ~true)]
            rows.append({"dice": metrics.dice(found, true), "miou": float(np.mean(both))})
            rows[-1]["accuracy"] = metrics.accuracy(found, true)
        self.net.train(training)
        means = {str(name): float(value) for name, value in pd.DataFrame(rows).mean().items()}
        return means | {"score": means["dice"]}


def train_unet(
    sam: Sam, train_set: SampleSet, val_set: SampleSet, config: RunConfig, run_dir: Path, callbacks: Sequence[Any] = ()
) -> tuple[UNet, dict[str, Any]]:
    """Train with the input of `sam`; returns the state that validated best, and what `train` returns.

    Raises ValueError where segmentation_models_pytorch is not installed.
    """
    device = str(sam.device) if config.device == "auto" else resolve_device(config.device)
    torch.manual_seed(config.seed)
    side = sam.image_encoder.img_size
    try:
        net = UNet(side, sam.pixel_mean.cpu(), sam.pixel_std.cpu())
    except ImportError as error:
        raise ValueError(f"the U-Net needs segmentation_models_pytorch ({error}); pip install -e .[book]") from error
    virtual = VirtualSet(train_set, config.virtual_size, config.seed, config.crop_size, config.augmentation)
    task = Task(
        model=net, objective=UNetObjective(net), items=TrainingItems(virtual, side, side, 1, OBLONG),
        validation=UNetValidation(net, val_set), parameters=list(net.parameters()), file="weights.safetensors",
        save=lambda path, **metadata: save_file(
            {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, path,
            {k: json.dumps(v) for k, v in metadata.items()},
        ),
        load=lambda path: net.load_state_dict(load_file(path)),
    )  # fmt: skip
    found = run_task(task, config, run_dir, device, resolve_precision(config.precision, device), callbacks)
    found["trainable_parameters"] = sum(p.numel() for p in net.parameters())
    return net, found
