"""What the rebuilt study reports, as data; shown only under the words "reported by the study".

The study: "Particle Segmentation (using Segment Anything Model)", SAM base (ViT-B) adapted with LoRA to SEM
micrographs of battery powders. Dice values are in %. Nothing in this file was measured by this project.
"""

from __future__ import annotations

from typing import Any

REPORTED = "reported by the study"
MODEL_WIDTHS = {"lite": 192, "vit_t": 192, "vit_b": 768, "vit_l": 1024, "vit_h": 1280}  # channels of the image encoder

STUDY: dict[str, Any] = {
    "model": "vit_b",
    "width": 768,
    "blocks": 12,
    "images": 243,
    "augmented_images": 5820,
    "epochs": 40,
    "test_dice": 96.14,
    # setting -> value -> (test Dice in %, trainable parameters in millions or None)
    "rank": {128: (82.39, 2.8), 256: (89.56, 5.73), 512: (96.14, 11.44), 1024: (96.22, 22.9)},
    "learning_rate": {1e-2: (89.50, None), 1e-3: (94.29, None), 1e-4: (96.14, None), 1e-5: (93.75, None)},
    "batch_size": {2: (90.61, None), 4: (92.77, None), 8: (96.14, None), 16: (94.55, None), 32: (95.48, None)},
    # read off the plot at the last epoch; columns as in history.csv
    "curves": {
        "train_loss": 0.039, "train_accuracy": 0.987, "train_miou": 0.975,
        "val_loss": 0.052, "val_accuracy": 0.984, "val_miou": 0.969,
    },
    # Dice of the mask generator's union: frozen, then adapted
    "test_cases": {1: (89.11, 94.27), 2: (88.53, 94.77), 3: (85.40, 92.19), 4: (84.28, 97.55)},
    "lowest_case": 3,
    "highest_case": 4,
}  # fmt: skip


def width_of(model: str) -> int:
    """Channels of a model's image encoder; raises ValueError for an unknown model."""
    if model not in MODEL_WIDTHS:
        raise ValueError(f"model is {model!r}; choose one of {', '.join(MODEL_WIDTHS)}.")
    return MODEL_WIDTHS[model]


def reported(field: str, value: Any, model: str = "vit_b") -> tuple[float | None, float | None]:
    """The study's (Dice in %, million parameters) at the same setting, or (None, None).

    Ranks scale with the width: rank r of a model of width w stands beside the study's rank of the same r / w, so that
    128, 256, 512, 1024 of 768 are 32, 64, 128, 256 of 192. Other settings must be equal.
    """
    scale = STUDY["width"] / width_of(model) if field == "rank" else 1.0
    for setting, numbers in STUDY.get(field, {}).items() if field in ("rank", "learning_rate", "batch_size") else ():
        if abs(setting - value * scale) <= 1e-6 * setting:
            return numbers
    return None, None


def equivalent(field: str, model: str = "vit_b") -> list[Any]:
    """The study's settings of one ablation, ranks scaled to the model's width; empty for what it did not vary."""
    if field not in ("rank", "learning_rate", "batch_size"):
        return []
    if field != "rank":
        return list(STUDY[field])
    return [r * width_of(model) // STUDY["width"] for r in STUDY["rank"]]
