"""A model as two ONNX files, which tools for segment-anything's ONNX models and onnxruntime take without this package.

encoder.onnx: `input_image`, float32 (h, w, 3), RGB from 0 to 255, the longest side resized to the model's input, to
`image_embeddings`. Normalisation and padding are inside. decoder.onnx has the inputs and outputs of segment-anything's
own: `image_embeddings`, `point_coords` (1, N, 2), `point_labels` (1, N), `mask_input`, `has_mask_input` and
`orig_im_size` to `masks`, `iou_predictions` (1, 4) and `low_res_masks`. A box is two points with the labels 2 and 3;
prompts without one end with a point (0, 0) of label -1. Coordinates are pixels of the resized image.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention
from segment_anything.utils.onnx import SamOnnxModel
from torch import Tensor, nn

from lorasam_core.models.attention import FastAttention
from lorasam_core.models.lite import COARSE, EMBEDDING, FINE, LiteEncoder
from lorasam_core.models.lora import hash_base, merge
from lorasam_core.models.lora.files import write_whole

FILES = ("encoder.onnx", "decoder.onnx")
OPSET = 17
MOST_BYTES = 2**31 - 2**20  # of weights: one ONNX file holds less than 2 GiB


class OnnxEncoder(nn.Module):
    """A resized image to its embedding."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.encoder, self.side = sam.image_encoder, sam.image_encoder.img_size
        self.register_buffer("mean", sam.pixel_mean)
        self.register_buffer("std", sam.pixel_std)

    def forward(self, image: Tensor) -> Tensor:
        """float32 (h, w, 3), neither side above the input's, to (1, C, grid, grid)."""
        x = (image.permute(2, 0, 1) - self.mean) / self.std  # H W C -> C H W
        x = F.pad(x, (0, self.side - x.shape[2], 0, self.side - x.shape[1]))
        embedding: Tensor = self.encoder(x.reshape(1, 3, self.side, self.side))
        return embedding


class OnnxDecoder(SamOnnxModel):
    """segment-anything's decoder for ONNX, right for images of any ratio: it keeps that of the image it is made with
    (version 1.0).
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam, return_single_mask=False)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Logits (1, M, 4 grid, 4 grid) to (1, M, H, W), without the padding."""
        masks = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear", align_corners=False)
        height, width = self.resize_longest_image_size(orig_im_size, self.img_size)
        size = orig_im_size.to(torch.int64)
        return F.interpolate(masks[..., :height, :width], (size[0], size[1]), mode="bilinear", align_corners=False)


def export_onnx(sam: Sam, folder: str | Path, **stated: str) -> list[Path]:
    """Write encoder.onnx and decoder.onnx, float32, of a model, its adapter merged; returns their paths.

    Their metadata name the base, its hash, input size, normalisation, and what is `stated`. The model does not change.
    A trace of ViT-B at 1024 pixels takes a minute and 9 GiB of memory on a CPU.

    Raises:
        ValueError: the package onnx is missing, or the encoder is too large for one file (vit_h).
        OSError: a file cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError("the package onnx is missing; install it with: pip install onnx.") from error
    size = sum(p.numel() * 4 for p in sam.image_encoder.parameters())
    if size > MOST_BYTES:
        raise ValueError(f"the encoder has {size / 2**30:.1f} GiB, and an ONNX file holds 2; export a checkpoint.")
    base_hash = getattr(sam, "base_hash", None) or hash_base(sam)
    plain = _plain(sam)
    side, grid = plain.image_encoder.img_size, plain.prompt_encoder.image_embedding_size
    encoder, decoder = OnnxEncoder(plain).eval(), OnnxDecoder(plain).eval()
    image = torch.full((side - 1, side, 3), 127.0)
    lite = isinstance(plain.image_encoder, LiteEncoder)
    width = EMBEDDING + 4 * COARSE + 16 * FINE if lite else plain.prompt_encoder.embed_dim
    prompts = {
        "image_embeddings": torch.zeros(1, width, *grid), "point_coords": torch.full((1, 3, 2), side / 2.0),
        "point_labels": torch.tensor([[1.0, 0.0, -1.0]]), "mask_input": torch.zeros(1, 1, 4 * grid[0], 4 * grid[1]),
        "has_mask_input": torch.zeros(1), "orig_im_size": torch.tensor([side - 1.0, side]),
    }  # fmt: skip
    free = {"point_coords": {1: "points"}, "point_labels": {1: "points"}}
    content = [
        _traced(encoder, {"input_image": image}, ["image_embeddings"], {"input_image": {0: "height", 1: "width"}}),
        _traced(decoder, prompts, ["masks", "iou_predictions", "low_res_masks"], free),
    ]
    metadata = {
        "base_name": getattr(sam, "base_name", "sam"), "base_hash": base_hash, "image_size": str(side),
        "pixel_mean": json.dumps([round(value, 4) for value in plain.pixel_mean.flatten().tolist()]),
        "pixel_std": json.dumps([round(value, 4) for value in plain.pixel_std.flatten().tolist()]),
        "mask_threshold": str(plain.mask_threshold), **stated,
    }  # fmt: skip
    paths = [Path(folder) / name for name in FILES]
    for path, raw in zip(paths, content, strict=True):
        model = onnx.load_from_string(raw)
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        write_whole(path, partial(onnx.save, model))
    return paths


def _plain(sam: Sam) -> Sam:
    """A copy on the CPU, merged, with segment-anything's own attention, which a trace can follow."""
    plain = copy.deepcopy(sam).to("cpu").float().eval().requires_grad_(False)
    if "_lora" in plain.__dict__:
        merge(plain)
    for module in plain.modules():
        if type(module) is FastAttention:
            module.__class__ = Attention
    return plain


def _traced(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], free: dict[str, Any]) -> bytes:
    """The module as an ONNX model, by torch's older exporter: the newer one was not tried on the decoder, one of whose
    inputs is the size of the image.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is the older; and each size that a trace keeps, which is meant
        torch.onnx.export(
            module, tuple(inputs.values()), stream, input_names=list(inputs), output_names=outputs, dynamic_axes=free,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return stream.getvalue()
