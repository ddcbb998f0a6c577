"""What is timed: one case a row of the chapter, as data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ENCODER, TRAINING, GENERATOR, MERGED, GROWTH = "encoder", "training", "generator", "merged", "growth"
GROUPS = (ENCODER, TRAINING, GENERATOR, MERGED, GROWTH)
ALL_PASS, TENTH = 1.0, 0.1  # share of masks that the filter by predicted IoU lets through
NAMES = {"vit_b": "ViT-B", "lite": "lite"}


@dataclass(frozen=True)
class Case:
    """One comparison: `work` names a function of `bench.work`, which `settings` are given to on both
    sides, `ours` and `reference` on one. at_least, at_most: the aim for the ratio of times; axes: {figure: x} of the
    growth figures in which it is a point.
    """

    name: str
    group: str
    title: str
    work: str
    settings: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    at_least: float | None = None
    at_most: float | None = None
    axes: Mapping[str, float] = field(default_factory=dict)

    @property
    def against_ours(self) -> bool:
        """Whether the reference side, too, is this project's own code, and so has its allocator's settings."""
        return self.group == MERGED or "plain" in self.reference

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def cases(device: str) -> list[Case]:
    """Every comparison for a device (cpu, cuda); those that have an aim come first."""
    everything = [*_encoder(device), *_generator(device), *_merged(device), *_growth(device), *_training(device)]
    return sorted(everything, key=lambda case: case.at_least is None)


def _encoder(device: str) -> Iterator[Case]:
    bf16_aims, float32_aims = ({("vit_b", 1024): aim} if device == "cpu" else {} for aim in (3.5, 1.3))
    for model, size in (("vit_b", 1024), ("vit_b", 512), ("lite", 1024), ("lite", 512), ("lite", 384)):
        settings = {"model": model, "size": size}
        shown = f"{NAMES[model]} at {size}"
        axes = {"image size": size} if model == "vit_b" else {}
        yield Case(
            f"encoder-{model}-{size}-bf16", ENCODER, f"{shown}, bf16 against float32", "encode", settings,
            {"precision": "bf16-mixed"}, {"precision": "32-true"}, at_least=bf16_aims.get((model, size)), axes=axes,
        )  # fmt: skip
        if size > 384:  # below, few tokens take the original's way
            yield Case(
                f"encoder-{model}-{size}-float32", ENCODER, f"{shown}, both float32", "encode",
                settings | {"precision": "32-true"}, at_least=float32_aims.get((model, size)),
            )  # fmt: skip
        if device != "cpu":
            yield Case(
                f"encoder-{model}-{size}-both-bf16", ENCODER, f"{shown}, both bf16", "encode",
                settings | {"precision": "bf16-mixed"},
            )  # fmt: skip


def _generator(device: str) -> Iterator[Case]:
    """The study's settings on a 1024 x 768 image; on a CPU with every sixth point of a side."""
    side = 16 if device == "cpu" else 100
    share = "" if side == 100 else f", {_prompts(side):,} of {_prompts(100):,} prompts"
    aims = {TENTH: 8.0, ALL_PASS: 3.0} if device == "cpu" else {TENTH: 4.0, ALL_PASS: 4.0}
    for passing, words in ((TENTH, "a tenth passes"), (ALL_PASS, "all pass")):
        yield Case(
            f"generator-vit_b-{'all' if passing == ALL_PASS else 'tenth'}", GENERATOR,
            f"ViT-B, the study's settings{share}, {words} the IoU filter, after encoding", "generate",
            {"model": "vit_b", "side": side, "crops": 1, "passing": passing, "encoding": False},
            at_least=aims[passing],
        )  # fmt: skip
    yield Case(
        "generator-lite", GENERATOR, "lite, quick settings with 32 points a side, encoding included", "generate",
        {"model": "lite", "side": 32, "crops": 0, "encoding": True},
    )  # fmt: skip
    yield Case(
        "generator-lite-bf16", GENERATOR, "lite, the same, image encoder in bf16 (other masks)", "generate",
        {"model": "lite", "side": 32, "crops": 0, "encoding": True}, {"precision": "bf16-mixed"},
    )  # fmt: skip
    yield Case(
        "generator-lite-guided", GENERATOR, "lite, guided by the foreground (other masks), the same points",
        "generate", {"model": "lite", "side": 32, "crops": 0, "encoding": True}, {"guided": True}, at_least=10.0,
    )  # fmt: skip


def _prompts(side: int) -> int:
    return side**2 + 4 * (side // 2) ** 2


def _training(device: str) -> Iterator[Case]:
    settings = {"model": "vit_b", "size": 1024, "rank": 512}
    aim = 4.0 if device == "cpu" else None
    for batch in (8, 1):
        yield Case(
            f"training-vit_b-{batch}", TRAINING, f"ViT-B at 1024, rank 512, batch {batch}", "train_step",
            settings | {"batch": batch}, {"precision": "auto"}, {"precision": "32-true"}, at_least=aim,
        )  # fmt: skip
    if device != "cpu":
        yield Case(
            "training-vit_b-8-both-bf16", TRAINING, "ViT-B at 1024, rank 512, batch 8, both bf16", "train_step",
            settings | {"batch": 8, "precision": "bf16-mixed"}, at_least=2.0,
        )  # fmt: skip
    yield Case(
        "training-checkpointing", TRAINING, "ViT-B at 512, batch 1: activations recomputed, against ours without",
        "train_step", settings | {"size": 512, "batch": 1, "precision": "auto"}, {"checkpointing": True},
        {"plain": False},
    )  # fmt: skip


def _merged(device: str) -> Iterator[Case]:
    settings = {"model": "vit_b", "size": 512, "precision": "auto"}
    yield Case(
        "merged-vit_b", MERGED, "ViT-B at 512: merged adapter against the base", "merged", settings, {"adapter": 512},
        at_least=0.95, at_most=1.05,
    )  # fmt: skip
    yield Case("merged-control", MERGED, "ViT-B at 512: the base against itself", "merged", settings)


def _growth(device: str) -> Iterator[Case]:
    for size in (256, 768):
        yield Case(
            f"growth-size-{size}", GROWTH, f"encoder, ViT-B at {size}, bf16 against float32", "encode",
            {"model": "vit_b", "size": size}, {"precision": "bf16-mixed"}, {"precision": "32-true"},
            axes={"image size": size},
        )  # fmt: skip
    for side in (8, 16, 32):
        yield Case(
            f"growth-prompts-{side**2}", GROWTH, f"mask generator, lite, {side**2} prompts, after encoding",
            "generate", {"model": "lite", "side": side, "crops": 0, "encoding": False}, axes={"prompts": side**2},
        )  # fmt: skip
    small = {"model": "lite", "size": 384, "rank": 32}
    for batch in (1, 4, 16):
        axes = {"batch size": batch} | ({"rank": 32} if batch == 4 else {})
        yield Case(
            f"growth-batch-{batch}", GROWTH, f"training step, lite at 384, rank 32, batch {batch}", "train_step",
            small | {"batch": batch}, {"precision": "auto"}, {"precision": "32-true"}, axes=axes,
        )  # fmt: skip
    for rank in (8, 128):
        yield Case(
            f"growth-rank-{rank}", GROWTH, f"training step, lite at 384, batch 4, rank {rank}", "train_step",
            small | {"rank": rank, "batch": 4}, {"precision": "auto"}, {"precision": "32-true"}, axes={"rank": rank},
        )  # fmt: skip
