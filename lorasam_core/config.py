"""Every knob of one run, frozen and validated, with a stable run id."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

RESULT_VERSION = 4  # raised whenever the code's results change, so that old runs are not mistaken for new ones

METHODS = ("lora", "frozen", "decoder", "full", "unet", "unet_watershed", "otsu", "watershed")
UNRATED = ("unet", "unet_watershed", "otsu", "watershed")  # no mask generator: no ratings to filter by
DIVIDED = ("unet_watershed", "watershed")  # a foreground whose particles are divided by a watershed
UNTRAINED = ("frozen", "otsu", "watershed")  # nothing that only training reads can change their results
OBJECTIVES = ("semantic", "instance", "mixed")
SCALINGS = ("alpha/r", "alpha/sqrt(r)", "none")
TARGETS = ("q", "k", "v", "proj", "lin1", "lin2")
EVALUATORS = ("predictor", "point", "box", "generator", "exact_box")
OPTIMIZERS = ("adamw", "adam")
PRECISIONS = ("auto", "32-true", "bf16-mixed")
ONE_OF = {
    "method": METHODS, "objective": OBJECTIVES, "scaling": SCALINGS, "optimizer": OPTIMIZERS, "precision": PRECISIONS,
    "generator": ("quick", "study"),
}  # fmt: skip
SEVERAL = {"targets": TARGETS, "evaluate": EVALUATORS}
WHOLE_NUMBERS = {
    "rank": 1, "epochs": 1, "batch_size": 1, "accumulate": 1, "crop_size": 1, "prompts_per_image": 1, "seed": 0,
    "split_seed": 0, "workers": 0, "filters": 0,
}  # each with its least value  # fmt: skip
OPTIONAL = {
    "steps", "virtual_size", "limit", "test_limit", "validate_every", "patience", "image_size", "workers",
    "train_limit",
}  # a whole number, of at least 1 where the table above has no other, or none  # fmt: skip
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "alpha": (lambda x: 0 < x < math.inf, "a number above 0, or none for alpha = rank"),
    "dropout": (lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "learning_rate": (lambda x: 0 < x < math.inf, "a number above 0"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "warmup": (lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "clip_norm": (lambda x: 0 < x < math.inf, "a number above 0"),
}
SWITCHES = ("checkpointing", "compile")
NAMED_DATA = ("synthetic", "emps")  # data sets that have a name of their own; any other is a folder
# later than the first published runs: no part of the run id at their defaults
ADDED = ("train_data", "train_limit", "truncate", "transfer", "filters")
# change where and how a run is done, not what comes out of it
NOT_RESULTS = ("device", "workers", "checkpointing", "compile", "name")


@dataclass(frozen=True)
class RunConfig:
    """One run: data, model, adapter, optimisation and evaluation. Raises ValueError for a value out of range."""

    name: str = "main"  # label in tables; not part of the run id
    # lora | frozen (the base as it is: evaluation only) | decoder (the mask decoder is trained) | full (every weight
    # is) | unet (trained from scratch on the same images) | unet_watershed (the same, its foreground divided) | otsu |
    # watershed (Otsu's foreground, divided)
    method: str = "lora"
    # data
    data: str = "synthetic"  # synthetic | emps | a folder
    limit: int | None = None  # at most this many images in all
    split_seed: int = 0
    train_data: str | None = None  # train and validate on another data set than the one of the test; None: on the same
    train_limit: int | None = None  # at most this many training images, drawn by `seed`; more hold the fewer
    # model
    model: str = "lite"
    checkpoint: str | None = None
    image_size: int | None = None  # side of the model's square input, pixels; None: the model's own
    # adapter
    rank: int = 32
    alpha: float | None = None  # None: equal to rank
    scaling: str = "alpha/r"
    targets: tuple[str, ...] = ("q", "v")
    blocks: tuple[int, ...] | None = None  # None: all
    dropout: float = 0.0
    # optimisation
    objective: str = "mixed"
    epochs: int = 40
    steps: int | None = None  # optimiser steps; overrides epochs
    virtual_size: int | None = None  # augmented images an epoch; None: 24 a training image
    crop_size: int = 512  # pixels of the original image
    batch_size: int = 8
    accumulate: int = 1  # batches an optimiser step
    learning_rate: float = 1e-4
    # adamw | adam (PyTorch's, whose weight decay is part of the gradient and, divided by the gradient's size, takes
    # whatever the loss asks little of to zero: the first runs had it, and their ids do not name it)
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.05  # fraction of the steps
    clip_norm: float = 1.0
    prompts_per_image: int = 8  # instances an image in the instance objective
    validate_every: int | None = None  # steps; None: ten times a run
    patience: int | None = None  # validations without improvement before stopping; None: never
    seed: int = 0
    # evaluation
    evaluate: tuple[str, ...] = ("predictor",)
    truncate: tuple[int, ...] = ()  # ranks to which the trained adapter is cut down, and asked by the predictor again
    transfer: tuple[str, ...] = ()  # other data sets, on which the trained model is judged as well
    generator: str = "quick"  # quick | study: the mask generator's settings
    test_limit: int | None = None  # at most this many test images
    # validation images at most on which the mask generator is asked without its filters: calibration, thresholds
    filters: int = 0
    # machine
    precision: str = "auto"
    device: str = "auto"
    workers: int | None = None  # data-loading processes; None: what the device likes
    checkpointing: bool = False  # compute the encoder's blocks again in the backward pass: less memory, more time
    compile: bool = False  # torch.compile the encoder's blocks: slow to start, no gain for lite on a CPU

    def __post_init__(self) -> None:
        for name in ("data", "checkpoint", "train_data"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        for name in ("targets", "blocks", "evaluate", "truncate", "transfer"):  # lists come from YAML and JSON
            if isinstance(value := getattr(self, name), list | str):
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        self._check_choices()
        self._check_whole_numbers()
        self._check_numbers()
        # one way to write each run, so that one run has one id
        for name, order in SEVERAL.items():
            object.__setattr__(self, name, tuple(x for x in order if x in getattr(self, name)))
        for name in ("blocks", "truncate"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    def _check_choices(self) -> None:
        for name in ("name", "data", "model", "device"):
            if not isinstance(value := getattr(self, name), str) or not (value or name == "name"):
                raise ValueError(f"{name} is {value!r}; give a text.")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str):
            raise ValueError(f"checkpoint is {self.checkpoint!r}; give a path, or none for the model's own.")
        if self.train_data is not None and not (isinstance(self.train_data, str) and self.train_data):
            raise ValueError(f"train_data is {self.train_data!r}; name a data set, or none for that of the test.")
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is {value!r}; give true or false.")
        for name, allowed in ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
        for name, allowed in SEVERAL.items():
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value:
                raise ValueError(f"{name} is {value!r}; choose from {', '.join(allowed)}.")
            if unknown := [x for x in value if x not in allowed]:
                raise ValueError(f"{name} holds {unknown[0]!r}; choose from {', '.join(allowed)}.")

    def _check_whole_numbers(self) -> None:
        for name in OPTIONAL | WHOLE_NUMBERS.keys():
            value, least = getattr(self, name), WHOLE_NUMBERS.get(name, 1)
            if not ((value is None and name in OPTIONAL) or (_is_whole(value) and value >= least)):
                raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")
        blocks = self.blocks
        if blocks is not None and not (
            isinstance(blocks, tuple) and blocks and all(_is_whole(b) and b >= 0 for b in blocks)
        ):
            raise ValueError(f"blocks is {blocks!r}; give block numbers from 0, or none for all.")
        if not (isinstance(self.transfer, tuple) and all(isinstance(name, str) and name for name in self.transfer)):
            raise ValueError(f"transfer is {self.transfer!r}; name data sets, or [] for none.")
        if not (isinstance(self.truncate, tuple) and all(_is_whole(rank) and rank >= 1 for rank in self.truncate)):
            raise ValueError(f"truncate is {self.truncate!r}; give ranks from 1, or [] for none.")

    def _check_numbers(self) -> None:
        for name, (fits, wanted) in NUMBERS.items():
            value = getattr(self, name)
            if value is None and name == "alpha":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
                raise ValueError(f"{name} is {value!r}; give {wanted}.")
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one setting

    @property
    def factor(self) -> float:
        """What B A is multiplied by: alpha / r, alpha / sqrt(r) or, with scaling "none", 1; alpha None is the rank."""
        alpha = self.rank if self.alpha is None else self.alpha
        return {"alpha/r": alpha / self.rank, "alpha/sqrt(r)": alpha / math.sqrt(self.rank), "none": 1.0}[self.scaling]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of every field."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """Build from a dictionary; raises ValueError that names an unknown key."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a setting of a run; the settings are {', '.join(sorted(known))}.")
        return cls(**values)

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def run_id(self, base_hash: str, data_fingerprint: str, split_hash: str) -> str:
        """12 hex digits of the SHA-256 of all that decides the result; the precision must be resolved before.

        data_fingerprint: of the contents of `data` and `train_data`; where these are folders, their paths do not count.
        """
        if self.precision == "auto":
            raise ValueError("precision is 'auto'; resolve it by the machine before asking for a run id.")
        values = {k: v for k, v in self.to_dict().items() if k not in NOT_RESULTS and k != "checkpoint"}
        values |= {"base": base_hash, "fingerprint": data_fingerprint, "split": split_hash, "version": RESULT_VERSION}
        if self.data not in NAMED_DATA:
            values.pop("data")
        if self.train_data not in NAMED_DATA:
            values["train_data"] = None
        for name in ADDED:
            if values[name] in (None, [], 0):
                values.pop(name)
        if values["optimizer"] == "adam":
            values.pop("optimizer")
        for name in TRAINING_FIELDS if self.method in UNTRAINED else ():
            values.pop(name, None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TRAINING_FIELDS = (
    "rank", "alpha", "scaling", "targets", "blocks", "dropout", "objective", "epochs", "steps", "virtual_size",
    "crop_size", "batch_size", "accumulate", "learning_rate", "optimizer", "weight_decay", "warmup",
    "clip_norm", "prompts_per_image", "validate_every", "patience", "seed", "train_data", "train_limit", "truncate",
)  # fmt: skip
