"""What a training step asks of SAM: the whole image (semantic) or its particles (instance), and the batches for it."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from multiprocessing import current_process
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lorasam_core.config import RunConfig
from lorasam_core.data.virtual import VirtualSet
from lorasam_core.models.devices import loader_processes
from lorasam_core.training.losses import iou_head_loss, mask_iou, minimum_mask_loss, per_mask_dice_ce
from lorasam_core.training.prompts import choose_instances, jittered_boxes, points_inside, whole_image_box

# bytes of the image tokens in one decoder call on a CPU: below it calls themselves cost, above it memory bounds them
# (forward and backward, 32 to 128 prompts of 0.3 MB each, and 2 to 4 of vit_b, 4 MB each, are the fastest)
CPU_TOKEN_BYTES = 2**24
# numbers of image tokens that go through the encoder at once on a CPU: of a compact model dozens of images, whose
# steps are faster together; of vit_b at 1024 pixels one: eight take an eighth less time one by one, and a quarter of
# the memory
CPU_ENCODER_NUMBERS = 2**22
RATING = 3.0  # weight of the squared error of the predicted IoU
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
            "semantic": pad(torch.from_numpy(shrink(labels > 0, *small)), self.mask_size),
            "targets": pad(torch.from_numpy(targets), self.mask_size),
            "points": torch.from_numpy(points),
            "boxes": torch.from_numpy(boxes),
            "empty": torch.from_numpy(points_outside(labels, extent, max(1, self.k // INSTANCES_AN_EMPTY), rng)),
        }


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
    frame = _resize_labels(labels, *size)
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
    ys, xs = np.nonzero(_resize_labels(labels, *size) == 0)
    if not len(ys):
        return np.empty((0, 2), np.float32)
    picked = rng.integers(len(ys), size=count)
    return np.stack([xs[picked], ys[picked]], axis=1).astype(np.float32)


def shrink(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool (H, W) to bool (height, width): True where at least half of the area is."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5


def _resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.int32)  # float32 holds every id below 2**24 exactly


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: images (B, 3, S, S), semantic (B, m, m), extents B times (h, w); instances of all images in a row,
    `owner` (N,) their image, `by_point` (N,) whether a point asks for them, which is every other one, or their box;
    `empty` (E, 2) and `empty_owner` (E,).
    """
    batch: dict[str, Any] = {key: torch.stack([item[key] for item in items]) for key in ("image", "semantic")}
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


