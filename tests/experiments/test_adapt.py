"""An adapter from a few labelled images: what is held out, what chooses thresholds, what is written and resumed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from skimage.io import imsave

from lorasam_core.experiments import adapt as module
from lorasam_core.experiments.adapt import COLUMNS, THRESHOLDS, adapt, best_threshold, kept, measured
from lorasam_core.experiments.adapt_plan import limits
from lorasam_core.experiments.adapt_report import table
from lorasam_core.experiments.verify import verify_adapter
from lorasam_core.masks.segmenter import Segmenter
from lorasam_core.models.lora import load_adapter, read_adapter
from lorasam_core.models.sam import load_sam
from lorasam_core.training import loop
from tests.adapting import make, plan_of, small_start
from tests.disc_set import disc_sample
from tests.tiny_sam import same

NAMES = [f"<img src=x onerror=alert({i})>" for i in range(4)]


@pytest.fixture
def one_thread():
    """Two threads add up in an order of their own: trained twice in one process, weights differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return small_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return make(tmp_path_factory.mktemp("four") / "four", 4, names=NAMES)


@pytest.fixture(scope="module")
def crossed(four, start, tmp_path_factory):
    """Four images, cross-validated."""
    return adapt(plan_of(four, start), tmp_path_factory.mktemp("crossed") / "out")


def tensors(path):
    return read_adapter(path)[1]


# ---------------------------------------------------------------------------------------------------- thresholds
def test_the_threshold_with_the_greatest_mean_f1_is_taken_and_a_group_can_be_left_out():
    f1 = pd.DataFrame([["a", 0.9, 0.0, 0.0], ["a", 0.9, 0.0, 0.0], ["b", 0.0, 0.2, 0.2], ["c", 0.0, 0.4, 0.4]],
                      columns=["group", 0.1, 0.2, 0.3])  # fmt: skip
    assert best_threshold(f1, 0.25) == 0.1
    assert best_threshold(f1, 0.25, without="a") == 0.2  # of equal ones the lowest
    assert best_threshold(f1[:0], 0.25) == best_threshold(f1[:2], 0.25, without="a") == 0.25


def test_no_image_chooses_its_own_threshold(four, start, tmp_path):
    """Each image is perfect under one threshold of its own; what the others like it does not get to choose."""
    plan = plan_of(four, start)
    files, best = {}, dict(zip(plan.choose, (1, 3, 3, 5), strict=True))
    for held, place in best.items():
        files[held] = tmp_path / f"{plan.place(held)}.npz"
        labels = plan.sample(held).labels
        f1 = np.where(np.arange(len(THRESHOLDS)) == place, 1.0, 0.0)
        np.savez(files[held], labels=labels, scores=np.full(labels.max(), 0.99), f1=f1, ap50=1.0, dice=1.0)
    result = measured(plan, tmp_path, {"frozen": files, "adapted": files})
    rows = result.rows[result.rows["model"] == "adapted"]
    chosen = dict(zip(rows["id"], rows["threshold"], strict=True))
    for held, place in best.items():
        others = [other for image, other in best.items() if image != held]
        most = max(others, key=lambda other: (others.count(other), -other))
        assert chosen[held.id] == THRESHOLDS[most], (held, place)
    assert result.threshold == THRESHOLDS[3]
    assert (rows["f1"] == 1).all() and (rows["d50_error"] == 0).all() and (rows["found"] == rows["labelled"]).all()


def test_filtered_answers_are_what_the_generator_gives_with_that_threshold(start):
    image = disc_sample(3, (120, 128)).image
    found = Segmenter(start, device="cpu", score_thresh=0.05, tile=128)(image)
    scores = found.scores[:, 0]
    threshold = float(np.median(scores))
    assert 0.05 < threshold < scores.max()
    again = Segmenter(start, device="cpu", score_thresh=threshold, tile=128)(image)
    ours = kept(found.labels, scores, threshold)
    assert np.array_equal(ours > 0, again.labels > 0) and len(np.unique(ours)) == len(np.unique(again.labels))


def test_the_foreground_of_tiles_is_that_of_the_image(monkeypatch):
    monkeypatch.setattr(module, "predict_foreground", lambda sam, image, autocast: image > 100)
    image = disc_sample(1, (200, 300)).image
    assert np.array_equal(module._foreground(None, image, 96), image > 100)


