"""The compact SAM, `lite`: a convolutional stem, SAM's transformer blocks and prompt decoder, masks with fine details.

Tokens of stride 16 come from an EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation, with ReLU6), whose
batch norms are folded into its convolutions. Six of SAM's blocks follow, each after a depthwise 3 x 3 convolution that
stands for relative positions (Chu et al. 2023, conditional positional encoding). The stem's features of strides 4 and 8
are added where the mask decoder upscales, as in SAM 2 (Ravi et al. 2024, section 4). They travel as further channels of
the image embedding, so that segment-anything's predictor and mask generator carry them without knowing.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

IMAGE_SIZE, STRIDE, MULTIPLE = 512, 16, 32  # pixels: the input's side, a token's, and what a side is a multiple of
WIDTH, DEPTH, GLOBAL_BLOCKS, WINDOW, HEADS = 192, 6, (2, 5), 8, 3
EMBEDDING = 128  # channels of the image embedding, of which the decoder's upscaling makes a quarter, then an eighth
COARSE, FINE = EMBEDDING // 4, EMBEDDING // 8  # channels of the details of strides 8 and 4
STEM = 32  # channels of the stem's first convolution
STAGES = (  # of EfficientNet-Lite0: kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
TAPS = {4: 1, 8: 2, 16: 4, 32: 6}  # stride of a feature: the stage that gives it


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads inputs of even sides: with stride 2, one more below and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        odd = stride == 2
        super().__init__(inputs, outputs, kernel, stride, 0 if odd else kernel // 2, groups=groups)
        self.ends = (kernel // 2 - 1, kernel // 2) * 2 if odd else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, outputs, h / stride, w / stride)."""
        if self.kernel_size == (1, 1):  # as a product of matrices: on one CPU thread torch's convolution is far slower
            # B C h w -> B h w C and back, without a copy in channels-last memory
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return super().forward(F.pad(x, self.ends) if self.ends else x)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018); the input is added where shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.filter = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.filter(y)))
        return x + y if self.adds else y


class Stem(nn.Module):
    """EfficientNet-Lite0 without its classifier, batch norms folded."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SameConv(3, STEM, 3, 2)
        self.stages = nn.ModuleList()
        inputs = STEM
        for kernel, stride, expansion, outputs, count in STAGES:
            blocks = [
                InvertedResidual(inputs if n == 0 else outputs, outputs, kernel, stride if n == 0 else 1, expansion)
                for n in range(count)
            ]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """(B, 3, S, S), (value - 127) / 128, to features by stride: 4, 8, 16, 32 with 24, 40, 112, 320 channels."""
        x, features = F.relu6(self.first(x.contiguous(memory_format=torch.channels_last))), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return {stride: features[stage] for stride, stage in TAPS.items()}


class LiteBlock(Block):
    """SAM's transformer block after a depthwise convolution of its tokens, which is zero before training."""

    def __init__(self, window: int) -> None:
        super().__init__(WIDTH, HEADS, norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=window)
        self.place = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        nn.init.zeros_(self.place.weight)
        nn.init.zeros_(self.place.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to the same."""
        with torch.autocast(x.device.type, enabled=False):  # depthwise convolutions are slower in bf16
            # B h w C -> B C h w and back
            x = x.float() + self.place(x.float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().forward(x)


class LiteEncoder(nn.Module):
    """Images to an embedding of EMBEDDING + 4 COARSE + 16 FINE channels: the tokens', then the packed details.

    Any input whose sides are multiples of MULTIPLE will do; `img_size` is what the predictor resizes to. The stem
    computes in float32 whatever the autocast around it.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.img_size = image_size
        self.stem = Stem()
        self.from_16 = nn.Conv2d(112, WIDTH, 1)
        self.from_32 = nn.Conv2d(320, WIDTH, 1)
        self.blocks = nn.ModuleList(LiteBlock(0 if n in GLOBAL_BLOCKS else WINDOW) for n in range(DEPTH))
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTH, EMBEDDING, 1, bias=False), LayerNorm2d(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False), LayerNorm2d(EMBEDDING),
        )  # fmt: skip
        self.coarse = nn.Conv2d(40, COARSE, 1)
        self.fine = nn.Conv2d(24, FINE, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) normalised to (B, 512, S / 16, S / 16)."""
        with torch.autocast(x.device.type, enabled=False):
            features = self.stem(x.float())
            tokens, details = self.tokens(features), self.details(features)
        for block in self.blocks:
            tokens = block(tokens)
        embedding = self.neck(tokens.permute(0, 3, 1, 2))  # B h w C -> B C h w
        return torch.cat([embedding, details.to(embedding)], dim=1)

    def tokens(self, features: dict[int, Tensor]) -> Tensor:
        """What the first block receives, (B, h, w, WIDTH), of the stem's features."""
        wide = F.interpolate(self.from_32(features[32]), scale_factor=2, mode="nearest")
        return (self.from_16(features[16]) + wide).permute(0, 2, 3, 1)  # B C h w -> B h w C

    def details(self, features: dict[int, Tensor]) -> Tensor:
        """(B, 4 COARSE + 16 FINE, h, w): the projections of strides 8 and 4, packed into stride 16."""
        coarse, fine = F.pixel_unshuffle(self.coarse(features[8]), 2), F.pixel_unshuffle(self.fine(features[4]), 4)
        return torch.cat([coarse, fine], dim=1)


