"""Every knob of one run, frozen and validated, with a stable run id."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

RESULT_VERSION = 6  # raised whenever the code's results change, so that old runs are not mistaken for new ones

Method = Literal["lora", "frozen", "decoder", "lora_decoder", "full", "unet", "unet_watershed", "otsu", "watershed"]
Scaling = Literal["alpha/r", "alpha/sqrt(r)", "none"]
Target = Literal["q", "k", "v", "proj", "lin1", "lin2"]
Evaluator = Literal["predictor", "point", "box", "generator", "exact_box", "guided"]
METHODS, SCALINGS, TARGETS, EVALUATORS = map(get_args, (Method, Scaling, Target, Evaluator))
UNRATED = ("unet", "unet_watershed", "otsu", "watershed")  # no mask generator: no ratings to filter by
DIVIDED = ("unet_watershed", "watershed")  # whose particles are divided by a watershed
UNTRAINED = ("frozen", "otsu", "watershed")  # nothing that only training reads can change their results


def _listed(value: Any) -> Any:
    """Lists, which come from YAML and JSON, and a single name, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _in(order: tuple[str, ...]) -> AfterValidator:
    """One way to write each run, so that one run has one id."""
    return AfterValidator(lambda value: tuple(name for name in order if name in value))


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Name = BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
Listed, Sorted = BeforeValidator(_listed), AfterValidator(lambda value: tuple(sorted(set(value))))
Place = Annotated[Text, Name]
Targets = Annotated[tuple[Target, ...], Field(min_length=1), Listed, _in(TARGETS)]
Evaluators = Annotated[tuple[Evaluator, ...], Field(min_length=1), Listed, _in(EVALUATORS)]
Blocks = Annotated[tuple[Natural, ...], Field(min_length=1), Listed, Sorted]
Config = TypeVar("Config")
NAMED_DATA = ("synthetic", "emps")  # data sets that have a name of their own; any other is a folder
# later than the first published runs: no part of the run id at their defaults
ADDED: dict[str, Any] = {
    "train_data": None, "train_limit": None, "truncate": [], "transfer": [], "filters": 0, "augmentation": "study",
}  # fmt: skip
# change where and how a run is done, not what comes out of it
NOT_RESULTS = ("device", "workers", "checkpointing", "compile", "name")


REMEDIES = {
    "tuple_type": "give a list", "too_short": "give at least one", "string_too_short": "give a text",
    "unexpected_keyword_argument": "there is no such setting",
}  # where pydantic's own words name no way out  # fmt: skip


def _one_sentence(config: type[Config]) -> type[Config]:
    """The class, whose pydantic errors become a ValueError in one sentence that names the field."""
    build = config.__init__

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            build(self, *args, **values)
        except ValidationError as errors:
            error = errors.errors()[0]
            name, *inside = error["loc"]
            if isinstance(name, int):  # given by position
                name = fields(self)[name].name
            verb, said = "holds" if inside else "is", error["msg"].replace("Input", "it").replace("'", "")
            said = REMEDIES.get(error["type"], said)
            shown = repr(error["input"])
            shown = shown if len(shown) <= 200 else f"{shown[:100]}..."
            raise ValueError(f"{name} {verb} {shown}; {said[0].lower()}{said[1:]}.") from None

    config.__init__ = __init__  # type: ignore[method-assign]
    return config


@_one_sentence
@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class RunConfig:
    """One run: data, model, adapter, optimisation and evaluation. Raises ValueError for a value out of range."""

    name: str = "main"  # label in tables; not part of the run id
    # lora | frozen (the base as it is: evaluation only) | decoder (the mask decoder is trained) | lora_decoder (both) |
    # full (every weight is) | unet (on the base's own stem, trained on the same images) | unet_watershed (it learns
    # distances too, by which its foreground is divided) | otsu | watershed (Otsu's foreground, divided)
    method: Method = "lora"
    # data
    data: Place = "synthetic"  # synthetic | emps | a folder
    limit: Count | None = None  # at most this many images in all
    split_seed: Natural = 0
    # train and validate on another data set than the one of the test; None: on the same
    train_data: Place | None = None
    train_limit: Count | None = None  # at most this many training images, drawn by `seed`; more hold the fewer
    # model
    model: Text = "lite"
    checkpoint: Annotated[str | None, Name] = None
    image_size: Count | None = None  # side of the model's square input, pixels; None: the model's own
    # adapter
    rank: Count = 32
    alpha: Positive | None = None  # None: equal to rank
    scaling: Scaling = "alpha/r"
    targets: Targets = ("q", "v")
    blocks: Blocks | None = None  # None: all
    dropout: Share = 0.0
    # optimisation
    objective: Literal["semantic", "instance", "mixed"] = "mixed"
    epochs: Count = 40
    steps: Count | None = None  # optimiser steps; overrides epochs
    virtual_size: Count | None = None  # augmented images an epoch; None: 24 a training image
    crop_size: Count = 512  # pixels of the original image
    augmentation: Literal["study", "wide"] = "study"  # wide: other scales, inverted, blurred and noisy too
    batch_size: Count = 8
    accumulate: Count = 1  # batches an optimiser step
    learning_rate: Positive = 1e-4
    # adamw | adam (PyTorch's, whose weight decay is part of the gradient and, divided by the gradient's size, takes
    # whatever the loss asks little of to zero: the first runs had it, and their ids do not name it)
    optimizer: Literal["adamw", "adam"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Share = 0.05  # fraction of the steps
    clip_norm: Positive = 1.0
    prompts_per_image: Count = 8  # instances an image in the instance objective
    validate_every: Count | None = None  # steps; None: ten times a run
    patience: Count | None = None  # validations without improvement before stopping; None: never
    seed: Natural = 0
    # evaluation
    evaluate: Evaluators = ("predictor",)
    # ranks to which the trained adapter is cut down, and asked by the predictor again
    truncate: Annotated[tuple[Count, ...], Listed, Sorted] = ()
    transfer: Annotated[tuple[Text, ...], Listed] = ()  # other data sets, on which the trained model is judged as well
    generator: Literal["quick", "study"] = "quick"  # quick | study: the mask generator's settings
    test_limit: Count | None = None  # at most this many test images
    # validation images at most on which the mask generator is asked without its filters: calibration, thresholds
    filters: Natural = 0
    # machine
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    device: Text = "auto"
    workers: Natural | None = None  # data-loading processes; None: what the device likes
    checkpointing: bool = False  # compute the encoder's blocks again in the backward pass: less memory, more time
    compile: bool = False  # torch.compile the encoder's blocks: slow to start, no gain for lite on a CPU

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
        unknown = sorted(set(values) - known, key=str)
        if unknown:
            raise ValueError(
                f"{str(unknown[0])[:80]!r} is not a setting of a run; the settings are {', '.join(sorted(known))}."
            )
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
        for name, usual in ADDED.items():
            if values[name] == usual:
                values.pop(name)
        if values["optimizer"] == "adam":
            values.pop("optimizer")
        for name in TRAINING_FIELDS if self.method in UNTRAINED else ():
            values.pop(name, None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


TRAINING_FIELDS = (
    "rank", "alpha", "scaling", "targets", "blocks", "dropout", "objective", "epochs", "steps", "virtual_size",
    "crop_size", "batch_size", "accumulate", "learning_rate", "optimizer", "weight_decay", "warmup",
    "clip_norm", "prompts_per_image", "validate_every", "patience", "seed", "train_data", "train_limit", "truncate",
    "augmentation",
)  # fmt: skip
