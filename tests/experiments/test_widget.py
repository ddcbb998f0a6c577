"""The front end of a labelling: what is clicked and pressed in a browser is what Labelling's methods do."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from skimage.draw import disk

from lorasam_core.experiments import labelling as files
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.patches import cut

pytest.importorskip("anywidget")

from lorasam_core.experiments import widget as front
from lorasam_core.experiments.widget import LabelWidget

HEIGHT, WIDTH = SHAPE = (40, 60)
IMAGE = np.random.default_rng(0).integers(60, 120, SHAPE, dtype=np.uint8)
NAME = "<img src=x onerror='document.title = `run`'>"

MODEL = """async (source) => {
  const { default: widget } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const listeners = new Set();
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  window.waiting = 0;
  const model = {
    on: (event, listener) => listeners.add(listener),
    off: (event, listener) => listeners.delete(listener),
    send: async (content) => {
      window.waiting += 1;
      for (const [answer, buffers] of await window.python(content)) {
        for (const listener of listeners) listener(answer, buffers.map(bytes));
      }
      window.waiting -= 1;
    },
  };
  const cell = document.body.appendChild(document.createElement("div"));
  window.close_cell = await widget.render({ model, el: cell });
}"""  # of anywidget as much as the front end uses


def square(image, prompt):
    """A box as it is; of a point the 7 x 7 pixels around it, without what is outside."""
    mask = np.zeros(image.shape, bool)
    if prompt.box is not None:
        x0, y0, x1, y1 = (int(side) for side in prompt.box)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    for x, y in prompt.inside:
        mask[max(0, int(y) - 3) : int(y) + 4, max(0, int(x) - 3) : int(x) + 4] = True
    for x, y in prompt.outside:
        mask[int(y), int(x)] = False
    return cut(mask)


def made(**stated):
    """Two discs that touch as particle 1, a disc as 2, a square as 5."""
    labels = np.zeros(SHAPE, np.int32)
    labels[disk((10, 10), 6)] = labels[disk((10, 21), 6)] = 1
    labels[disk((30, 12), 6)] = 2
    labels[26:36, 40:50] = 5
    return Labelling(IMAGE, labels, square, **stated)


def done(work):
    """The log without its times."""
    return [{name: value for name, value in entry.items() if name != "time"} for entry in work.log[1:]]


class Heard(list):
    """What a widget sends, and labels made of it as the front end makes them."""

    def __init__(self, widget, monkeypatch):
        super().__init__()
        self.labels = np.zeros(SHAPE, np.uint32)
        self.widget, self.number = widget, 0
        monkeypatch.setattr(widget, "send", lambda content, buffers: self.append((content, buffers)))

    def asked(self, action, *given, **named):
        """The answer to one message."""
        self.number += 1
        message = {"action": action, "given": given, "named": named, "number": self.number, "view": "a"}
        self.clear()
        self.widget._handle_custom_msg(json.loads(json.dumps(message)), [])
        ((content, buffers),) = self
        y, x, height, width = content["window"]
        part = np.frombuffer(zlib.decompress(buffers[0]), "<u4").reshape(height, width)
        self.labels[y : y + height, x : x + width] = part
        return json.loads(json.dumps(content))


def test_messages_do_what_the_methods_do(tmp_path, monkeypatch):
    work, same = made(), made()
    heard = Heard(LabelWidget(work, tmp_path), monkeypatch)
    first = heard.asked("show")
    assert first["picture"]["height"] == HEIGHT and first["window"] == [0, 0, HEIGHT, WIDTH] and first["saved"]
    assert np.array_equal(heard.labels, work.labels)
    assert heard.asked("split", 1, [10, 10], [21, 10])["made"] == same.split(1, (10, 10), (21, 10))
    assert heard.asked("add", [30, 20])["made"] == [same.add((30, 20))]
    assert heard.asked("add", box=[45, 5, 55, 12], over=True)["made"] == [same.add(box=(45, 5, 55, 12), over=True)]
    heard.asked("refine", 2, [[20, 30]], [[12, 30]])
    same.refine(2, [(20, 30)], [(12, 30)])
    for action, given in (("merge", (5, 6)), ("remove", (2,)), ("undo", ()), ("redo", ()), ("accept", ())):
        answer = heard.asked(action, *given)
        getattr(same, action)(*given)
        assert not answer["problem"] and not answer["saved"]
    assert answer["accepted"] and done(work) == done(same)
    assert np.array_equal(heard.labels, work.labels) and np.array_equal(work.labels, same.labels)
    answer = heard.asked("save")
    assert answer["saved"] and str(tmp_path) in answer["said"] and files.load(tmp_path, IMAGE).log == work.log


def test_what_cannot_be_done_is_said_and_changes_nothing(tmp_path, monkeypatch):
    work = made()
    heard = Heard(LabelWidget(work), monkeypatch)
    heard.asked("show")
    for action, given, says in (
        ("remove", (3,), "no particle 3; give"), ("merge", (2,), "two or more"), ("undo", (), "undo was asked"),
        ("split", (1, [10, 10], [55, 39]), "not lie on particle 1"), ("save", (), "no folder to save in; give"),
    ):  # fmt: skip
        answer = heard.asked(action, *given)
        assert says in answer["problem"] and answer["window"][2:] == [0, 0]
    for action in ("draft", "_paint", "__init__", "replay"):
        assert heard.asked(action)["made"] == []
    assert done(work) == [] and np.array_equal(work.labels, made().labels)

    def broken(image, prompt):
        raise RuntimeError("out of memory")

    work.ask = broken
    assert heard.asked("add", [30, 20])["problem"] == "RuntimeError: out of memory" and done(work) == []


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, front.__name__)
    with pytest.raises(ImportError, match=r'the package anywidget; pip install ".\[label\]"\.$'):
        __import__(front.__name__)


# ------------------------------------------------------------------------------------------------ in a browser
class Screen:
    """A page that shows a widget; its mouse is given pixels of the image."""

    def __init__(self, page, widget, monkeypatch):
        heard = Heard(widget, monkeypatch)

        def python(content):
            heard.clear()
            widget._handle_custom_msg(content, [])
            return [[answer, [base64.b64encode(buffer).decode() for buffer in buffers]] for answer, buffers in heard]

        self.page, self.mouse = page, page.mouse
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.expose_function("python", python)
        page.evaluate(MODEL, FILE.read_text(encoding="utf-8"))
        self.settle()

    def settle(self):
        self.page.wait_for_function("window.waiting === 0")
        self.page.evaluate(
            "() => new Promise((go) => setTimeout(() => requestAnimationFrame(() => setTimeout(go)), 30))"
        )

    def at(self, x, y):
        box = self.page.locator("canvas").bounding_box()
        scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
        left, top = (box["width"] - scale * WIDTH) / 2, (box["height"] - scale * HEIGHT) / 2
        return box["x"] + left + scale * (x + 0.5), box["y"] + top + scale * (y + 0.5)

    def click(self, x, y, shift=False):
        if shift:
            self.page.keyboard.down("Shift")
        self.mouse.click(*self.at(x, y))
        if shift:
            self.page.keyboard.up("Shift")
        self.settle()

    def drag(self, start, end, button="left"):
        self.mouse.move(*self.at(*start))
        self.mouse.down(button=button)
        self.mouse.move(*self.at(*end), steps=4)
        self.mouse.up(button=button)
        self.settle()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.settle()

    def text(self, name):
        return self.page.locator(f".lorasam-label .{name}").text_content()

    def colors(self):
        """What is drawn, uint8 (h, w, 4)."""
        found = self.page.evaluate("""() => {
          const canvas = document.querySelector("canvas");
          const { width, height } = canvas;
          const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          return { width, height, data: btoa(Array.from(data, (value) => String.fromCharCode(value)).join("")) };
        }""")
        data = np.frombuffer(base64.b64decode(found["data"]), np.uint8)
        return data.reshape(found["height"], found["width"], 4).astype(int)


FILE = Path(front.__file__).with_name("widget.js")


@pytest.fixture
def show(browser, monkeypatch):
    pages = []

    def show(work, save_to=None, **context):
        pages.append(browser.new_page(viewport=context.pop("viewport", {"width": 700, "height": 800}), **context))
        return Screen(pages[-1], LabelWidget(work, save_to), monkeypatch)

    yield show
    for page in pages:
        page.close()


@pytest.mark.browser
def test_clicks_and_keys_are_the_actions_of_a_labelling(show, tmp_path):
    work, same = made(id="powder"), made(id="powder")
    screen = show(work, tmp_path)
    screen.page.evaluate("document.addEventListener('keydown', (event) => (window.leaked = event.key))")
    assert screen.text("name") == "powder" and screen.text("state") == "3 particles"
    screen.click(30, 20)
    same.add((30, 20))
    assert screen.text("said") == "added 6" and screen.text("tool") == "Selected: 6"
    screen.drag((52, 4), (57, 9))
    same.add(box=(52, 4, 57, 9))
    screen.click(12, 30)
    screen.press("x")
    same.remove(2)
    assert screen.text("said") == "removed" and screen.text("tool") == ""
    screen.click(44, 30)
    screen.click(30, 20, shift=True)
    assert screen.text("tool") == "Selected: 5, 6"
    screen.press("m")
    same.merge(5, 6)
    screen.click(10, 10)
    screen.press("s")
    assert screen.text("tool").startswith("Split 1: click on a point in each part")
    screen.click(10, 10)
    screen.click(50, 20)
    assert "does not lie on the particle" in screen.text("problem")
    screen.click(21, 10)
    screen.press("Enter")
    assert screen.text("said") == "split into 1, 8" and same.split(1, (10, 10), (21, 10)) == [1, 8]
    screen.click(10, 10)
    screen.press("f")
    screen.click(2, 2)
    screen.click(10, 12)
    screen.press("Enter")
    same.refine(1, [(2, 2)], [(10, 12)])
    screen.press("u", "u", "r", "Control+z")
    for action in ("undo", "undo", "redo", "undo"):
        getattr(same, action)()
    assert screen.text("state") == "3 particles · not saved"
    screen.press("a", "Control+s")
    same.accept()
    assert done(work) == done(same) and np.array_equal(work.labels, same.labels)
    assert screen.text("state") == "3 particles · accepted" and str(tmp_path) in screen.text("said")
    assert files.load(tmp_path, IMAGE).log == work.log and screen.errors == []
    screen.press("b", "d")  # by which JupyterLab makes and deletes cells
    assert screen.page.evaluate("window.leaked") is None


@pytest.mark.browser
def test_a_problem_is_said_names_are_text_and_what_is_marked_is_seen(show):
    work = made(id=NAME)
    screen = show(work, viewport={"width": 300, "height": 400})
    plain = screen.colors()
    screen.page.locator("canvas").focus()
    screen.press("u")
    assert "undo was asked" in screen.text("problem") and done(work) == []
    screen.press("x")
    assert "Select a particle first" in screen.text("problem") and done(work) == []
    assert screen.text("name") == NAME and screen.page.locator("img").count() == 0 and screen.page.title() != "run"

    def pixel(x, y):
        box, (u, v) = screen.page.locator("canvas").bounding_box(), screen.at(x, y)
        return slice(round(v - box["y"]), round(v - box["y"]) + 1), slice(round(u - box["x"]), round(u - box["x"]) + 1)

    screen.click(47, 33)  # inside particle 5, off its number
    (red, green, *_), grey = screen.colors()[pixel(47, 33)].ravel(), plain[pixel(47, 33)].ravel()
    assert red > green + 30 and grey[0] == grey[1] == IMAGE[33, 47]
    screen.press("Escape", "o", "n")
    bare = screen.colors()
    assert (bare != plain).any() and np.ptp(bare[..., :3], axis=2).max() == 0  # the grey image alone
    screen.press("o", "n")
    assert (screen.colors() == plain).all()


@pytest.mark.browser
def test_a_click_finds_its_pixel_wherever_one_has_zoomed(show):
    work = made()
    screen = show(work)
    screen.mouse.move(*screen.at(30, 20))
    screen.mouse.wheel(0, -300)
    screen.settle()
    screen.click(30, 20)  # what lies under the mouse stays there
    assert done(work)[-1]["point"] == [30, 20]
    screen.drag((30, 20), (35, 20), button="right")
    screen.click(35, 20)
    assert screen.text("tool") == "Selected: 6" and len(done(work)) == 1
    screen.press("0")
    screen.click(44, 30)
    assert screen.text("tool") == "Selected: 5" and screen.errors == []


@pytest.mark.browser
def test_a_phone_shows_it_whole_and_a_finger_adds(show):
    work = made()
    screen = show(work, viewport={"width": 360, "height": 640}, has_touch=True, device_scale_factor=2)
    screen.page.touchscreen.tap(*screen.at(30, 20))
    screen.settle()
    assert done(work)[-1]["point"] == [30, 20]
    screen.page.get_by_role("button", name="Remove").tap()
    screen.settle()
    assert done(work)[-1] == {"action": "remove", "ids": [6]}
    assert screen.page.evaluate("document.documentElement.scrollWidth") <= 360
    screen.page.evaluate("window.close_cell()")
    assert screen.errors == []
