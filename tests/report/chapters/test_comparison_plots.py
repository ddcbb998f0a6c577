"""Charts of made-up tables: points, bars and lines by what the figure holds."""

import pandas as pd

from lorasam_core import plots
from lorasam_core.report.chapters import comparison_plots

NAN = float("nan")


def marks(axes):
    return [container.lines[0] for container in axes.containers if hasattr(container, "lines")]


def labels():
    table = pd.DataFrame({"images": [1, 4, 1], "series": ["adapted", "adapted", "U-Net"]})
    for measure, values in (("predictor_dice", [1.0, 2.0, 3.0]), ("ap50", [4.0, 5.0, NAN]), ("f1", [NAN] * 3)):
        table[measure] = table[f"{measure}_low"] = table[f"{measure}_high"] = values
    return table


def test_label_chart_leaves_out_what_was_not_measured():
    figure = comparison_plots.label_chart(labels(), {"predictor_dice": {"mean": 0.5, "low": 0.0, "high": 1.0}})
    assert [axes.get_title() for axes in figure.axes] == ["predictor Dice, %", "AP50, %"]
    assert [list(line.get_ydata()) for line in marks(figure.axes[0])] == [[1.0, 2.0], [3.0]]
    assert len(marks(figure.axes[1])) == 1 and figure.axes[0].get_xscale() == "log"
    assert {t.get_text() for t in figure.axes[1].get_legend().get_texts()} == {"frozen", "adapted", "U-Net"}
    assert marks(figure.axes[0])[0].get_color() == plots.ADAPTED