def images_at_once(sam: Sam) -> int:
    """Images in one forward and backward pass of the encoder: a GPU takes whole batches, a CPU what is fastest."""
    if sam.device.type != "cpu":
        return sys.maxsize
    rows, columns = sam.prompt_encoder.image_embedding_size
    return max(1, CPU_ENCODER_NUMBERS // (rows * columns * sam.image_encoder.blocks[0].norm1.normalized_shape[0]))


def endless(items: TrainingItems, config: RunConfig, device: torch.device, start: int = 0) -> Generator[dict[str, Any]]:
    """Batches on the device for ever, from batch `start`, each epoch in an order of its own that (seed, epoch) decides.

    The loader's processes start once and end when the iterator is closed.
    """
    workers = loader_processes(device.type) if config.workers is None else config.workers
    if current_process().daemon:  # may have no processes of its own
        workers = 0
    loader = iter(
        DataLoader(
            items, batch_sampler=islice(orders(len(items), config.batch_size, config.seed), start, None),
            collate_fn=collate, num_workers=workers, pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None, worker_init_fn=_one_thread,
            generator=torch.Generator(),  # else it would draw from the generator of dropout, once a start
        )
    )  # fmt: skip
    try:
        for batch in loader:
            yield {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    finally:
        if workers:  # torch ends them once nothing refers to the loader, but the traceback of an error would
            loader._shutdown_workers()


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


def decode(
    sam: Sam, embeddings: Tensor, owner: Tensor, sparse: Tensor, dense: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """All masks (N, 4, m, m) and IoU predictions (N, 4) of N prompts on the images that `owner` (N,) names.

    embeddings: (B, C, h, w); sparse: (N, n, C); dense: (N, C, h, w); chunk: prompts a call, by default what the device
    likes. SAM's decoder takes one image a call and adds the dense embeddings to it; here the image itself travels in
    that sum, so that one call serves prompts on many images.
    """
    nothing = torch.zeros_like(embeddings[:1])
    position = sam.prompt_encoder.get_dense_pe()
    further = (0, 0, 0, 0, 0, embeddings.shape[1] - dense.shape[1])  # channels of details, where the model has them
    if chunk is None:
        fitting = CPU_TOKEN_BYTES // (embeddings[0].numel() * embeddings.element_size())
        chunk = max(1, fitting if embeddings.device.type == "cpu" else len(owner))
    parts = [
        sam.mask_decoder.predict_masks(
            nothing, position, sparse[rows], embeddings[owner[rows]] + F.pad(dense[rows], further)
        )
        for rows in torch.arange(len(owner), device=owner.device).split(chunk)
    ]
    return torch.cat([masks for masks, _ in parts]), torch.cat([scores for _, scores in parts])


class Objective(nn.Module):
    """The loss of a batch. semantic: Dice + cross-entropy of the single mask for the whole-image box. instance: the
    best of three masks for a point, the single mask for a box, and RATING times the IoU head's square error, which for
    a point where nothing is asks for 0 and leaves the masks alone. mixed alternates them.
    """

    def __init__(self, sam: Sam, kind: str) -> None:
        super().__init__()
        self.sam, self.kind = sam, kind

    def pieces(self, batch: dict[str, Any], step: int) -> list[tuple[float, dict[str, Any]]]:
        """A batch cut into (share, batch), each of as many images as the device likes at once: the sum of share * loss
        over them is the loss of the whole batch, and its gradient that of the whole.
        """
        images, size = images_at_once(self.sam), batch["size"]
        if size <= images:
            return [(1.0, batch)]
        asked = prompts_in(batch) if self.is_instance(step) else 0
        found = []
        for first in range(0, size, images):
            piece = part(batch, first, min(first + images, size))
            share = prompts_in(piece) / asked if asked else piece["size"] / size
            if share:
                found.append((share, piece))
        return found

    def is_instance(self, step: int) -> bool:
        """Whether a step asks for single particles."""
        return self.kind == "instance" or (self.kind == "mixed" and step % 2 == 1)

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """batch as `collate` makes it -> (scalar loss, {"accuracy", "miou"} of the masks that were trained)."""
        side, grid = self.sam.image_encoder.img_size, self.sam.prompt_encoder.mask_input_size[0]
        extents, device = batch["extents"], batch["image"].device
        # as the predictor does: first normalised, then padded with zeros
        images = (batch["image"].float() - self.sam.pixel_mean) / self.sam.pixel_std
        images = images * inside(extents, side, device)[:, None]
        embeddings = self.sam.image_encoder(images)
        # coordinates in bf16 would be rounded to whole pixels, so prompts and decoder stay in float32
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.is_instance(step) and prompts_in(batch):
                return self.instance(embeddings.float(), batch)
            valid = inside([on_grid(extent, side, grid) for extent in extents], grid, device)
            return self.semantic(embeddings.float(), batch["semantic"], valid, extents)

    def semantic(
        self, embeddings: Tensor, target: Tensor, valid: Tensor | None = None, sizes: Sequence[tuple[int, int]] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings (B, C, h, w), target and valid (B, m, m); sizes: (h, w) of each image without its padding."""
        logits = self.foreground(embeddings, sizes)
        return per_mask_dice_ce(logits, target, valid).mean(), agreement(logits, target, valid)

    def foreground(self, embeddings: Tensor, sizes: Sequence[tuple[int, int]] = ()) -> Tensor:
        """Logits (B, m, m) of the single mask for the whole-image box."""
        side = self.sam.image_encoder.img_size
        boxes = np.concatenate([whole_image_box(size) for size in sizes or [(side, side)] * len(embeddings)])
        sparse, dense = self.sam.prompt_encoder(None, torch.from_numpy(boxes).to(embeddings.device), None)
        masks, _ = decode(self.sam, embeddings, torch.arange(len(embeddings), device=embeddings.device), sparse, dense)
        return masks[:, 0]

    def instance(self, embeddings: Tensor, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Each instance by a point, or by its box where `by_point` (N,) is False; and the points where nothing is."""
        target, owner, by_point = batch["targets"], batch["owner"], batch["by_point"]
        points, boxes, empty = batch["points"][by_point, None], batch["boxes"][~by_point], batch["empty"][:, None]
        encode = self.sam.prompt_encoder
        losses, errors, measures = [embeddings.new_zeros(0)], [], []
        if len(points):
            sparse, dense = encode((points, torch.ones(points.shape[:2], device=points.device)), None, None)
            masks, scores = decode(self.sam, embeddings, owner[by_point], sparse, dense)
            best, index = minimum_mask_loss(masks[:, 1:], target[by_point])
            losses.append(best)
            errors.append(len(points) * iou_head_loss(scores[:, 1:], masks[:, 1:], target[by_point]))
            measures.append(masks[torch.arange(len(index), device=index.device), index + 1])
        if len(boxes):
            sparse, dense = encode(None, boxes, None)
            masks, scores = decode(self.sam, embeddings, owner[~by_point], sparse, dense)
            losses.append(per_mask_dice_ce(masks[:, 0], target[~by_point]))
            errors.append(len(boxes) * iou_head_loss(scores[:, :1], masks[:, :1], target[~by_point]))
            measures.append(masks[:, 0])
        if len(empty):
            sparse, dense = encode((empty, torch.ones(empty.shape[:2], device=empty.device)), None, None)
            _, scores = decode(self.sam, embeddings, batch["empty_owner"], sparse, dense)
            errors.append(scores[:, 1:].square().mean(1).sum())
        loss = (torch.cat(losses).sum() + RATING * torch.stack(errors).sum()) / prompts_in(batch)
        if not measures:  # nothing to find
            return loss, dict.fromkeys(("accuracy", "miou"), torch.ones_like(loss))
        return loss, agreement(torch.cat(measures), torch.cat([target[by_point], target[~by_point]]))


def prompts_in(batch: dict[str, Any]) -> int:
    """Instances and empty points of a batch."""
    return len(batch["targets"]) + len(batch["empty"])


@torch.no_grad()
def agreement(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Pixel accuracy and mIoU (mean of foreground's and background's IoU), as the study logs: (B, m, m) -> scalars."""
    inside = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    right = ((logits > 0) == target) & inside
    miou = (mask_iou(logits, target, valid) + mask_iou(-logits, ~target, valid)) / 2
    return {"accuracy": right.sum() / inside.sum(), "miou": miou.mean()}
