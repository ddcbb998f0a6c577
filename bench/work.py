"""What each case does, on our side and on the reference's: functions that make a `Job` from a case's settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor, nn

from bench.cases import ALL_PASS
from bench.reference import PlainLoop, add_plain_lora
from lorasam_core.data.particles import generate
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.masks.generator import QUICK_SETTINGS, STUDY_SETTINGS, MaskGenerator, as_rgb
from lorasam_core.masks.guided import GuidedGenerator
from lorasam_core.models import devices
from lorasam_core.models.attention import use_fast_attention
from lorasam_core.models.lite import build_lite
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters, merge
from lorasam_core.models.sam import load_sam, resize_input
from lorasam_core.training.blocks import training_blocks
from lorasam_core.training.fit import fit, make_fabric
from lorasam_core.training.items import TrainingItems, collate
from lorasam_core.training.objectives import Objective

IMAGE = (768, 1024)  # rows, columns


@dataclass(frozen=True)
class Job:
    """run: what is timed, returning what the other side's result is compared with; warm: called once before it."""

    run: Callable[[], Any]
    warm: Callable[[], Any]
    facts: dict[str, Any] = field(default_factory=dict)


def plain_sam(model: str, size: int | None, device: str) -> Sam:
    """segment-anything's own modules: lite with its weights, ViT-B with random ones (position tables too), the same
    at every call.
    """
    if model == "lite":
        sam = build_lite()
        sam.load_state_dict(load_sam("lite").state_dict())
    else:
        torch.manual_seed(0)
        sam = sam_model_registry[model]()
        with torch.no_grad():
            for name, table in sam.named_parameters():
                if "pos" in name:  # zero at first
                    nn.init.normal_(table, std=0.02)
            for layer in sam.mask_decoder.output_upscaling:
                if isinstance(layer, nn.ConvTranspose2d):  # patches rather than noise of one pixel, as masks are
                    layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
    if size is not None:
        resize_input(sam, size)
    return sam.eval().to(device)


def make_sam(ours: bool, model: str, size: int | None, device: str) -> Sam:
    """The same model; ours with fast attention, as `load_sam` gives it."""
    sam = plain_sam(model, size, device)
    if ours:
        use_fast_attention(sam.image_encoder)
    return sam


def encode(ours: bool, device: str, model: str, size: int, precision: str) -> Job:
    """The image encoder, without gradients; the result is the embedding, float32."""
    return _encoding(make_sam(ours, model, size, device), precision, device)


def _encoding(sam: Sam, precision: str, device: str) -> Job:
    side = sam.image_encoder.img_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)
    context = partial(devices.autocast, devices.resolve_precision(precision, device), device)

    @torch.no_grad()
    def run() -> Tensor:
        with context():
            embedding: Tensor = sam.image_encoder(image)
        return embedding.float()

    return Job(run, run)


def merged(ours: bool, device: str, model: str, size: int, precision: str, adapter: int = 0) -> Job:
    """The encoder of our model, with a merged random adapter of rank `adapter`, or none."""
    sam = make_sam(True, model, size, device)
    if adapter:
        random_adapter(sam, adapter)
        merge(sam)
    return _encoding(sam, precision, device)


def random_adapter(sam: Sam, rank: int) -> None:
    """LoRA on q and v as if trained: B is random too."""
    torch.manual_seed(0)
    add_lora(sam, LoRAConfig(rank))
    randomise(lora_parameters(sam))