class LiteDecoder(MaskDecoder):
    """SAM's mask decoder for an image embedding with details, which are added between the steps of its upscaling."""

    def predict_masks(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """All masks (N, 4, 4h, 4w) and IoU predictions (N, 4) of N prompts.

        image_embeddings: (B, C + ..., h, w) of B images, of which each has the next N / B prompts; image_pe: (1 or B,
        C, h, w); dense: (N, C, h, w), or with the channels of the embeddings, to which it is added.
        """
        width, images = self.transformer_dim, len(image_embeddings)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        count = len(sparse_prompt_embeddings)
        tokens = torch.cat([own.expand(count, -1, -1), sparse_prompt_embeddings], dim=1)
        # N C h w -> B N/B C h w
        dense = dense_prompt_embeddings.unflatten(0, (images, count // images))
        image, details = image_embeddings.tensor_split([width], dim=1)
        image, details = image[:, None] + dense[:, :, :width], details[:, None]
        if dense.shape[2] > width:
            details = details + dense[:, :, width:]
        code = image_pe[:, None].expand_as(image).flatten(0, 1)
        states, keys = self.transformer(image.flatten(0, 1), code, tokens)
        upscaled = self.upscale(keys.transpose(1, 2).reshape(image.shape), details)  # B N C -> B C h w
        mlps = self.output_hypernetworks_mlps
        weights = torch.stack([mlp(states[:, 1 + k]) for k, mlp in enumerate(mlps)], dim=1)  # N masks c
        logits = (weights @ upscaled.flatten(2)).unflatten(2, tuple(upscaled.shape[-2:]))
        return logits, self.iou_prediction_head(states[:, 0])

    def upscale(self, image: Tensor, details: Tensor) -> Tensor:
        """(B, K, C, h, w) of K prompts an image to (B * K, FINE, 4h, 4w), with the details (B, 1 or K, ..., h, w)."""
        first, norm, act, second, act_again = self.output_upscaling
        coarse, fine = details.split([4 * COARSE, 16 * FINE], dim=2)
        prompts = image.shape[:2]
        # four dimensions at a time, which is what ONNX has
        coarse = F.pixel_shuffle(coarse.flatten(0, 1), 2).unflatten(0, details.shape[:2])
        fine = F.pixel_shuffle(fine.flatten(0, 1), 4).unflatten(0, details.shape[:2])
        x = first(image.flatten(0, 1)).unflatten(0, prompts) + coarse
        x = second(act(norm(x.flatten(0, 1)))).unflatten(0, prompts) + fine
        upscaled: Tensor = act_again(x).flatten(0, 1)
        return upscaled


def build_lite(image_size: int = IMAGE_SIZE) -> Sam:
    """The compact SAM with random weights; image_size: side of the input in pixels, a multiple of MULTIPLE."""
    grid = image_size // STRIDE
    sam = Sam(
        image_encoder=LiteEncoder(image_size),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=LiteDecoder(
            num_multimask_outputs=3, transformer_dim=EMBEDDING, iou_head_depth=3, iou_head_hidden_dim=EMBEDDING,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, mlp_dim=512, num_heads=4),
        ),
        pixel_mean=[127.0] * 3, pixel_std=[128.0] * 3,
    )  # fmt: skip
    return sam.eval()
