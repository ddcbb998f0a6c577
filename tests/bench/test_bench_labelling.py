"""The bench of labelling: one image, from nothing and from a draft."""

from __future__ import annotations

from bench.labelling import SHOWN, efforts
from lorasam_core.data.particles import generate


def test_each_start_has_a_row_and_an_effort():
    sample = generate(3, 1, (96, 128))
    table = efforts([sample], [None], "cpu").set_index("start")
    assert list(table.index) == ["nothing", "draft: frozen"] and set(SHOWN) <= set(table)
    nothing = table.loc["nothing"]
    assert nothing["drafted"] == 0 and nothing["f1_before"] == 0 and nothing["add"] > 0
    assert (table["actions"] <= 4 * (table["drafted"] + table["particles"])).all()
    assert (table["f1"] >= table["f1_before"]).all()