def randomise(parameters: list[nn.Parameter]) -> None:
    """Every B, which is zero at first, gets small random values; the same on both sides."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters[1::2]:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def train_step(
    ours: bool, device: str, model: str, size: int, rank: int, batch: int, precision: str, checkpointing: bool = False,
    plain: bool = True,
) -> Job:  # fmt: skip
    """One optimiser step on generated crops of 512 pixels, enlarged; the result is the gradient before it.

    plain: whether the reference side is the plain loop, or ours too.
    """
    ours = ours or not plain
    precision = devices.resolve_precision(precision, device)
    sam = make_sam(ours, model, size, device)
    torch.manual_seed(0)
    parameters = add_plain_lora(sam, rank) if not ours else lora_parameters(add_lora(sam, LoRAConfig(rank)))
    randomise(parameters)
    samples = [generate(0, i) for i in range(2)]
    virtual = VirtualSet(samples, max(batch, 2), seed=0, crop_size=512)
    items = TrainingItems(virtual, size, sam.prompt_encoder.mask_input_size[0], k=8)
    one, many = (_to(device, collate([items[i] for i in range(n)])) for n in (1, batch))
    if not ours:
        loop = PlainLoop(sam, parameters, precision)
        return _job(loop.optimizer, parameters, lambda: loop.step(many), lambda: loop.step(one))
    fabric = make_fabric(device, precision)
    adam = torch.optim.Adam(parameters, lr=1e-4, weight_decay=0.01)
    whole = Objective(sam, "semantic")
    objective, optimizer = fabric.setup(whole, adam)
    sam.train()

    def step(batch: dict[str, Any]) -> None:
        with training_blocks(sam.image_encoder, checkpointing):
            fit(fabric, objective, optimizer, itertools.repeat(batch), 1, lambda step: 1e-4, pieces=whole.pieces)

    return _job(adam, parameters, lambda: step(many), lambda: step(one))


def _to(device: str, batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _job(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], run: Callable[[], Any], warm: Callable[[], Any]
) -> Job:
    """A job that returns the gradient with which the optimiser was called, from the parameters that it began with."""
    kept: list[Tensor] = []
    begin = [p.detach().clone() for p in parameters]

    def keep(*_: Any) -> None:
        kept[:] = [p.grad.detach().float().cpu().flatten() for p in parameters if p.grad is not None]

    optimizer.register_step_pre_hook(keep)

    def restored() -> None:
        warm()
        with torch.no_grad():
            for parameter, value in zip(parameters, begin, strict=True):
                parameter.copy_(value)

    def step() -> Tensor:
        run()
        return torch.cat(kept)

    return Job(step, restored)


def generate_masks(
    ours: bool, device: str, model: str, side: int, crops: int, encoding: bool, passing: float | None = None,
    threshold: float | None = None, precision: str = "32-true", guided: bool = False,
) -> Job:  # fmt: skip
    """The mask generator on a generated micrograph of 1024 x 768 pixels; the result is its annotations.

    encoding: whether the image is encoded in what is timed. passing: the share of masks that passes the filter by
    predicted IoU, whose `threshold` the caller then gives. precision: of the image encoder on our side. guided: the
    guided generator in place of the exact one.
    """
    image, sam = micrograph(), generator_sam(ours, model, encoding, device)
    settings = generator_settings(model, side, crops, passing, threshold)
    if guided:
        by_foreground, fewer = (GuidedGenerator(sam, points_per_side=points) for points in (side, 2))
        return Job(lambda: by_foreground.generate(image), lambda: fewer.generate(image), {"prompts": prompts(settings)})
    if ours:
        context = partial(devices.autocast, precision, device)
        generator = MaskGenerator(sam, autocast=context, **settings)
    else:
        generator = SamAutomaticMaskGenerator(sam, **settings)
    # two points of a side: all that is done once is done before the clock runs
    small = settings | {"points_per_side": 2, "crop_n_layers": 0, "stability_score_thresh": 0.0, "pred_iou_thresh": 0.0}
    warm = type(generator)(sam, **small)
    return Job(lambda: generator.generate(image), lambda: warm.generate(image), {"prompts": prompts(settings)})


def generator_sam(ours: bool, model: str, encoding: bool, device: str) -> Sam:
    """lite, or a larger model of random weights with a merged random adapter; without `encoding` its image encoder
    returns one embedding for any image, so that what is timed are the prompts.
    """
    sam = make_sam(ours, model, None, device)
    if model != "lite":
        random_adapter(sam, 32)
        merge(sam)
    if not encoding:
        side = sam.image_encoder.img_size
        image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)
        with torch.no_grad():
            embedding = sam.image_encoder(image)
        sam.image_encoder.forward = lambda x: embedding.expand(len(x), -1, -1, -1)
    return sam


def micrograph() -> np.ndarray:
    """A generated micrograph, uint8 (768, 1024, 3)."""
    return as_rgb(generate(1, 0, size=IMAGE).image)


def generator_settings(
    model: str, side: int, crops: int, passing: float | None, threshold: float | None
) -> dict[str, Any]:
    """The study's settings for ViT-B and the quick ones for lite; random weights have no meaningful thresholds, so
    that what passes is chosen.
    """
    base = QUICK_SETTINGS if model == "lite" else STUDY_SETTINGS
    settings = {k: v for k, v in base.items() if k != "points_per_batch"}  # the original's default
    settings |= {"points_per_side": side, "crop_n_layers": crops}
    if passing is not None:
        settings |= {"pred_iou_thresh": 0.0 if passing == ALL_PASS else threshold, "stability_score_thresh": 0.0}
    return settings


def prompts(settings: dict[str, Any]) -> int:
    """Points asked on the image and its crops."""
    factor = settings.get("crop_n_points_downscale_factor", 1)
    layers = range(settings.get("crop_n_layers", 0) + 1)
    count: int = sum(4**layer * (settings["points_per_side"] // factor**layer) ** 2 for layer in layers)
    return count


WORK: dict[str, Callable[..., Job]] = {
    "encode": encode, "train_step": train_step, "generate": generate_masks, "merged": merged,
}  # fmt: skip
