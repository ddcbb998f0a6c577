"""The batches of a training: crops on the model's grid with what is asked of them, drawn by seed and epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from multiprocessing import current_process
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lorasam_core.config import RunConfig
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.devices import loader_processes
from lorasam_core.training import processes
from lorasam_core.training.prompts import choose_instances, jittered_boxes, points_inside

DENSE = ("image", "semantic", "distance")  # of an item, stacked in a batch
INSTANCES_AN_EMPTY = 7  # instances for which one point is asked where nothing is: a mask generator asks mostly such


class TrainingItems(Dataset[dict[str, Any]]):
    """The virtual set as SAM's input: image uint8 (3, S, S), semantic target bool (m, m), and up to K instances with
    their targets bool (K, m, m), a point (K, 2) and a jittered box (K, 4) each, in input pixels; empty (E, 2), points
    where nothing is labelled, one for every INSTANCES_AN_EMPTY of `k`. m: the decoder's side.
    extent: (h, w) of the part that is not padding. A share `oblong` of the square crops is cut to a random aspect, for
    the predictor pads whole images that are not square, and a model that never saw padding marks too much beside it.

    Item i is a pure function of (seed, i), prompts included.
    """

    def __init__(self, virtual: VirtualSet, image_size: int, mask_size: int, k: int, oblong: float = 0.0) -> None:
        self.virtual, self.image_size, self.mask_size, self.k = virtual, image_size, mask_size, k
        self.oblong = oblong

    def __len__(self) -> int:
        return len(self.virtual)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, labels = self.virtual[i]
        rng = np.random.default_rng((self.virtual.seed, i, 1))
        if self.oblong and rng.random() < self.oblong:
            image, labels = cut(image, labels, rng)
        rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        resized = ResizeLongestSide(self.image_size).apply_image(rgb)
        extent = resized.shape[:2]
        small = on_grid(extent, self.image_size, self.mask_size)
        targets, points, boxes = prompts_for(labels, extent, small, self.k, rng)
        return {
            "id": f"{self.virtual.samples[self.virtual.parent(i)].id}#{i}",
            "extent": extent,
            "image": pad(torch.from_numpy(resized).permute(2, 0, 1), self.image_size),  # H W C -> C S S
            **self._targets(labels, small),
            "targets": pad(torch.from_numpy(targets), self.mask_size),
            "points": torch.from_numpy(points),
            "boxes": torch.from_numpy(boxes),
            "empty": torch.from_numpy(points_outside(labels, extent, max(1, self.k // INSTANCES_AN_EMPTY), rng)),
        }

    def _targets(self, labels: np.ndarray, small: tuple[int, int]) -> dict[str, Tensor]:
        """What is asked of every pixel, (m, m) each, of labels that fill the first `small` (h, w) of it."""
        return {"semantic": pad(torch.from_numpy(shrink(labels > 0, *small)), self.mask_size)}


def cut(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The first 50 to 100 % of the rows or columns of an image and its labels."""
    axis = int(rng.integers(2))
    keep = max(1, round(rng.uniform(0.5, 1.0) * image.shape[axis]))
    window = (slice(keep), slice(None)) if axis == 0 else (slice(None), slice(keep))
    return image[window], labels[window]


def on_grid(extent: tuple[int, int], image_size: int, mask_size: int) -> tuple[int, int]:
    """Rows and columns of the mask decoder's grid that an image of `extent` (h, w) fills."""
    rows, columns = (max(1, round(side * mask_size / image_size)) for side in extent)
    return rows, columns


def pad(tensor: Tensor, side: int) -> Tensor:
    """(..., h, w) to (..., side, side), zeros below and to the right."""
    return F.pad(tensor, (0, side - tensor.shape[-1], 0, side - tensor.shape[-2]))


def inside(extents: Sequence[tuple[int, int]], side: int, device: torch.device) -> Tensor:
    """Bool (B, side, side): True within each image's (h, w)."""
    h, w = torch.tensor(extents, device=device).T
    at = torch.arange(side, device=device)
    return (at[:, None] < h[:, None, None]) & (at < w[:, None, None])


