"""`lorasam sizes`: the tables and the figure that it writes, and what it says of them."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk

from lorasam_core import charts
from lorasam_core.commands.sizes import main
from lorasam_core.data.sample import DataError


def sample(folder, median, images=6, seed=0):
    """Labels of discs on a grid, one of them cut by the edge; returns the folder."""
    rng = np.random.default_rng(seed)
    (folder / "labels").mkdir(parents=True)
    for k in range(images):
        labels = np.zeros((160, 160), np.uint16)
        for n, radius in enumerate(np.clip(rng.lognormal(np.log(median), 0.2, 16), 2, 18)):
            labels[disk((20 + 40 * (n // 4), 20 + 40 * (n % 4)), radius)] = n + 1
        labels[:, :8][labels[:, :8] == 0] = 99
        tifffile.imwrite(folder / "labels" / f"{k}.tif", labels)
    return folder


def test_one_sample(tmp_path, capsys):
    main([str(sample(tmp_path / "gold", 9)), "--pixel-size", "0.5"])
    said = capsys.readouterr().out
    assert "gold: 96 whole particles in 6 images; 6 cut by the edge left out" in said
    assert "nm, by number, corrected for those that were cut; 95 % intervals over images" in said
    assert "D50 to 5 % needs about" in said and "ISO 13322-1" in said
    out = tmp_path / "gold" / "sizes"
    assert {p.name for p in out.iterdir()} == {"sizes.csv", "distribution.csv", "distribution.png", "distribution.svg"}
    rows, particles = pd.read_csv(out / "distribution.csv"), pd.read_csv(out / "sizes.csv")
    assert rows["image"].tolist() == [*"012345", "all"] and rows["border_correction"].all()
    assert len(particles) == 102 and set(particles["unit"]) == {"nm"} and set(particles["sample"]) == {"gold"}
    whole = particles[~particles["touches_border"]]
    diameters, weights = whole["equivalent_diameter"], whole["border_weight"]
    assert rows["mean"].iloc[-1] == pytest.approx((diameters * weights).sum() / weights.sum())
    d50 = rows["D50"].iloc[-1]
    below, to = weights[diameters < d50 - 1e-6].sum(), weights[diameters <= d50 + 1e-6].sum()
    assert below < weights.sum() / 2 <= to


def test_precision_decides_what_is_enough(tmp_path, capsys):
    place = str(sample(tmp_path / "gold", 9))
    for asked, answer in (("50", "enough are there"), ("0.5", "too few are there")):
        main([place, "--precision", asked, "--out", str(tmp_path / "out")])
        assert answer in capsys.readouterr().out
    with pytest.raises(ValueError, match="above 0"):
        main([place, "--precision", "0"])


def test_two_samples_by_volume(tmp_path, capsys):
    first, second = sample(tmp_path / "a", 8), sample(tmp_path / "b", 11, seed=1)
    options = ["--out", str(tmp_path / "out"), "--weight", "volume", "--no-border-correction"]
    main([str(first), str(second), *options])
    said = capsys.readouterr().out
    assert "a: 96 whole" in said and "b: 96 whole" in said and "px, by volume; 95 %" in said
    rows = pd.read_csv(tmp_path / "out" / "distribution.csv").set_index(["sample", "image"])
    particles = pd.read_csv(tmp_path / "out" / "sizes.csv")
    d = particles.query("sample == 'a' and not touches_border")["equivalent_diameter"]
    assert rows.loc[("a", "all"), "mean"] == pytest.approx((d**4).sum() / (d**3).sum())
    change = rows.loc[("b", "all"), "D50"] - rows.loc[("a", "all"), "D50"]
    assert f"second minus first: D50 {change:+.4g} px" in said
    assert set(rows["weight"]) == {"volume"} and not rows["border_correction"].any()


def test_samples_of_two_units_are_refused(tmp_path):
    first, second = sample(tmp_path / "a", 8, images=1), sample(tmp_path / "b", 8, images=1)
    (second / "pixel_size.csv").write_text("id,pixel_size\n0,3\n")
    with pytest.raises(DataError, match="not both in nm; give --pixel-size"):
        main([str(first), str(second)])
    assert not (first / "sizes").exists()
    main([str(first), str(second), "--pixel-size", "2"])
    assert set(pd.read_csv(first / "sizes" / "sizes.csv")["unit"]) == {"nm"}


def test_no_particle_and_one(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros((40, 40), np.uint8))
    main([str(tmp_path / "empty.tif")])
    assert "0 whole particles in 1 images" in capsys.readouterr().out
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20] = 1
    tifffile.imwrite(tmp_path / "empty.tif", labels)
    main([str(tmp_path / "empty.tif")])
    assert "1 whole particles" in capsys.readouterr().out


def test_the_figure_shows_weights_and_a_wide_axis():
    sizes, weights = np.array([40.0, 1, 20, 10]), np.array([1.0, 6, 2, 1])
    figure = charts.size_plot({"a": sizes, "none": sizes[:0]}, "nm", {"a": weights, "none": weights[:0]}, "volume")
    cumulative, density = figure.axes
    np.testing.assert_allclose(cumulative.lines[0].get_xdata(), [1, 10, 20, 40])
    np.testing.assert_allclose(cumulative.lines[0].get_ydata(), [60, 70, 90, 100])
    np.testing.assert_allclose(cumulative.lines[1].get_xdata(), [1, 1, 20])  # D10, D50, D90
    assert cumulative.get_xscale() == "log" and "volume" in density.get_ylabel()
    assert sum(density.patches[0].get_data().values) == pytest.approx(100)
    narrow = charts.size_plot({"a": np.array([3000.0, 4000])}, "nm").axes[0]
    assert narrow.get_xscale() == "linear" and narrow.get_xlabel().endswith("µm")
