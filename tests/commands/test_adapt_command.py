"""lorasam adapt: what is printed before and after, and how what cannot be used ends."""

import shlex

import pytest

from lorasam_core import cli
from lorasam_core.commands.adapt import parser
from lorasam_core.commands.segment import parser as segment_parser
from tests.adapting import make, small_start


@pytest.fixture
def arguments(tmp_path):
    """Two labelled images, and an adapter of the compact model at 64 pixels."""
    make(tmp_path / "powder", 2, shape=(72, 64))
    start = small_start(tmp_path, 64)
    options = f"--start {start} --steps 1 --batch-size 1 --crop 64 --device cpu --out"
    return ["adapt", str(tmp_path / "powder"), *options.split(), str(tmp_path / "my out")]


def test_settings_come_before_the_table_and_the_command_at_the_end_works(arguments, capsys, tmp_path):
    cli.main(arguments)
    printed = capsys.readouterr().out
    assert "powder: 2 images in 2 groups" in printed and "1, as asked" in printed
    assert printed.index("as asked") < printed.index("2 groups can give no interval") < printed.index("Dice, %")
    assert sorted(path.name for path in (tmp_path / "my out").iterdir() if not path.name.startswith(".")) == [
        "adapter.safetensors", "measured.csv", "report.html", "run.json", "state"
    ]  # fmt: skip
    program, command, *rest = shlex.split(printed.strip().splitlines()[-1])
    given = segment_parser().parse_args(rest)
    assert (program, command) == ("lorasam", "segment") and given.adapter == str(
        tmp_path / "my out/adapter.safetensors"
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--folds", "5"], "folds is 5"), (["--start", "nowhere"], "nowhere is no adapter"), (["--rank", "0"], "rank is"),
     (["--crop", "20"], "crop is 20")],
)  # fmt: skip
def test_what_cannot_be_used_ends_with_one_sentence(arguments, extra, message):
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, *extra])
    said = str(ended.value)
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_every_option_has_a_place_in_prepare():
    from inspect import signature

    from lorasam_core.experiments.adapt_plan import prepare

    options = vars(parser().parse_args(["folder", "--out", "x"]))
    assert options.keys() - {"out"} == signature(prepare).parameters.keys()
