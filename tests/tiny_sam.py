"""A random Sam of segment-anything's own modules, small enough for tests: 64 x 64 input, two blocks of width 32."""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn


def tiny_sam(seed: int = 0, image_size: int = 64, width: int = 32, depth: int = 2, patch: int = 8) -> Sam:
    """One windowed block, then global ones; every parameter random, tables and biases included."""
    torch.manual_seed(seed)
    grid = image_size // patch
    sam = Sam(
        ImageEncoderViT(
            img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=2, out_chans=16,
            window_size=3, use_rel_pos=True, global_attn_indexes=tuple(range(1, depth)),
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(16, (grid, grid), (image_size, image_size), 4),
        MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(1, 16, 2, 32), iou_head_hidden_dim=16),
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if parameter.ndim == 1 or "pos" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return sam.eval()


def outputs(sam: Sam, seed: int = 1, sides: int = 1) -> list[torch.Tensor]:
    """Image embedding, mask logits and IoU predictions for a random image and a point."""
    size = sam.image_encoder.img_size
    image = torch.randn(sides, 3, size, size, generator=torch.Generator().manual_seed(seed))
    embedding = sam.image_encoder(image)
    point = (torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1))
    sparse, dense = sam.prompt_encoder(points=point, boxes=None, masks=None)
    masks, quality = sam.mask_decoder(embedding[:1], sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    return [embedding, masks, quality]


def randomise(parameters: list[nn.Parameter], seed: int = 2, scale: float = 0.05) -> None:
    """As if trained: every A and B random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Same names, same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state dict."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
