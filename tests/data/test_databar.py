"""The data bar: bars drawn in the styles of five makers, and micrographs without one."""

import io
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lorasam_core.data.databar import cropped, data_bar
from lorasam_core.data.particles import generate

MAKERS = ["zeiss", "fei", "jeol", "hitachi", "tescan"]
WORDS = ("EHT = 5.00 kV", "WD = 4.2 mm", "Mag = 20.00 K X", "Signal A = InLens", "12 Mar 2019")


@lru_cache(maxsize=70)
def particles(index, height=384, width=512):
    return generate(3, index, (height, width)).image


def noise(mean=90, sd=12, height=384, width=512):
    values = np.random.default_rng(1).normal(mean, sd, (height, width))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def bar(maker, height, width):
    """A drawn bar, uint8 (height, width, 3)."""
    ground = 255 if maker == "zeiss" else 0
    picture = Image.new("RGB", (width, height), (ground,) * 3)
    draw = ImageDraw.Draw(picture)

    def write(x, y, text, size, colour=None):
        colour = (255 - ground,) * 3 if colour is None else colour
        draw.text((x * width, y * height), text, colour, ImageFont.load_default(max(7, size * height)))

    if maker == "zeiss":  # two lines, a scale bar with ends, a logo
        for i, word in enumerate(WORDS[:4]):
            write(0.25 + 0.25 * (i // 2), 0.08 + 0.42 * (i % 2), word, 0.32)
        write(0.02, 0.08, "1 um", 0.32)
        draw.line((0.02 * width, 0.75 * height, 0.15 * width, 0.75 * height), "black")
        draw.rectangle((0.88 * width, 0.1 * height, 0.97 * width, 0.9 * height), (0, 60, 160))
        write(0.89, 0.3, "ZEISS", 0.3, "white")
    elif maker == "fei":  # boxes in white lines, a rim of one row, names over values
        draw.line((0, 0, width, 0), "white")
        for i, (name, value) in enumerate(zip(("HV", "mag", "det", "WD"), ("5.00 kV", "20 000 x", "ETD", "4.2 mm"))):
            draw.line((0.15 * i * width, 0, 0.15 * i * width, height), "white")
            write(0.15 * i + 0.02, 0.05, name, 0.36)
            write(0.15 * i + 0.02, 0.5, value, 0.36)
        draw.line((0.6 * width, 0, 0.6 * width, height), "white")
        draw.line((0.65 * width, 0.3 * height, 0.95 * width, 0.3 * height), "white")
        write(0.76, 0.5, "5 um", 0.36)
    elif maker == "jeol":  # one line
        write(0.05, 0.25, "SEI   5.0kV   X20,000   WD 4.2mm", 0.5)
        draw.rectangle((0.8 * width, 0.15 * height, 0.95 * width, 0.22 * height), "white")
        write(0.84, 0.35, "1um", 0.45)
    elif maker == "hitachi":  # a scale of ticks that hangs near the upper edge
        write(0.01, 0.35, "S4800 5.0kV 4.2mm x20.0k SE(M)", 0.5)
        for i in range(11):
            x = (0.7 + 0.025 * i) * width
            draw.rectangle((x, 0.06 * height, x + 1, (0.3 if i % 5 == 0 else 0.22) * height), "white")
        write(0.86, 0.45, "2.00um", 0.45)
    else:  # boxes on three grounds under a dark and a light row
        for i, (grey, ink) in enumerate(((60, "white"), (0, "white"), (255, "black"), (60, "white"))):
            draw.rectangle((width * i // 4, 0, width * (i + 1) // 4 - 1, height), (grey,) * 3)
            write(0.25 * i + 0.02, 0.12, WORDS[i], 0.33, ink)
            write(0.25 * i + 0.02, 0.52, "MIRA3 TESCAN" if i == 3 else WORDS[i + 1], 0.33, ink)
        draw.line((0, 0, width, 0), "black")
        draw.line((0, 1, width, 1), "white")
    return np.asarray(picture)


def with_bar(micrograph, maker, height):
    picture = np.stack([micrograph] * 3, -1)
    return np.vstack([picture, bar(maker, height, micrograph.shape[1])])


def overlaid(micrograph):
    """A caption and a scale bar written onto the micrograph."""
    picture = Image.fromarray(micrograph)
    draw = ImageDraw.Draw(picture)
    height, width = micrograph.shape
    draw.text((5, height - 22), "S4800 5.0kV 4.2mm x20.0k SE(M)   2.00um", 255, ImageFont.load_default(16))
    draw.line((0.7 * width, height - 30, 0.95 * width, height - 30), 255, 3)
    return np.asarray(picture)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("height", [20, 32, 80])
def test_a_bar_in_each_makers_style_is_measured_to_the_row(maker, height):
    for index in (0, 4):
        picture = with_bar(particles(index), maker, height)
        assert data_bar(picture) == height
        assert data_bar(picture[..., 0]) == height
    assert data_bar(with_bar(noise(), maker, height)) == height
    assert data_bar(with_bar(noise(128, 30), maker, height)) == height


@pytest.mark.parametrize("maker", MAKERS)
def test_a_bar_is_found_after_jpeg_and_resampling(maker):
    for index in (0, 5):
        picture = Image.fromarray(with_bar(particles(index), maker, 48))
        for quality in (75, 90):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            assert abs(data_bar(np.asarray(Image.open(file))) - 48) <= 2
        smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.BICUBIC)
        assert abs(data_bar(np.asarray(smaller)) - 36) <= 2


def test_a_bar_under_a_dark_micrograph_is_found():
    """Noise about a dark background differs from the black ground below by less than it does from itself."""
    assert data_bar(with_bar(noise(14, 5), "jeol", 40)) == 40


def test_the_limits_of_a_bars_height():
    assert data_bar(with_bar(particles(0), "hitachi", 12)) == 12
    assert data_bar(with_bar(particles(0), "hitachi", 10)) == 0
    assert data_bar(with_bar(particles(0, 300), "zeiss", 100)) == 100
    assert data_bar(with_bar(particles(0, 300), "zeiss", 120)) == 0
    assert data_bar(bar("zeiss", 40, 512)) == 0  # nothing but a bar


def test_generated_micrographs_have_no_bar():
    for index in range(60):
        picture = particles(index, 128, 160)
        assert data_bar(picture) == 0
        assert data_bar(np.stack([picture] * 3, -1)) == 0


def test_text_written_onto_the_micrograph_is_no_bar():
    for micrograph in (particles(0), particles(4), noise(), noise(14, 5), noise(3, 2), np.zeros((300, 400), np.uint8)):
        assert data_bar(overlaid(micrograph)) == 0


def _cut_box(picture):
    """A bar that leaves a tenth of the width to the micrograph."""
    joined = with_bar(picture, "jeol", 40)[..., 0].copy()
    joined[-40:, :50] = noise(height=40, width=50)
    return joined


def _crowd_on(ground):
    """Discs on an even ground, cut by the lower edge."""
    y, x = np.mgrid[:384, :512]
    return np.where((y % 40 - 20) ** 2 + (x % 40 - 20) ** 2 < 150, 255 - ground, ground).astype(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((400, 400), 7, np.uint8),
        np.full((400, 400), 255, np.uint8),
        noise(),
        noise(2, 3),
        noise(253, 4),
        np.vstack([noise(120, 20), np.zeros((60, 512), np.uint8)]),  # a blanked beam: no text, so no bar
        np.vstack([noise(120, 20), noise(6, 3, 60)]),
        np.vstack([noise(40, 8), np.full((50, 512), 255, np.uint8)]),  # a bright particle along the edge
        np.vstack([noise(40, 8), noise(235, 8, 50)]),
        np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[:, None], 400, 1),
        np.repeat(np.linspace(255, 0, 400).astype(np.uint8)[None], 400, 0),
        np.clip(200 - np.hypot(*np.mgrid[-200:200, -200:200]) * 0.9, 0, 255).astype(np.uint8),  # vignetting
        _crowd_on(0),
        _crowd_on(255),
        _cut_box(noise()),
        particles(0)[:20],
        particles(0)[:, :20],
    ],
)
def test_no_bar_in(picture):
    assert data_bar(picture) == 0


def test_bars_of_real_micrographs(emps_folder):
    """Of 465 images, 40 were called a bar and seen to be one; the strip above a bar is a micrograph without one."""
    files = sorted((emps_folder / "images").glob("*.png"))
    images = [np.asarray(Image.open(file)) for file in files]
    found = {file.stem: data_bar(image) for file, image in zip(files, images)}
    assert sum(rows > 0 for rows in found.values()) == 40
    measured = {"1b3c6536a3": 49, "60feb7de8f": 58, "8e1269eba3": 34, "e59a1a493e": 43, "3027f9ffe7": 36}
    for name, rows in measured.items():  # read off by eye
        assert abs(found[name] - rows) <= 2
    for file, image in zip(files, images):
        if found[file.stem]:
            assert data_bar(cropped(image, "auto")[0]) == 0
    for name in ("0a55e7c93f", "345fb7ab68", "40afb05b44", "b0e3041a0d"):  # captions on the micrograph, a narrow box
        assert found[name] == 0
    for file in (emps_folder.parent / "ampis_powder" / "images").glob("*.png"):
        assert data_bar(np.asarray(Image.open(file))) == 0


def test_cropping():
    micrograph = particles(0)
    picture = with_bar(micrograph, "zeiss", 40)
    for bottom, rows in (("auto", 40), ("none", 0), (0, 0), (25, 25), ("25", 25), (len(picture) - 16, 408)):
        image, cut = cropped(picture, bottom)
        assert cut == rows
        np.testing.assert_array_equal(image, picture[: len(picture) - rows])
    image, cut = cropped(micrograph, "auto")
    assert cut == 0 and image.shape == micrograph.shape


@pytest.mark.parametrize(
    "bottom, message",
    [
        (369, "Cropping 369 of 384 rows is impossible; give 0 to 368 pixels."),
        (-1, "Cropping -1 of 384 rows is impossible; give 0 to 368 pixels."),
        ("bar", "The bottom to crop is 'bar'; give auto, none or a number of pixels."),
    ],
)
def test_a_crop_that_cannot_be_is_refused_in_a_sentence(bottom, message):
    with pytest.raises(ValueError) as error:
        cropped(particles(0), bottom)
    assert str(error.value) == message
