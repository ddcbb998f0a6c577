"""What the bench times: the reference's loop is segment-anything's, and both sides answer alike."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling.image_encoder import Attention

from bench import answers, child, work
from bench.reference import PlainLoRA, add_plain_lora
from lorasam_core.models.attention import FastAttention
from lorasam_core.models.lora import LoRAConfig, add_lora, lora_parameters
from tests.tiny_sam import tiny_sam


@pytest.fixture
def tiny(monkeypatch):
    """A tiny random SAM in place of the models, generated images of 64 pixels in place of 512."""

    def plain(model, size, device):
        return tiny_sam(image_size=size or 64)

    monkeypatch.setattr(work, "plain_sam", plain)
    monkeypatch.setattr(work, "generate", partial(work.generate, size=(64, 64)))


def test_plain_lora_is_the_adapters_formula():
    sam, ours = tiny_sam(), tiny_sam()
    torch.manual_seed(0)
    parameters = add_plain_lora(sam, 3)
    torch.manual_seed(0)
    theirs = lora_parameters(add_lora(ours, LoRAConfig(3)))
    for a, b in zip(parameters, theirs, strict=True):
        assert torch.equal(a, b)
    work.randomise(parameters)
    layer = sam.image_encoder.blocks[0].attn.qkv
    assert isinstance(layer, PlainLoRA)
    x = torch.randn(2, 5, 32)
    update = torch.cat([layer.B_q @ layer.A_q, torch.zeros(32, 32), layer.B_v @ layer.A_v])
    torch.testing.assert_close(layer(x), layer.qkv(x) + x @ update.T)


@pytest.mark.parametrize("batch", [1, 3])
def test_both_training_steps_have_one_gradient(tiny, batch):
    found, expected = (
        work.train_step(ours, "cpu", model="tiny", size=64, rank=3, batch=batch, precision="32-true")
        for ours in (True, False)
    )
    gradients = []
    for job in (found, expected):
        job.warm()
        gradients.append(job.run())
    assert float(gradients[1].norm()) > 1e-4
    assert answers.tensors(gradients[0].double(), gradients[1].double())["relative_error"] < 1e-4


def test_the_sides_differ_in_attention_alone(tiny):
    assert {type(b.attn) for b in work.make_sam(True, "tiny", 64, "cpu").image_encoder.blocks} == {FastAttention}
    assert {type(b.attn) for b in work.make_sam(False, "tiny", 64, "cpu").image_encoder.blocks} == {Attention}


def test_encoders_answer_alike(tiny):
    found, expected = (work.encode(ours, "cpu", "tiny", 64, "32-true").run() for ours in (True, False))
    assert answers.tensors(found.double(), expected.double())["relative_error"] < 1e-5


def test_a_merged_adapter_changes_the_answer_and_not_the_modules(tiny):
    base, adapted = (work.merged(True, "cpu", "tiny", 64, "32-true", adapter=rank) for rank in (0, 4))
    assert answers.tensors(adapted.run().double(), base.run().double())["relative_error"] > 1e-3


def test_vit_b_has_random_weights_that_are_the_same_each_time(monkeypatch):
    monkeypatch.setitem(work.sam_model_registry, "small", lambda: tiny_sam(seed=int(torch.randint(9, ()))))
    first, second = (work.plain_sam("small", None, "cpu").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_generators_answer_alike_and_say_so(tiny, tmp_path):
    settings = {"model": "tiny", "side": 4, "crops": 1, "passing": 1.0, "encoding": False}
    kept = {}
    for side, ours in (("ours", True), ("reference", False)):
        kept[side] = str(tmp_path / side)
        order = {"work": "generate", "ours": ours, "device": "cpu", "settings": settings, "keep": kept[side]}
        assert child.measure(order)["facts"]["prompts"] == 16 + 4 * 4
    found = answers.agreement(kept | {"settings": settings, "device": "cpu", "other_masks": False})
    assert found["matched"] == found["reference"] > 0
    assert found["pixels_far"] == found["unmatched"] == 0 and found["matched_iou"] > 0.999


def test_the_threshold_lets_a_tenth_pass(tiny):
    settings = {"model": "tiny", "side": 6, "crops": 0, "passing": 0.1, "encoding": False}
    limit = answers.threshold({"settings": settings, "device": "cpu"})["threshold"]
    sam = work.generator_sam(False, "tiny", False, "cpu")
    everything = SamAutomaticMaskGenerator(
        sam, points_per_side=6, pred_iou_thresh=-1e9, stability_score_thresh=0.0, box_nms_thresh=1.0
    ).generate(work.micrograph())
    assert np.mean([a["predicted_iou"] > limit for a in everything]) == pytest.approx(0.1, abs=0.02)


def test_what_is_short_is_repeated_and_the_median_taken(tiny, monkeypatch):
    ticks = iter([0.0, 1.0, 1.0, 4.0])  # calls of one and of three seconds
    monkeypatch.setattr(child.time, "perf_counter", lambda: next(ticks))
    done = []
    monkeypatch.setitem(child.WORK, "count", lambda ours, device: work.Job(lambda: done.append(1), lambda: None))
    order = {"work": "count", "ours": True, "device": "cpu", "settings": {}, "keep": None}
    assert child.measure(order)["seconds"] == 2.0 and len(done) == 2
