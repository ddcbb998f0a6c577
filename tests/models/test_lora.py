"""LoRA in the layer and in a whole model: what may change and what may not, merging, counts, bad configurations."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from segment_anything import build_sam_vit_b
from torch import nn

from lorasam_core.models import lora
from lorasam_core.models.lora import LoRAConfig, LoRALinear, add_lora, merge, unmerge
from tests.tiny_sam import outputs, randomise, same, snapshot, tiny_sam

ALL = ("q", "k", "v", "proj", "lin1", "lin2")
CONFIGS = {
    "q and v": LoRAConfig(8),
    "small rank": LoRAConfig(1, alpha=3.0),
    "everything": LoRAConfig(4, alpha=8.0, scaling="alpha/sqrt(r)", targets=ALL),
    "one block": LoRAConfig(2, scaling="none", targets=("k", "proj"), blocks=(1,)),
    "dropout": LoRAConfig(4, targets=ALL, dropout=0.4),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture
def sam():
    return tiny_sam()


@pytest.fixture
def trained():
    sam = add_lora(tiny_sam(), LoRAConfig(4, alpha=8.0, targets=("q", "v", "lin1")))
    randomise(lora.lora_parameters(sam))
    return sam


@each_config
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_zero_initialised_lora_leaves_every_output_bit_identical(sam, config, training, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = outputs(sam.train(training))
        after = outputs(add_lora(sam, config))
        with torch.no_grad():
            silent = outputs(sam)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(before, after, silent, strict=True))


@each_config
def test_a_step_moves_a_and_b_alone(sam, config):
    base = snapshot(sam)
    add_lora(sam.train(), config)
    first = {name: p.detach().clone() for name, p in lora.adapter_state(sam).items()}
    optimiser = torch.optim.Adam([p for p in sam.parameters() if p.requires_grad], lr=1e-2)
    for step in range(2):  # A has no gradient while B is zero
        optimiser.zero_grad()
        sum(out.square().sum() for out in outputs(sam, seed=step)).backward()
        optimiser.step()
    now = lora.adapter_state(sam)
    assert {name for name, p in sam.named_parameters() if p.requires_grad} == now.keys()
    assert all((now[name] != first[name]).any() for name in first)
    assert same(base, {name.replace(".base.", "."): t for name, t in sam.state_dict().items() if name not in now})


@each_config
def test_merge_equals_unmerged_twice_is_once_and_unmerge_restores(sam, config):
    keys = set(sam.state_dict())
    add_lora(sam, config)
    randomise(lora.lora_parameters(sam))
    before, parameters, expected = snapshot(sam), lora.lora_parameters(sam), outputs(sam)
    plain = tiny_sam()
    assert max((a - b).abs().max() for a, b in zip(expected, outputs(plain), strict=True)) > 1e-2  # it does something
    assert merge(sam) is sam
    for once, reference in zip(outputs(sam), expected, strict=True):
        torch.testing.assert_close(once, reference, rtol=1e-5, atol=1e-5)
    assert set(sam.state_dict()) == keys and lora.count_trainable(sam) == 0
    assert type(sam.image_encoder.blocks[1].attn.qkv) is type(plain.image_encoder.blocks[1].attn.qkv)
    once = snapshot(sam)
    assert same(once, snapshot(merge(merge(sam))))
    unmerge(unmerge(sam))
    assert same(before, sam.state_dict())
    assert all(a is b for a, b in zip(parameters, lora.lora_parameters(sam), strict=True))  # an optimiser still holds
    assert same(once, snapshot(merge(sam)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), rank=st.integers(1, 12), alpha=st.floats(0.5, 64), training=st.booleans(),
    scaling=st.sampled_from(["alpha/r", "alpha/sqrt(r)", "none"]), targets=st.sets(st.sampled_from("qkv"), min_size=1),
)  # fmt: skip
def test_layer_is_the_formula_on_either_path(seed, rank, alpha, training, scaling, targets):
    torch.manual_seed(seed)
    layer = LoRALinear(nn.Linear(6, 15), ("q", "k", "v"), LoRAConfig(rank, alpha, scaling, tuple(targets))).double()
    layer.train(training)
    randomise([p for p in layer.parameters() if p.requires_grad], seed, 1.0)
    factor = {"alpha/r": alpha / rank, "alpha/sqrt(r)": alpha / rank**0.5, "none": 1.0}[scaling]
    matrix = layer.base.weight.detach().numpy().copy()
    for i, name in enumerate("qkv"):
        if name in targets:
            b, a = (layer.get_parameter(f"{end}_{name}").detach().numpy() for end in "BA")
            matrix[5 * i : 5 * (i + 1)] += factor * b @ a
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    expected = x.numpy() @ matrix.T + layer.base.bias.detach().numpy()
    for layer.on_matrix in (False, True):
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_both_paths_have_the_same_gradients_and_spare_the_other_slices():
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(16, 48), ("q", "k", "v"), LoRAConfig(3))
    randomise([layer.A_q, layer.A_v, layer.B_q, layer.B_v], scale=0.3)
    x = torch.randn(2, 4, 4, 16, requires_grad=True)
    grads = []
    for layer.on_matrix in (False, True):
        out = layer(x)
        assert torch.equal(out[..., 16:32], layer.base(x)[..., 16:32])
        grads.append(torch.autograd.grad(out.square().sum(), [x, layer.A_q, layer.A_v, layer.B_q, layer.B_v]))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_alone(sam):
    add_lora(sam, LoRAConfig(8, dropout=0.5))
    randomise(lora.lora_parameters(sam))
    still = outputs(sam)
    assert all(torch.equal(a, b) for a, b in zip(still, outputs(sam), strict=True))
    assert not torch.equal(outputs(sam.train())[0], still[0])


@pytest.mark.parametrize("rank", [1, 8])
def test_bfloat16_autocast_under_fabric(rank):
    sam = add_lora(tiny_sam(), LoRAConfig(rank, targets=ALL))
    randomise(lora.lora_parameters(sam), scale=0.2)
    exact = sam.image_encoder(torch.ones(1, 3, 64, 64)).detach()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    optimiser = torch.optim.Adam(lora.lora_parameters(sam))
    encoder, optimiser = fabric.setup(sam.image_encoder.train(), optimiser)
    out = encoder(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.15)
    fabric.backward(out.square().mean())
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in lora.lora_parameters(sam))
    assert all(p.grad.abs().sum() > 0 for p in lora.lora_parameters(sam))
    optimiser.step()


def test_counts_hold_on_a_real_vit_b():
    with torch.device("meta"):
        sam = build_sam_vit_b()
        keys = set(sam.state_dict())
        add_lora(sam, LoRAConfig(512))
    assert lora.count_trainable(sam) == lora.lora_parameter_count(768, 12, 512, ("q", "v")) == 18_874_368
    assert set(merge(sam).state_dict()) == keys


@pytest.mark.parametrize("targets", [*((t,) for t in ALL), ALL, ("v", "lin2")])
def test_closed_form_counts(sam, targets):
    add_lora(sam, LoRAConfig(3, targets=targets))
    expected = sum(p.numel() for p in lora.lora_parameters(sam))
    assert lora.lora_parameter_count(32, 2, 3, targets) == lora.count_trainable(sam) == expected


def test_a_seed_gives_the_same_adapter_and_a_lies_in_kaimings_bounds():
    drawn = []
    for _ in range(2):
        sam = tiny_sam()
        torch.manual_seed(5)
        drawn.append(lora.adapter_state(add_lora(sam, LoRAConfig(16))))
    assert same(*drawn)
    bound = 32**-0.5  # sqrt(6 / ((1 + 5) in))
    for name, p in drawn[0].items():
        assert (p == 0).all() if ".B_" in name else 0.9 * bound < p.abs().max() <= bound


def test_hash_is_of_the_base_alone(sam):
    digest = hashlib.sha256()
    for name, tensor in sorted(sam.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert lora.hash_base(sam) == digest.hexdigest()
    add_lora(sam, LoRAConfig(2, targets=ALL))
    randomise(lora.lora_parameters(sam))
    assert lora.hash_base(sam) == digest.hexdigest()
    assert lora.hash_base(merge(sam)) == digest.hexdigest()
    assert lora.hash_base(unmerge(sam)) == digest.hexdigest()
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] += 1e-6
    assert lora.hash_base(sam) != digest.hexdigest()


def test_hash_reads_the_tables_as_they_were_before_resizing(sam):
    expected = lora.hash_base(sam)
    table = sam.image_encoder.pos_embed
    sam.original_tables = {"image_encoder.pos_embed": table.detach().clone()}
    sam.image_encoder.pos_embed = nn.Parameter(table[:, ::2, ::2].detach().clone())
    assert lora.hash_base(sam) == expected


def test_a_copy_has_its_own_adapter(trained):
    merge(trained)
    twin = unmerge(copy.deepcopy(trained))
    before = lora.adapter_state(trained)
    randomise(lora.lora_parameters(twin), seed=9)
    assert not any(torch.equal(t, before[name]) for name, t in lora.adapter_state(twin).items())
    expected = outputs(trained)
    assert all(torch.equal(a, b) for a, b in zip(outputs(merge(unmerge(trained))), expected, strict=True))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 0}, "rank is 0"), ({"rank": -4}, "rank is -4"), ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": True}, "rank is True"), ({"rank": 4, "alpha": 0}, "alpha is 0"),
        ({"rank": 4, "scaling": "alpha"}, "scaling is 'alpha'; choose one of alpha/r"),
        ({"rank": 4, "targets": ("q", "qkv")}, "'qkv'.*choose from q, k, v, proj, lin1, lin2"),
        ({"rank": 4, "targets": ()}, "targets is"), ({"rank": 4, "blocks": ()}, "blocks is"),
        ({"rank": 4, "blocks": (-1,)}, "blocks is"), ({"rank": 4, "dropout": 1.0}, "dropout is 1.0"),
    ],
)  # fmt: skip
def test_a_configuration_out_of_range_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        LoRAConfig(**values)


def test_configuration_is_put_in_order():
    config = LoRAConfig(4, targets=["v", "q", "v"], blocks=[3, 1, 1])
    assert config == LoRAConfig(4, alpha=4.0, targets=("q", "v"), blocks=(1, 3))
    assert LoRAConfig(4, targets="proj").targets == ("proj",)
    assert LoRAConfig(4, alpha=32, scaling="none").factor == 1


def test_what_cannot_be_adapted_is_refused(sam):
    with pytest.raises(ValueError, match="blocks holds 7; the encoder has the blocks 0 to 1"):
        add_lora(sam, LoRAConfig(4, blocks=(0, 7)))
    with pytest.raises(ValueError, match="no image_encoder"):
        add_lora(nn.Linear(3, 3), LoRAConfig(4))
    for function in (merge, unmerge, lora.adapter_state, lora.lora_parameters):
        with pytest.raises(ValueError, match="no LoRA layers; call add_lora"):
            function(sam)
    sam.image_encoder.blocks[1].mlp = nn.Identity()
    with pytest.raises(ValueError, match="'lin1' matches nothing: block 1 has no Linear mlp"):
        add_lora(sam, LoRAConfig(4, targets=("q", "lin1")))
    assert not any(isinstance(m, LoRALinear) for m in sam.modules())
    add_lora(sam, LoRAConfig(4))
    for model in (sam, merge(sam)):
        with pytest.raises(ValueError, match="LoRA layers already"):
            add_lora(model, LoRAConfig(4))


def test_a_rank_above_the_width_is_allowed_with_a_warning(sam):
    with pytest.warns(UserWarning, match="rank 40 is above 32"):
        add_lora(sam, LoRAConfig(40))
    assert lora.count_trainable(sam) == 2 * 2 * 40 * 64
