"""The LoRA layer against PEFT's on the same weights: outputs, scaling rules, gradients, merged matrices, dropout."""

import pytest
import torch
from torch import nn

from lorasam_core.models.lora import LoRAConfig, LoRALinear, add_lora, merge
from tests.tiny_sam import randomise, tiny_sam

WIDTH = 24
# PEFT is imported in the tests: it imports transformers, which a process that has other files to run can do without
SCALINGS = {"alpha/r": {}, "alpha/sqrt(r)": {"use_rslora": True}, "none": {}}


class Separate(nn.Module):
    """Query, key and value as three Linears, as PEFT expects them, with the weights of a fused one."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        for i, name in enumerate("qkv"):
            linear = nn.Linear(WIDTH, WIDTH)
            linear.weight = nn.Parameter(fused.weight[i * WIDTH : (i + 1) * WIDTH].detach().clone())
            linear.bias = nn.Parameter(fused.bias[i * WIDTH : (i + 1) * WIDTH].detach().clone())
            self.add_module(name, linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)


def pair(config: LoRAConfig) -> tuple[LoRALinear, nn.Module]:
    """Our layer and PEFT's on the same base, with the same random A and B."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    torch.manual_seed(0)
    fused = nn.Linear(WIDTH, 3 * WIDTH)
    alpha = config.rank if config.scaling == "none" else config.alpha  # alpha = r divides to the factor 1
    theirs = get_peft_model(
        Separate(fused),
        PeftConfig(
            r=config.rank, lora_alpha=alpha, target_modules=list(config.targets), lora_dropout=config.dropout,
            **SCALINGS[config.scaling],
        ),
    )  # fmt: skip
    ours = LoRALinear(fused, ("q", "k", "v"), config)
    randomise([p for p in ours.parameters() if p.requires_grad], scale=0.3)
    for name in config.targets:
        layer = theirs.get_submodule(f"base_model.model.{name}")
        layer.lora_A["default"].weight.data.copy_(ours.get_parameter(f"A_{name}").data)
        layer.lora_B["default"].weight.data.copy_(ours.get_parameter(f"B_{name}").data)
    return ours, theirs


@pytest.mark.parametrize("rank", [1, 8, 40])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("targets", [("q", "v"), ("q", "k", "v"), ("k",)], ids="".join)
def test_outputs_gradients_and_merged_weights_are_pefts(rank, scaling, targets):
    ours, theirs = pair(LoRAConfig(rank, alpha=6.0, scaling=scaling, targets=targets))
    x = torch.randn(2, 5, 5, WIDTH)
    out, reference = ours(x), theirs(x)
    torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)
    out.square().mean().backward()
    reference.square().mean().backward()
    for name in targets:
        layer = theirs.get_submodule(f"base_model.model.{name}")
        for end, matrix in (("A", layer.lora_A), ("B", layer.lora_B)):
            grad = ours.get_parameter(f"{end}_{name}").grad
            torch.testing.assert_close(grad, matrix["default"].weight.grad, rtol=1e-3, atol=1e-5)
    merged = theirs.merge_and_unload()
    expected = torch.cat([merged.get_submodule(name).weight for name in "qkv"])
    torch.testing.assert_close(ours.weight(), expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_pefts():
    ours, theirs = pair(LoRAConfig(8, targets=("v",), dropout=0.5))
    x = torch.randn(2, 5, 5, WIDTH)
    torch.manual_seed(3)
    out = ours.train()(x)
    torch.manual_seed(3)
    torch.testing.assert_close(out, theirs.train()(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_whole_encoder_is_pefts_before_and_after_merging():
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    config = LoRAConfig(4, alpha=6.0, targets=("lin1", "lin2"))
    ours = add_lora(tiny_sam(), config)
    randomise([p for p in ours.parameters() if p.requires_grad], scale=0.1)
    peft_config = PeftConfig(r=4, lora_alpha=6, target_modules=["lin1", "lin2"])
    theirs = get_peft_model(tiny_sam().image_encoder, peft_config)
    for number, block in enumerate(ours.image_encoder.blocks):
        for name in config.targets:
            layer = theirs.get_submodule(f"base_model.model.blocks.{number}.mlp.{name}")
            layer.lora_A["default"].weight.data.copy_(block.mlp.get_submodule(name).get_parameter(f"A_{name}").data)
            layer.lora_B["default"].weight.data.copy_(block.mlp.get_submodule(name).get_parameter(f"B_{name}").data)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.image_encoder(image), theirs(image), rtol=1e-4, atol=1e-5)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merge(ours).image_encoder(image), merged(image), rtol=1e-4, atol=1e-5)
    for key, tensor in merged.state_dict().items():
        torch.testing.assert_close(ours.image_encoder.state_dict()[key], tensor, rtol=1e-5, atol=1e-6)