# ---------------------------------------------------------------------------------------------------- the whole way
def test_each_image_is_asked_of_an_adapter_that_was_trained_without_it(crossed):
    state = crossed.out / "state"
    for held, file in crossed.answers["adapted"].items():
        trained = json.loads((file.parent / "done.json").read_text())["images"]
        assert held.id not in trained and len(trained) in (2, 3) and file.parent.parent == state
    assert set(json.loads((state / "adapted" / "done.json").read_text())["images"]) == set(NAMES)
    rows = pd.read_csv(crossed.out / "measured.csv")
    assert list(rows.columns) == list(COLUMNS) and len(rows) == 3 * 4  # frozen, start, adapted


def test_the_adapter_says_how_it_is_used_and_what_it_was_made_of(crossed, start):
    segmenter = Segmenter(str(crossed.adapter), device="cpu")
    assert segmenter.side == 128 and segmenter.described["settings"]["score_thresh"] == crossed.threshold
    assert segmenter.described["settings"]["points_per_side"] == 10  # as the adapter at the start
    metadata = load_adapter(load_sam("lite", image_size=128), crossed.adapter)
    assert metadata["segment"]["diameter"] == pytest.approx(crossed.plan.diameters[1], abs=0.01)  # 128 of 128 pixels
    card = metadata["card"]
    assert (card["images"], card["groups"], card["pixel_size"]) == (4, 4, None) and "start.safetensors" in card["start"]
    assert card["particles"] == sum(len(np.unique(sample.labels)) - 1 for sample in crossed.plan.sets["folder"])
    frozen = crossed.rows[crossed.rows["model"] == "frozen"]
    assert card["measured"]["frozen"]["dice"] == pytest.approx(frozen["dice"].mean(), abs=1e-4)
    assert not same(tensors(crossed.adapter), tensors(start))
    checks = {check.name: check.holds for check in verify_adapter(crossed.adapter)}
    assert list(checks) == ["file", "content", "tensors", "use", "card", "base", "picture"] and all(checks.values())


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_escapes_names_needs_nothing_else_and_has_the_numbers(crossed):
    text = (crossed.out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not any(name in text for name in NAMES) and sum(name in page.text for name in NAMES) == 3
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 3 * 4 + 1 and all(source.startswith("data:image/png;base64,") for source in images)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags} and "url(" not in text
    dice = crossed.rows.groupby("model")["dice"].mean()
    assert all(f"{100 * value:.1f}" in page.text for value in dice)
    assert (
        all(sentence in page.text for sentence in limits(crossed.plan)) and "4 groups can give no interval" in page.text
    )
    assert re.search(r"lorasam segment YOUR_FOLDER --adapter \S+adapter\.safetensors", page.text)


@pytest.mark.browser
@pytest.mark.parametrize("policy", [True, False], ids=["as it is", "without its policy"])
def test_names_of_images_run_no_script_in_a_browser(crossed, browser, policy):
    context = browser.new_context(bypass_csp=not policy)
    tab, said, asked = context.new_page(), [], []
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((crossed.out / "report.html").as_uri(), wait_until="load")
    tab.wait_for_timeout(200)
    assert "<img src=x onerror=alert(" in tab.inner_text("main")
    assert said == [] and [url for url in asked if not url.startswith("data:")] == [tab.url]
    assert tab.evaluate("[...document.images].every(i => i.src.startsWith('data:image/png'))")
    context.close()


def test_one_image_trains_and_says_that_nothing_was_measured(tmp_path, start):
    plan = plan_of(make(tmp_path / "one", 1), start, steps=1)
    result = adapt(plan, tmp_path / "out")
    assert "nothing is held out" in limits(plan)[0] and result.rows.empty and table(result.rows).empty
    assert result.threshold == 0.25
    metadata, _ = read_adapter(result.adapter)
    assert metadata["segment"]["guided"]["score_thresh"] == 0.25 and metadata["card"]["measured"] == {}
    assert "nothing is held out" in (result.out / "report.html").read_text(encoding="utf-8")


def test_a_test_folder_measures_alone(tmp_path, start):
    plan = plan_of(make(tmp_path / "one", 1), start, steps=1, test=make(tmp_path / "b", 2, first=5))
    rows = adapt(plan, tmp_path / "out").rows
    assert set(zip(rows["set"], rows["id"], strict=True)) == {("test", "image5"), ("test", "image6")}
    assert set(rows["threshold"]) == {0.25}  # no image was left to choose one


