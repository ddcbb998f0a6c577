"""The optimisation loop: rates by formula, accumulation, and stopping before the weights are spoilt."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn

from lorasam_core.training.fit import NonFiniteLoss, Timed, fit, make_fabric, warmup_cosine


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.9), peak=st.floats(1e-6, 1.0), floor=st.floats(0, 0.5))
def test_the_rate_rises_in_a_line_and_falls_as_a_cosine(steps, warmup, peak, floor):
    rate = warmup_cosine(steps, peak, warmup, floor)
    warm = max(1, round(warmup * steps))
    for step in range(steps):
        if step < warm:
            expected = peak * (step + 1) / warm
        else:
            turned = math.cos(math.pi * (step - warm) / (steps - warm))
            expected = peak * floor + (peak - peak * floor) * (1 + turned) / 2
        assert rate(step) == pytest.approx(expected, rel=1e-9)
    assert max(map(rate, range(steps))) == pytest.approx(peak)
    assert rate(steps) == pytest.approx(peak * floor) or steps <= warm


def test_the_rate_equals_pytorchs_cosine():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    rate = warmup_cosine(21, 0.3, 1 / 21)
    for step in range(1, 21):
        assert rate(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        schedule.step()


class Line(nn.Module):
    """y = w x + b, mean squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.5, -1.0, 2.0]]))
            self.layer.bias.fill_(0.1)

    def forward(self, batch, step):
        error = self.layer(batch["x"])[:, 0] - batch["y"]
        return (error**2).mean(), {"largest": error.abs().max(), "step": float(step)}


def batches(size, poison=None, kind=float("nan")):
    """Images 0, 1, 2 ... of a fixed stream, `size` a batch."""
    generator, image = torch.Generator().manual_seed(0), 0
    while True:
        ids = list(range(image, image + size))
        x = torch.stack([torch.randn(3, generator=generator) for _ in ids])  # the same images whatever the size
        if poison in ids:
            x[ids.index(poison)] = kind
        image += size
        yield {"x": x, "y": x.clamp(-9, 9).sum(1), "ids": [f"image {i}" for i in ids], "size": size}


def run(steps=3, size=4, optimizer="SGD", stream=None, constant=0.1, model=None, **options):
    fabric = make_fabric("cpu", "32-true")
    model = model or Line()
    setup = fabric.setup(model, getattr(torch.optim, optimizer)(model.parameters(), lr=9.0))
    rows = []
    options.setdefault("after_step", lambda step, row: rows.append(row | {"at": step}))
    stream = stream or batches(size)
    last = fit(
        fabric, *setup, stream, steps, lambda step: constant / (step + 1), clip_norm=options.pop("clip", 1e9), **options
    )
    return model, rows, last


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_accumulated_batches_equal_one_larger_batch(optimizer):
    large, large_rows, _ = run(size=12, optimizer=optimizer)
    small, small_rows, _ = run(size=3, optimizer=optimizer, accumulate=4)
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)
    for a, b in zip(small_rows, large_rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_a_batch_in_uneven_pieces_is_the_batch():
    rows = [[0], list(range(1, 12))]

    def pieces(batch, step):
        return [(len(some) / 12, batch | {key: batch[key][some] for key in ("x", "y")}) for some in rows]

    whole, whole_rows, _ = run(size=12)
    cut, cut_rows, _ = run(size=12, pieces=pieces)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-6)
    for a, b in zip(cut_rows, whole_rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["step"] == b["step"]


def test_the_gradient_of_accumulated_batches_is_that_of_one_larger_batch(monkeypatch):
    gradients = []

    def keep(self, closure=None):
        gradients.append(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]))

    monkeypatch.setattr(torch.optim.SGD, "step", keep)
    run(steps=1, size=12)
    run(steps=1, size=3, accumulate=4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_steps_are_those_of_plain_pytorch():
    model, stream = Line(), batches(4)
    optimizer = torch.optim.SGD(model.parameters())
    expected = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        loss, measures = model(next(stream), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        optimizer.step()
        expected.append((step + 1, loss.item(), measures["largest"].item(), 0.1 / (step + 1)))
    found, rows, last = run(clip=0.7)
    assert torch.equal(weights(found), weights(model)) and last == 3
    for row, values in zip(rows, expected, strict=True):
        assert [row[key] for key in ("at", "loss", "largest", "learning_rate")] == pytest.approx(values)
    assert [r["step"] for r in rows] == [0.0, 1.0, 2.0] and all(r["images_per_s"] > 0 for r in rows)


def test_a_run_that_starts_later_takes_the_remaining_steps():
    _, rows, last = run(steps=5, start=3)
    assert [r["at"] for r in rows] == [4, 5] and last == 5
    model, rows, last = run(steps=5, start=5)
    assert not rows and last == 5 and torch.equal(weights(model), weights(Line()))


def test_waiting_for_batches_is_timed_and_closing_ends_them(monkeypatch):
    ended, clock = [], [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def slow():
        try:
            for number in range(3):
                clock[0] += 0.05
                yield number
        finally:
            ended.append(True)

    batches = Timed(slow())
    assert [next(batches), next(batches)] == [0, 1]
    clock[0] += 0.2  # the model's own time
    assert batches.seconds == pytest.approx(0.1) and not ended
    batches.close()
    assert ended and list(batches) == []


def test_after_step_can_stop_the_run():
    seen = []

    def stop(step, row):
        seen.append(step)
        return step == 4

    assert run(steps=10, after_step=stop)[2] == 4
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("kind", [float("nan"), float("inf")])
@pytest.mark.parametrize(("accumulate", "step"), [(1, 6), (2, 3)])
def test_a_loss_that_is_not_finite_names_its_batch_and_leaves_the_weights(kind, accumulate, step, optimizer):
    model, options = Line(), {"size": 2, "optimizer": optimizer, "accumulate": accumulate}
    message = rf"^The loss is (nan|inf) at step {step}, images image 10, image 11; .*\.$"
    with pytest.raises(NonFiniteLoss, match=message):
        run(steps=9, stream=batches(2, 10, kind), model=model, **options)
    expected, _, _ = run(steps=step - 1, **options)
    assert torch.equal(weights(model), weights(expected))


class Cliff(Line):
    """A finite loss whose gradient is infinite where x is zero."""

    def forward(self, batch, step):
        loss, measures = super().forward(batch, step)
        nothing = self.layer.bias - self.layer.bias.detach()
        return loss + (nothing + batch["x"][:, 0].abs()).sqrt().sum(), measures


def test_a_gradient_that_is_not_finite_names_every_image_of_the_step():
    model = Cliff()
    before = weights(model)
    message = r"^The gradient is not finite at step 1, images image 0, image 1, image 2, image 3; .*\.$"
    with pytest.raises(NonFiniteLoss, match=message):
        run(steps=1, size=2, stream=batches(2, poison=1, kind=0.0), model=model, accumulate=2, clip=1.0)
    assert torch.equal(weights(model), before)


def test_other_errors_are_not_taken_for_a_bad_gradient(monkeypatch):
    def fails(self, *args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Fabric, "clip_gradients", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(steps=1)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("cuda", 1), ("cuda:2", [2]), ("mps", 1), ("mps:0", 1)])
def test_fabric_is_made_for_the_device_that_was_named(monkeypatch, device, expected):
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **options: options)
    kind = device.split(":")[0]
    assert make_fabric(device, "32-true") == {"accelerator": kind, "devices": expected, "precision": "32-true"}
