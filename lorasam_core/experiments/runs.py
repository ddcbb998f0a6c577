"""One run from its settings to its finished folder."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from segment_anything.modeling import Sam
from tqdm import tqdm

from lorasam_core.config import RunConfig
from lorasam_core.data import SampleSet, load_dataset
from lorasam_core.errors import typed
from lorasam_core.experiments import filters, methods, tracking
from lorasam_core.experiments.executor import RunError
from lorasam_core.experiments.files import write_json
from lorasam_core.experiments.judging import adapter_measures, evaluate, test_images, transfer
from lorasam_core.experiments.records import METRICS, Record, is_finished, read_record
from lorasam_core.measure.evaluation import DETAILS, summarize
from lorasam_core.models import devices
from lorasam_core.models.lora import save_adapter
from lorasam_core.models.sam import load_sam
from lorasam_core.training import checkpoint, processes, trainable
from lorasam_core.training.blocks import check_compile
from lorasam_core.training.fit import NonFiniteLoss

SMALL_FILES = 8 * 2**20  # bytes for a run's tables, logs and pages
NOTHING_TRAINED = {
    "trainable_parameters": 0, "seconds": 0.0, "processor_seconds": 0.0, "images_per_s": 0.0, "waiting_share": 0.0,
    "steps": 0, "images_seen": 0, "best_step": 0,
}  # fmt: skip

logger = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def dataset(source: str, seed: int, limit: int | None) -> SampleSet:
    """`load_dataset`, kept in this process: a sweep reads its images once."""
    return load_dataset(source, seed=seed, limit=limit)


@lru_cache(maxsize=2)
def base_sam(model: str, checkpoint: str | None, image_size: int | None) -> Sam:
    """`load_sam` on the CPU, kept in this process; to be copied before it is changed."""
    return load_sam(model, checkpoint=checkpoint, image_size=image_size)


@dataclass(frozen=True)
class Prepared:
    """A run that can start: settings with the precision resolved, its id, device, data and base model."""

    config: RunConfig
    run_id: str
    device: str
    data: SampleSet
    base: Sam
    taught: SampleSet  # whose training and validation part are used; `data`, unless the settings name another

    @property
    def bytes_needed(self) -> int:
        """Disk space of the run, bytes: the best state and the checkpoint, which holds what is trained and two numbers
        of the optimiser for each, are written beside those that they replace.
        """
        return SMALL_FILES + 2 * (1 + 3) * 4 * methods.TABLE[self.config.method].kept(self.base, self.config)


def prepare(config: RunConfig) -> Prepared:
    """Load what a run needs and name it; raises ValueError for data, a checkpoint or a device that cannot be used."""
    device = devices.resolve_device(config.device)
    config = config.replace(precision=devices.resolve_precision(config.precision, device))
    data = dataset(config.data, config.split_seed, config.limit)
    base = base_sam(config.model, config.checkpoint, config.image_size)
    taught, contents, split = data, data.fingerprint, data.split.hash
    if config.train_data is not None:
        taught = dataset(config.train_data, config.split_seed, None)
        contents, split = f"{contents} {taught.fingerprint}", f"{split} {taught.split.hash}"
    return Prepared(config, config.run_id(base.base_hash, contents, split), device, data, base, taught)


def check_disk(folder: Path, needed: int) -> None:
    """Raise ValueError unless `folder` can be written and its disk has `needed` bytes free."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"{there} is not a folder that can be written; name another one with --runs.")
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 2**20:.0f} MB of free space and the runs need about {needed / 2**20:.0f} MB; "
            "free some, or name a folder on another disk with --runs."
        )


