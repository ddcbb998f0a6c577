"""What is compared, as one table: how each method is fitted, what it keeps on disk, and what it answers with.

A new rival is a row here, and its name in `config.METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from segment_anything.modeling import Sam

from lorasam_core.config import RunConfig
from lorasam_core.data import SampleSet
from lorasam_core.experiments import baselines, unet
from lorasam_core.experiments.baselines import Segmenter
from lorasam_core.models.lora import count_trainable, lora_parameter_count
from lorasam_core.training import loop, trainable

Fitted: TypeAlias = tuple[Segmenter | None, dict[str, Any]]  # what segments in place of the model; what was measured


@dataclass(frozen=True)
class Task:
    """What a method is fitted with; `sam` is changed in place."""

    sam: Sam
    train: SampleSet
    val: SampleSet
    config: RunConfig
    folder: Path
    trackers: Sequence[Any]


def _as_it_is(task: Task) -> Fitted:
    return None, {}


def _sam(task: Task) -> Fitted:
    """Train LoRA, the mask decoder, both or every weight, as the settings say."""
    count = count_trainable(trainable.select(task.sam, task.config))
    found = loop.train(task.sam, task.train, task.val, task.config, task.folder, callbacks=task.trackers)
    return None, {"trainable_parameters": count} | found


def _unet(task: Task) -> Fitted:
    net, found = unet.train_unet(task.sam, task.train, task.val, task.config, task.folder, task.trackers)
    segment, chosen = baselines.tuned(task.val, net.foreground, baselines.components)
    return segment, found | {"chosen": chosen}


def _unet_watershed(task: Task) -> Fitted:
    net, found = unet.train_unet(task.sam, task.train, task.val, task.config, task.folder, task.trackers, True)
    segment, chosen = baselines.tuned(task.val, net.answer, unet.grown, unet.SEEDS)
    return segment, found | {"chosen": chosen}


def _otsu(task: Task) -> Fitted:
    segment, chosen = baselines.tuned(task.val, baselines.foreground, baselines.components)
    return segment, {"chosen": chosen}


def _watershed(task: Task) -> Fitted:
    segment, chosen = baselines.tuned(task.val, baselines.foreground, baselines.divide, baselines.DISTANCES)
    return segment, {"chosen": chosen}


def _nothing(sam: Sam, config: RunConfig) -> int:
    return 0


def _lora(sam: Sam, config: RunConfig) -> int:
    blocks = sam.image_encoder.blocks
    width, depth = blocks[0].attn.proj.in_features, len(config.blocks or blocks)
    return lora_parameter_count(width, depth, config.rank, config.targets)


def _decoder(sam: Sam, config: RunConfig) -> int:
    return sum(p.numel() for p in sam.mask_decoder.parameters())


def _lora_decoder(sam: Sam, config: RunConfig) -> int:
    return _lora(sam, config) + _decoder(sam, config)


def _full(sam: Sam, config: RunConfig) -> int:
    return sum(p.numel() for p in sam.parameters())


def _net(sam: Sam, config: RunConfig) -> int:
    return 15_000_000  # about


@dataclass(frozen=True)
class Method:
    """fit: train or tune on a task's images; kept: about how many numbers training keeps, of a base and settings."""

    fit: Callable[[Task], Fitted] = _as_it_is
    kept: Callable[[Sam, RunConfig], int] = _nothing


TABLE = {
    "frozen": Method(),
    "lora": Method(_sam, _lora),
    "decoder": Method(_sam, _decoder),
    "lora_decoder": Method(_sam, _lora_decoder),
    "full": Method(_sam, _full),
    "unet": Method(_unet, _net),
    "unet_watershed": Method(_unet_watershed, _net),
    "otsu": Method(_otsu),
    "watershed": Method(_watershed),
}