def test_an_image_without_any_particle_trains_and_is_measured(tmp_path, start):
    folder = make(tmp_path / "two", 2)
    imsave(folder / "labels" / "image1.png", np.zeros((128, 144), np.uint16), check_contrast=False)
    result = adapt(plan_of(folder, start, steps=2), tmp_path / "out")
    rows = result.rows[result.rows["id"] == "image1"]
    assert (rows["labelled"] == 0).all() and rows["d50_error"].isna().all() and rows["f1"].isin([0.0, 1.0]).all()


class Stop(Exception):
    """What ends a process in the middle."""


class StopAt:
    """A callback that stops training when `logs` rows were written in all."""

    def __init__(self, logs):
        self.logs = logs

    def on_log(self, step, row):
        self.logs -= 1
        if not self.logs:
            raise Stop


def test_stopped_anywhere_it_goes_on_to_the_same_bits(tmp_path, start, monkeypatch, one_thread):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)  # a checkpoint each step
    folder = make(tmp_path / "two", 2)
    plan = plan_of(folder, start, steps=5)
    whole = adapt(plan, tmp_path / "whole")
    out = tmp_path / "stopped"
    for logs in (2, 5, 4):  # in a fold, in the next after rows that are told again, in the last
        with pytest.raises(Stop):
            adapt(plan, out, [StopAt(logs)])
    assert (out / "state" / "fold-1" / "done.json").exists()
    before = (out / "state" / "fold-1" / "adapter.safetensors").stat().st_mtime_ns
    again = adapt(plan, out)
    assert (out / "state" / "fold-1" / "adapter.safetensors").stat().st_mtime_ns == before
    assert same(tensors(again.adapter), tensors(whole.adapter))
    pd.testing.assert_frame_equal(again.rows, whole.rows)
    assert not list((out / "state").glob("*/checkpoint.pt"))


def test_other_settings_and_another_process_are_refused(crossed, four, start, tmp_path):
    with pytest.raises(ValueError, match="holds results with steps 2, not 3"):
        adapt(plan_of(four, start, steps=3), crossed.out)
    other = make(tmp_path / "other", 4, first=7)
    with pytest.raises(ValueError, match="holds results with images of folder"):
        adapt(plan_of(other, start), crossed.out)
    make(tmp_path / "grouped", 4, names=NAMES, groups=list("aabb"))
    with pytest.raises(ValueError, match="holds results with folds 3, not 2"):
        adapt(plan_of(tmp_path / "grouped", start), crossed.out)
    make(tmp_path / "others", 4, names=NAMES, groups=list("aabc"))
    with pytest.raises(ValueError, match="holds results with groups of folder"):
        adapt(plan_of(tmp_path / "others", start), crossed.out)
    with FileLock(crossed.out / ".lock"), pytest.raises(ValueError, match="another process writes"):
        adapt(crossed.plan, crossed.out)


def test_the_table_has_means_differences_and_intervals_from_six_groups_on():
    rows = [
        {"model": model, "set": "test", "id": f"i{i}", "group": f"g{i}", "dice": dice + 0.01 * (i % 2), "ap50": 0.5,
         "f1": 0.5, "d50_error": error * (-1) ** i, "found": 10 + i, "labelled": 20}
        for model, dice, error in (("frozen", 0.5, 0.4), ("adapted", 0.8, 0.1)) for i in range(6)
    ]  # fmt: skip
    shown = table(pd.DataFrame(rows)).set_index("measure")
    assert shown.loc["Dice, %", "frozen"].startswith("50.5 [") and shown.loc["Dice, %", "verdict"] == "higher"
    assert shown.loc["error of D50, %", "adapted - frozen"].startswith("-30.0")
    assert shown.loc["particles found, labelled", "adapted"] == "75 of 120"
    rows[0]["d50_error"], rows[6]["d50_error"] = float("nan"), 0.7  # i0, where the frozen model finds nothing
    shown = table(pd.DataFrame(rows)).set_index("measure")
    assert shown.loc["error of D50, %", "adapted"].startswith("10.0 [")
    few = table(pd.DataFrame([row for row in rows if row["id"] != "i5"])).set_index("measure")
    assert few.loc["Dice, %", "adapted"] == "80.4" and few.loc["Dice, %", "verdict"] == "too few groups"
