"""SAM's mask decoder for many prompts on one image: the same answers, with what the prompts share computed once.

In the two-way transformer (Kirillov et al. 2023, appendix A) a handful of prompt tokens t exchange attention with the
N = h * w image tokens X. Three rearrangements, all exact:

- In the first layer X is the same for every prompt, and so are its keys, values and queries.
- Later, q.(W x) = (q W).x: folding a projection into the tokens, of which there are seven, spares projecting X. What
  the position code P adds to it, q.(W p + b), needs no X, so W p + b is computed once an image.
- The attention's weights add up to 1 for each head, so that biases of values and outputs can be added to the tokens.

The IoU prediction needs no mask; masks are upscaled only for prompts that are wanted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


def _heads(x: Tensor, count: int) -> Tensor:
    """(..., n, heads * d) -> (..., heads, n, d)."""
    return x.unflatten(-1, (count, -1)).transpose(-3, -2)


def _by_head(linear: nn.Linear, count: int) -> Tensor:
    """The weight (heads * d, C) as (heads, d, C)."""
    return linear.weight.unflatten(0, (count, -1))


def _shared(x: Tensor, matrix: Tensor) -> Tensor:
    """x (B, heads, n, d) times one matrix (1, heads, d, N) for all B, not copied for each: (B, heads, n, N)."""
    batch, heads, count, _ = x.shape
    product = x.transpose(0, 1).flatten(1, 2) @ matrix[0]  # heads B*n N
    return product.unflatten(1, (batch, count)).transpose(0, 1)


class PromptDecoder:
    """The mask decoder of `decoder`, prepared for one image.

    embedding: (1, C, h, w) of the image encoder, with the details of `lite` as further channels where it has them;
    dense, position: (1, C, h, w), the prompt embedding without a mask and the decoder's positional encoding. Nothing
    here is trained: call it without gradients, in float32 or float64.
    """

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, dense: Tensor, position: Tensor) -> None:
        self.decoder, self.grid = decoder, embedding.shape[-2:]
        image, self.details = embedding[:, : dense.shape[1]] + dense, embedding[:, dense.shape[1] :]
        self.keys = image.flatten(2).transpose(1, 2)  # 1 C h w -> 1 N C
        code = position.flatten(2).transpose(1, 2)
        layers = list(decoder.transformer.layers)
        first = layers[0]
        asked, asking = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        self.first_keys = _heads(asked.k_proj(self.keys + code), asked.num_heads)  # 1 heads N d
        self.first_values = _heads(asked.v_proj(self.keys), asked.num_heads)
        self.first_queries = _heads(asking.q_proj(self.keys + code), asking.num_heads)
        reading = [layer.cross_attn_token_to_image for layer in layers[1:]]
        reading.append(decoder.transformer.final_attn_token_to_image)
        self.key_codes = {id(a): _heads(a.k_proj(code), a.num_heads) for a in reading}
        writing = [layer.cross_attn_image_to_token for layer in layers[1:]]
        self.query_codes = {id(a): _heads(a.q_proj(code), a.num_heads) for a in writing}

    def rate(self, sparse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """IoU predictions (B, masks) of prompts (B, n, C), and what `masks` needs: mask tokens (2, B, masks, C), before
        their last look at the image and without and with their code, and image tokens (B, N, C).
        """
        decoder = self.decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)  # B T C
        queries, keys = tokens, self.keys
        for number, layer in enumerate(decoder.transformer.layers):
            queries, keys = self._layer(layer, number == 0, queries, tokens, keys)
        states = torch.stack([queries, queries + tokens])
        rated: Tensor = decoder.iou_prediction_head(self._last(states[:, :, :1], keys)[:, 0])
        return rated, states[:, :, 1 : 1 + decoder.num_mask_tokens], keys

    def masks(self, tokens: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
        """Logits (M, 4h, 4w) of the masks that `chosen`, bool (B, masks), names, in its order."""
        decoder = self.decoder
        wanted = chosen.any(1)
        keys = keys[wanted]
        tokens = self._last(tokens[:, wanted], keys)
        image = keys.transpose(1, 2).unflatten(2, self.grid)  # B N C -> B C h w
        if self.details.numel():
            upscaled = decoder.upscale(image[None], self.details[None])
        else:
            upscaled = decoder.output_upscaling(image)
        mlps = decoder.output_hypernetworks_mlps
        weights = torch.stack([mlp(tokens[:, k]) for k, mlp in enumerate(mlps)], dim=1)  # B masks c
        return (weights @ upscaled.flatten(2))[chosen[wanted]].unflatten(1, tuple(upscaled.shape[-2:]))

    def _last(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """The transformer's final attention of tokens, (2, B, T, C) without and with their code, to the image."""
        transformer, (queries, asking) = self.decoder.transformer, tokens
        read: Tensor = queries + self._read(transformer.final_attn_token_to_image, asking, keys)
        return transformer.norm_final_attn(read)

    def _layer(
        self, layer: TwoWayAttentionBlock, first: bool, queries: Tensor, code: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            asking = queries + code
            queries = queries + layer.self_attn(q=asking, k=asking, v=queries)
        queries = layer.norm1(queries)
        reading = layer.cross_attn_token_to_image
        read = self._read_first if first else self._read
        queries = layer.norm2(queries + read(reading, queries + code, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        written = self._write(layer.cross_attn_image_to_token, first, queries + code, queries, keys)
        return queries, F.layer_norm(
            written, layer.norm4.normalized_shape, layer.norm4.weight, layer.norm4.bias, layer.norm4.eps
        )

    def _read_first(self, attention: Attention, tokens: Tensor, keys: Tensor) -> Tensor:
        """Tokens (B, T, C) attend to an image that is the same for all of them."""
        q = _heads(attention.q_proj(tokens), attention.num_heads)  # B heads T d
        weights = (_shared(q, self.first_keys.transpose(-1, -2)) / math.sqrt(q.shape[-1])).softmax(-1)
        read: Tensor = attention.out_proj(_shared(weights, self.first_values).transpose(1, 2).flatten(2))
        return read

    def _read(self, attention: Attention, tokens: Tensor, keys: Tensor) -> Tensor:
        """Tokens (B, T, C) attend to image tokens (B, N, C) of their own."""
        heads = attention.num_heads
        q = _heads(attention.q_proj(tokens), heads)
        q = q / math.sqrt(q.shape[-1])  # B heads T d
        folded = (q @ _by_head(attention.k_proj, heads)).flatten(1, 2)  # B heads*T C
        logits = folded @ keys.transpose(1, 2)  # B heads*T N
        logits.unflatten(1, (heads, -1)).add_(_shared(q, self.key_codes[id(attention)].transpose(-1, -2)))
        pooled = (logits.softmax(-1) @ keys).unflatten(1, (heads, -1))  # B heads T C
        values = pooled @ _by_head(attention.v_proj, heads).transpose(-1, -2)  # B heads T d
        values = values.transpose(1, 2).flatten(2) + attention.v_proj.bias
        read: Tensor = attention.out_proj(values)
        return read

    def _write(self, attention: Attention, first: bool, asked: Tensor, values: Tensor, keys: Tensor) -> Tensor:
        """Image tokens attend to the tokens of their prompt; returns the image tokens with the result added, B N C."""
        heads = attention.num_heads
        k = _heads(attention.k_proj(asked), heads)
        k = k / math.sqrt(k.shape[-1])  # B heads T d
        if first:
            logits = _shared(k, self.first_queries.transpose(-1, -2))  # B heads T N
        else:
            folded = (k @ _by_head(attention.q_proj, heads)).flatten(1, 2)
            logits = (folded @ keys.transpose(1, 2)).unflatten(1, (heads, -1))
            logits += _shared(k, self.query_codes[id(attention)].transpose(-1, -2))
        weights = logits.softmax(2).flatten(1, 2)  # B heads*T N
        out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # heads d C
        v = _heads(attention.v_proj(values), heads) @ out + attention.out_proj.bias / heads  # B heads T C
        own = keys.repeat(len(v), 1, 1) if first else keys  # the image's are kept for the next prompts
        return own.baddbmm_(weights.transpose(1, 2), v.flatten(1, 2))
