"""The bench of labelling: one image, from nothing and from a draft."""

from __future__ import annotations

from bench.labelling import SHOWN, efforts, named
from lorasam_core.data.particles import generate


def test_each_start_has_a_row_and_an_effort():
    sample = generate(3, 1, (96, 128))
    table = efforts([sample], named([]), "cpu").set_index("start")
    assert table["labelled"].tolist() == [0, 0] and set(table["group"]) == {sample.group}
    assert list(table.index) == ["nothing", "frozen"] and set(SHOWN) <= set(table)
    nothing = table.loc["nothing"]
    assert nothing["drafted"] == 0 and nothing["f1_before"] == 0 and nothing["add"] > 0
    assert (table["actions"] <= 4 * (table["drafted"] + table["particles"])).all()
    assert (table["f1"] >= table["f1_before"]).all()


def test_adapters_have_the_names_that_are_given():
    found = named(["emps", "4=runs/a/adapter.safetensors", "odd=name=x.safetensors"])
    assert found == {
        "frozen": None, "emps": "emps", "4": "runs/a/adapter.safetensors", "odd=name": "x.safetensors",
    }  # fmt: skip