def run_one(config: RunConfig, edition_dir: str | Path, wandb: str = "disabled") -> Record:
    """Do one run in `edition_dir`/<run id>, or read it when it is finished already.

    The work goes to <run id>.part, renamed last, with metrics.json written last: no half run looks finished. What is
    left there by a process that was stopped or killed is gone on with. The lock <run id>.lock goes with its process;
    another one waits for it, and then finds the run finished. Raises ValueError before anything is written when data,
    checkpoint, device or disk space do not do, and RunError with the log's path when the run fails; the failed folder
    stays as <run id>.failed, and the run starts anew the next time.
    """
    run = prepare(config)
    final = Path(edition_dir) / run.run_id
    part, lock = (final.with_name(f"{final.name}.{kind}") for kind in ("part", "lock"))
    if not is_finished(final):
        if run.config.compile and run.config.method in trainable.SAM_METHODS:
            check_compile(run.device)
        check_disk(final.parent, run.bytes_needed)
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not is_finished(final):
                _finish(run, part, final, wandb)
    shutil.rmtree(part, ignore_errors=True)  # where another process was killed after it had finished
    with suppress(OSError):
        lock.unlink()  # who waits for it finds the run finished
    return read_record(final)


def _finish(run: Prepared, part: Path, final: Path, wandb: str) -> None:
    """Do what is left of a run whose lock is held."""
    failed = final.with_name(f"{final.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    part.mkdir(exist_ok=True)
    try:
        if not (part / METRICS).is_file():
            with _logged(part / "log.txt"):
                _work(run, part, wandb)
    except Exception as error:
        reason = typed(error, 300)
        if isinstance(error, OSError | MemoryError):  # of the machine, not of the run, which goes on the next time
            raise RunError(
                f"the run {run.config.name!r} was stopped ({reason}); see to it and call again, what was done is kept "
                f"in {part}."
            ) from error
        (part / checkpoint.FILE).unlink(missing_ok=True)
        part.rename(failed)
        raise RunError(f"the run {run.config.name!r} failed ({reason}); its log is {failed / 'log.txt'}.") from error
    (part / checkpoint.FILE).unlink(missing_ok=True)
    part.rename(final)


def _work(run: Prepared, folder: Path, wandb: str) -> None:
    """Train, evaluate and write every file of a run; metrics.json last."""
    config, start = run.config, time.perf_counter()
    logger.info("run %s (%s) on %s, %s", run.run_id, config.name, run.device, config.precision)
    for note in run.data.notes:
        logger.info("data: %s", note)
    write_json(folder / "config.json", config.to_dict())
    run.data.split.save(folder / "split.json")
    if run.taught is not run.data:
        run.taught.split.save(folder / "train_split.json")
    trackers: Sequence[Any] = [LogRows(), *tracking.trackers(wandb, config, folder)]
    metrics: dict[str, Any] = {"run_id": run.run_id, "val": {}, "test": {}, **NOTHING_TRAINED}
    task = _task(run, folder, trackers)
    sam, val_set = task.sam, task.val
    if config.method in trainable.SAM_METHODS:
        processes.tell((config, run.run_id, folder))
        with processes.together():
            segment, found = methods.TABLE[config.method].fit(task)
    else:  # by this process alone: the loss of other methods is no sum over images
        segment, found = methods.TABLE[config.method].fit(task)
    metrics |= found
    if "peak_memory_mb" in metrics:  # of training so far; in the end that of the whole run
        metrics["training_memory_mb"] = round(metrics["peak_memory_mb"], 1)
    details: dict[str, list[dict[str, Any]]] = {}
    metrics["test"], rows = evaluate(segment or sam, run.data.subset("test"), config, run.device, details)
    if "guided" in config.evaluate and segment is None:
        images = test_images(run.data.subset("test"), config)
        autocast = partial(devices.autocast, config.precision, run.device)
        metrics["guided"], more = filters.guided(sam, val_set, images, autocast, details)
        metrics["test"]["guided"] = summarize(more)
        rows = pd.concat([rows, more.assign(evaluator="guided")], ignore_index=True)
    if config.filters and segment is None:
        metrics["filters"], more = filters.measure(sam, val_set, run.data.subset("test"), config, run.device, folder)
        rows = pd.concat([rows, more], ignore_index=True)
    rows.to_csv(folder / "per_image.csv", index=False)
    for name, values in details.items():
        pd.DataFrame(values, columns=DETAILS[name]).round(4).to_csv(folder / f"{name}.csv", index=False)
    metrics |= transfer(segment or sam, config, run.device, folder, dataset, run.taught)
    if config.method == "lora":
        metrics |= adapter_measures(sam, run.data.subset("test"), config, run.device)
        # the best adapter, which `train` left in the model, with where it comes from
        origin = {"run_id": run.run_id, "split_hash": run.data.split.hash, "data_fingerprint": run.data.fingerprint}
        kept = {key: metrics[key] for key in ("val", "test", "best_step")}
        save_adapter(sam, folder / "adapter.safetensors", **origin, metrics=kept)
    metrics["peak_memory_mb"] = round(max(devices.peak_memory_mb(run.device), metrics.get("peak_memory_mb", 0.0)), 1)
    earlier = metrics.pop("earlier_seconds", 0.0)
    for tracker in trackers:
        if hasattr(tracker, "on_end"):
            tracker.on_end(metrics)
    wall = round(earlier + time.perf_counter() - start, 2)
    write_json(folder / "environment.json", {**describe(run), "wall_seconds": wall})
    end = f"finished in {wall:.1f} s, peak memory {metrics['peak_memory_mb']:.0f} MB"
    logger.info(end)
    if not os.environ.get("TQDM_DISABLE"):  # where the bars go, for a log alone is not seen
        tqdm.write(f"{config.name or run.run_id}: {end}", file=sys.stderr)
    write_json(folder / METRICS, metrics)


def _task(run: Prepared, folder: Path, trackers: Sequence[Any] = ()) -> methods.Task:
    """What a run's method is fitted with; the generators of random numbers are seeded."""
    torch.manual_seed(run.config.seed)
    sam = copy.deepcopy(run.base).to(run.device)
    devices.reset_peak_memory(run.device)
    images = training_images(run.taught, run.config), run.taught.subset("val")
    return methods.Task(sam, *images, run.config, folder, trackers)


def take_part() -> None:
    """What every process but the first does: train with it whenever it says so, until it has said that that is all."""
    while (asked := processes.tell()) is not None:
        try:
            with processes.together():
                _take_part(*asked)
        except (processes.OtherFailed, NonFiniteLoss):
            pass  # the first says so
        except Exception:  # the first has it in its log
            logger.exception("process %d failed", torch.distributed.get_rank())


def _take_part(config: RunConfig, run_id: str, folder: Path) -> None:
    run = prepare(config)
    if run.run_id != run_id:
        raise ValueError(f"{config.name} is run {run.run_id} here and {run_id} there; give all the same data and base.")
    methods.TABLE[config.method].fit(_task(run, folder))


class LogRows:
    """A callback that puts the history into the log as it grows."""

    def on_log(self, step: int, row: dict[str, Any]) -> None:
        shown = {key: row[key] for key in ("train_loss", "val_loss", "val_score") if row.get(key) is not None}
        logger.info("step %d: %s", step, ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))


