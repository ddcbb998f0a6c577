"""A U-Net (Ronneberger et al. 2015) trained on the same crops, for as many steps: what LoRA is up against.

Its encoder is the base's own stem, so that both start from the same features; a base without one (ViT) gives its place
to a ResNet-18 without pretrained weights. The decoder is segmentation_models_pytorch's. With `distances` the net also
learns how far each pixel lies from its particle's rim, by which a watershed parts particles that touch, as micro-sam's
automatic instance segmentation does (Archit et al. 2025, with two such distances).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from skimage.measure import label
from skimage.segmentation import find_boundaries, watershed
from torch import Tensor, nn

from lorasam_core.config import RunConfig
from lorasam_core.data.sample import Sample
from lorasam_core.data.sets import SampleSet
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.masks.predictor import as_rgb
from lorasam_core.measure import metrics
from lorasam_core.models.devices import resolve_device, resolve_precision
from lorasam_core.models.lite import STAGES, TAPS, Stem
from lorasam_core.training.items import TrainingItems, inside, pad, resize_labels
from lorasam_core.training.loop import OBLONG, Task, run_task
from lorasam_core.training.losses import per_mask_dice_ce
from lorasam_core.training.objectives import agreement

SEEDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the distance, tried on validation images: above it lies a particle's seed
STEM_STAGES = (0, *TAPS.values())  # the last of each stride, from 2
STEM_CHANNELS = (3, *(STAGES[number][3] for number in STEM_STAGES))
CHANNELS = (128, 64, 32, 24, 16)  # of the decoder's steps on the compact stem


class StemUNet(nn.Module):
    """The stem of `lite`, from stride 1 to 32, under segmentation_models_pytorch's decoder."""

    def __init__(self, stem: Stem, classes: int) -> None:
        from segmentation_models_pytorch.base import SegmentationHead, initialization
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__()
        self.stem = copy.deepcopy(stem)
        self.decoder = UnetDecoder(STEM_CHANNELS, CHANNELS, n_blocks=len(CHANNELS))
        self.head = SegmentationHead(CHANNELS[-1], classes)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, classes, S, S)."""
        y, features = F.relu6(self.stem.first(x)), [x]
        for number, stage in enumerate(self.stem.stages):
            y = stage(y)
            if number in STEM_STAGES:
                features.append(y)
        logits: Tensor = self.head(self.decoder(features))
        return logits


def network(sam: Sam, classes: int) -> nn.Module:
    """A U-Net of `classes` outputs at the input's resolution, on the stem of `sam` where it has one."""
    from segmentation_models_pytorch import Unet  # needed by this method alone

    stem = getattr(sam.image_encoder, "stem", None)
    if stem is None:
        return Unet("resnet18", encoder_weights=None, in_channels=3, classes=classes)
    return StemUNet(stem, classes)


class UNet(nn.Module):
    """Logits of the foreground, and with `distances` of the distance, with the input of a SAM: its side, its
    normalisation, its padding.
    """

    def __init__(self, sam: Sam, distances: bool = False) -> None:
        super().__init__()
        self.side, self.net = sam.image_encoder.img_size, network(sam, 1 + distances)
        self.net.to(memory_format=torch.channels_last)  # faster convolutions, on a CPU too
        self.register_buffer("mean", sam.pixel_mean.detach().cpu().clone(), persistent=False)
        self.register_buffer("std", sam.pixel_std.detach().cpu().clone(), persistent=False)

    def forward(self, images: Tensor, extents: Sequence[tuple[int, int]]) -> Tensor:
        """uint8 (B, 3, S, S) with the (h, w) of each that is not padding -> logits (B, 1 or 2, S, S)."""
        normal = (images.float() - self.mean) / self.std * inside(extents, self.side, images.device)[:, None]
        logits: Tensor = self.net(normal)
        return logits.float()

    @torch.no_grad()
    def answer(self, image: np.ndarray) -> np.ndarray:
        """Logits, float32 (1 or 2, H, W), of a uint8 image (H, W) or (H, W, 3), through the predictor's transform."""
        resized = ResizeLongestSide(self.side).apply_image(as_rgb(image, min_side=1))
        h, w = resized.shape[:2]
        tensor = torch.as_tensor(resized, device=self.mean.device).permute(2, 0, 1)[None]  # H W C -> 1 C H W
        padded = F.pad(tensor, (0, self.side - w, 0, self.side - h))
        logits = self(padded, [(h, w)])[..., :h, :w]
        whole: np.ndarray = (
            F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0].cpu().numpy()
        )
        return whole

    def foreground(self, image: np.ndarray) -> np.ndarray:
        """Bool (H, W) of an image."""
        return self.answer(image)[0] > 0


