"""Charts of made-up tables: points, bars and lines by what the figure holds."""

import numpy as np
import pandas as pd

from lorasam_core import plots
from lorasam_core.report.chapters import comparison_plots

NAN = float("nan")


def differences():
    return pd.DataFrame({
        "name": ["main", "q", "frozen"], "reference": [True, False, False], "runs": [3, 1, 1], "steps": [9, 9, 0],
        "predictor_dice": [80.0, 81.0, 60.0], "predictor_dice_gain": [NAN, 1.0, -20.0],
        "predictor_dice_gain_low": [NAN, 0.5, NAN], "predictor_dice_gain_high": [NAN, 1.5, NAN],
        "f1": [50.0, NAN, 40.0], "f1_gain": [NAN, NAN, -10.0], "f1_gain_low": [NAN, NAN, -9.0],
        "f1_gain_high": [NAN, NAN, -8.0],
    })  # fmt: skip


def marks(axes):
    return [container.lines[0] for container in axes.containers if hasattr(container, "lines")]


def test_paired_chart_has_a_panel_a_measure_and_a_row_a_run(tmp_path):
    figure = comparison_plots.paired_chart(differences(), ("predictor_dice", "f1", "pq"), {"f1": 3.0})
    assert [axes.get_title() for axes in figure.axes] == ["predictor Dice", "F1"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["q", "frozen"]
    assert [list(line.get_xdata()) for line in marks(figure.axes[0])] == [[1.0], [-20.0]]
    assert [line.get_color() for line in marks(figure.axes[0])] == [plots.LABELS, plots.FROZEN]
    assert not figure.axes[0].patches  # the noise of seeds, where it is known
    # of two single runs 3; of a mean of three and one run, or of such a mean and what has no seed, less
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[1].patches]
    assert np.allclose(ends, [[-3 * (2 / 3) ** 0.5, 3 * (2 / 3) ** 0.5], [-3 / 6**0.5, 3 / 6**0.5]])
    assert figure.made_by == "lorasam_core.report.chapters.comparison_plots.paired_chart"
    assert plots.save(figure, tmp_path / "a.svg").read_text().count("<svg") == 1


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