def describe(run: Prepared) -> dict[str, Any]:
    """Machine, base and data of a run, JSON-ready."""
    sizes = {part: len(run.data.subset(part)) for part in ("train", "val", "test")}
    return {
        **devices.environment(run.device),
        "precision": run.config.precision,
        "base_name": run.base.base_name,
        "base_hash": run.base.base_hash,
        "data_name": run.data.name,
        "data_fingerprint": run.data.fingerprint,
        "data_notes": list(run.data.notes),
        "split_hash": run.data.split.hash,
        "images": sizes,
    } | ({"processes": processes.started()} if processes.started() > 1 else {})


def training_images(data: SampleSet, config: RunConfig) -> SampleSet:
    """The training part, or as many of its images as the settings allow, drawn by the run's seed."""
    part = data.subset("train")
    return part if config.train_limit is None else part.draw(min(config.train_limit, len(part)), config.seed)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send log messages, warnings and, if it fails, the traceback to a file."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")  # a run that goes on tells its rows again
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package, warned = logging.getLogger("lorasam_core"), logging.getLogger("py.warnings")
    level = package.level
    package.setLevel(logging.INFO)
    for source in (package, warned):
        source.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException:
        package.error(traceback.format_exc())
        raise
    finally:
        logging.captureWarnings(False)
        for source in (package, warned):
            source.removeHandler(handler)
        package.setLevel(level)
        handler.close()