def grown(answer: np.ndarray, seed: float) -> np.ndarray:
    """Instances, int32 (H, W), of a net's answer (2, H, W): from each connected part of the foreground whose distance
    lies above `seed` one grows over the foreground; parts that hold no seed are instances of their own.
    """
    particles, distance = answer[0] > 0, 1 / (1 + np.exp(-answer[1]))
    seeds = label(particles & (distance > seed), connectivity=2)
    found = watershed(-distance, seeds, mask=particles)
    left = label(particles & (found == 0), connectivity=2)
    return np.where(left > 0, left + found.max(), found).astype(np.int32)


def rim_distance(labels: np.ndarray) -> np.ndarray:
    """Distance of each pixel of int labels (H, W) to the rim of its particle, as a share of the particle's greatest:
    float32 (H, W), 0 on background and rim, 1 where a particle is deepest.
    """
    depth = ndimage.distance_transform_edt((labels > 0) & ~find_boundaries(labels, mode="inner"))
    deepest = np.asarray(ndimage.maximum(depth, labels, np.arange(int(labels.max(initial=0)) + 1)))
    deepest[0] = 0
    share: np.ndarray = depth / np.maximum(deepest, 1)[labels]
    return share.astype(np.float32)


class DistanceItems(TrainingItems):
    """Training items with the distance that a U-Net learns, float32 (S, S)."""

    def _targets(self, labels: np.ndarray, small: tuple[int, int]) -> dict[str, Tensor]:
        distance = rim_distance(resize_labels(labels, *small))
        return super()._targets(labels, small) | {"distance": pad(torch.from_numpy(distance), self.mask_size)}


class UNetObjective(nn.Module):
    """Dice + cross-entropy of the foreground, at the input's resolution, and where it is learnt the square error of the
    distance inside particles.
    """

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """batch as `items.collate` makes it, with targets as large as the input -> loss and measures."""
        answer = self.net(batch["image"], batch["extents"])
        logits, target = answer[:, 0], batch["semantic"]
        valid = inside(batch["extents"], self.net.side, logits.device)
        loss = per_mask_dice_ce(logits, target, valid).mean()
        if "distance" in batch and target.any():
            loss = loss + (answer[:, 1].sigmoid() - batch["distance"])[target].square().mean()
        return loss, agreement(logits, target, valid)


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
    sam: Sam, train_set: SampleSet, val_set: SampleSet, config: RunConfig, run_dir: Path,
    callbacks: Sequence[Any] = (), distances: bool = False,
) -> tuple[UNet, dict[str, Any]]:  # fmt: skip
    """Train with the input and the stem of `sam`; returns the state that validated best, and what `train` returns.

    Raises ValueError where segmentation_models_pytorch is not installed.
    """
    device = str(sam.device) if config.device == "auto" else resolve_device(config.device)
    torch.manual_seed(config.seed)
    try:
        net = UNet(sam, distances)
    except ImportError as error:
        raise ValueError(f"the U-Net needs segmentation_models_pytorch ({error}); pip install -e .[book]") from error
    virtual = VirtualSet(train_set, config.virtual_size, config.seed, config.crop_size, config.augmentation)
    kind = DistanceItems if distances else TrainingItems
    task = Task(
        model=net, objective=UNetObjective(net), items=kind(virtual, net.side, net.side, 1, OBLONG),
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