def prompts_for(
    labels: np.ndarray, size: tuple[int, int], mask_size: tuple[int, int], k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to k instances of int (H, W) labels: their targets bool (K, *mask_size), and a point float32 (K, 2) and a
    jittered box float32 (K, 4) each, in pixels of the image resized to `size`. What is too small to be seen at either
    size is left out.
    """
    frame = resize_labels(labels, *size)
    ids = choose_instances(frame, k, rng)
    targets: np.ndarray = np.zeros((len(ids), *mask_size), bool)
    for row, instance in enumerate(ids):
        targets[row] = shrink(labels == instance, *mask_size)
    seen = targets.any((1, 2))
    return targets[seen], points_inside(frame, ids[seen], rng), jittered_boxes(frame, ids[seen], rng)


def points_outside(labels: np.ndarray, size: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Points without a label, float32 (count, 2), X and Y in pixels of the image resized to `size`; (0, 2) where every
    pixel has one.
    """
    ys, xs = np.nonzero(resize_labels(labels, *size) == 0)
    if not len(ys):
        return np.empty((0, 2), np.float32)
    picked = rng.integers(len(ys), size=count)
    return np.stack([xs[picked], ys[picked]], axis=1).astype(np.float32)


def shrink(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool (H, W) to bool (height, width): True where at least half of the area is."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Int labels (H, W) to int32 (height, width), nearest."""
    resized = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.int32)  # float32 holds every id below 2**24 exactly


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: images (B, 3, S, S), semantic (B, m, m), extents B times (h, w); instances of all images in a row,
    `owner` (N,) their image, `by_point` (N,) whether a point asks for them, which is every other one, or their box;
    `empty` (E, 2) and `empty_owner` (E,). Without images: "size" 0 and nothing in it.
    """
    if not items:
        return {"ids": [], "size": 0, "targets": torch.empty(0), "empty": torch.empty(0)}
    batch: dict[str, Any] = {key: torch.stack([item[key] for item in items]) for key in DENSE if key in items[0]}
    batch |= {key: torch.cat([item[key] for item in items]) for key in ("targets", "points", "boxes", "empty")}
    for key, name in (("targets", "owner"), ("empty", "empty_owner")):
        counts = torch.tensor([len(item[key]) for item in items])
        batch[name] = torch.repeat_interleave(torch.arange(len(items)), counts)
    batch["by_point"] = torch.arange(len(batch["owner"])) % 2 == 0
    extents = [item["extent"] for item in items]
    return batch | {"ids": [item["id"] for item in items], "size": len(items), "extents": extents}


def part(batch: dict[str, Any], first: int, end: int) -> dict[str, Any]:
    """Images first to before end of a batch that `collate` made, with their instances, as a batch."""
    images, instances = slice(first, end), (batch["owner"] >= first) & (batch["owner"] < end)
    piece = {key: batch[key][images] for key in ("image", "semantic", "ids", "extents")}
    piece |= {key: batch[key][instances] for key in ("targets", "points", "boxes", "by_point")}
    nowhere = (batch["empty_owner"] >= first) & (batch["empty_owner"] < end)
    piece |= {"empty": batch["empty"][nowhere], "empty_owner": batch["empty_owner"][nowhere] - first}
    return piece | {"owner": batch["owner"][instances] - first, "size": end - first}


def endless(items: TrainingItems, config: RunConfig, device: torch.device, start: int = 0) -> Generator[dict[str, Any]]:
    """Batches on the device for ever, from batch `start`, each epoch in an order of its own that (seed, epoch) decides.

    The loader's processes start once and end when the iterator is closed. Of several processes that train together each
    has its own images of every batch, which says of how many (images, prompts) it is a part: `whole`.
    """
    workers = loader_processes(device.type) if config.workers is None else config.workers
    if current_process().daemon:  # may have no processes of its own
        workers = 0
    rank, count = processes.rank(), processes.count()
    drawn = islice(orders(len(items), config.batch_size, config.seed), start, None)
    loader = iter(
        DataLoader(
            items, batch_sampler=(some[len(some) * rank // count : len(some) * (rank + 1) // count] for some in drawn),
            collate_fn=collate, num_workers=workers, pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None, worker_init_fn=_one_thread,
            generator=torch.Generator(),  # else it would draw from the generator of dropout, once a start
        )
    )  # fmt: skip
    try:
        for batch in loader:
            if count > 1:
                batch |= _in_whole(batch, rank)
            yield {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    finally:
        if workers:  # torch ends them once nothing refers to the loader, but the traceback of an error would
            loader._shutdown_workers()


def _in_whole(batch: dict[str, Any], rank: int) -> dict[str, Any]:
    """What a part of a batch has to know of the whole: its size, and which instances a point asks for."""
    found = processes.gather((batch["size"], len(batch["targets"]), len(batch["empty"])))
    sizes, instances, empties = zip(*found, strict=True)
    whole = sum(sizes), sum(instances) + sum(empties)
    odd = sum(instances[:rank]) % 2 == 1
    return {"whole": whole} | ({"by_point": batch["by_point"] ^ odd} if batch["size"] else {})


def orders(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """The items of each batch, for ever: whole epochs, as many together as a batch needs, without what is left over."""
    epoch = 0
    while True:
        order: list[int] = []
        while len(order) < max(count, batch_size):
            order += np.random.default_rng((seed, epoch)).permutation(count).tolist()
            epoch += 1
        for end in range(batch_size, len(order) + 1, batch_size):
            yield order[end - batch_size : end]


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's threads do not survive the fork, and the model needs the other cores
