"""The command `lorasam`: each name leads to the function that does it, and a wrong one to the list of names."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from lorasam_core import cli
from lorasam_core.experiments import publish, sweeps
from lorasam_core.report import pages


@pytest.mark.parametrize(
    ("name", "module"),
    [("experiments", sweeps), ("book", pages), ("publish", publish)],
    ids=lambda value: str(value)[:11],
)
def test_a_command_hands_its_options_on(monkeypatch, name, module):
    given = []
    monkeypatch.setattr(module, "main", given.append)
    cli.main([name, "--edition", "x"])
    assert given == [["--edition", "x"]] and name in cli.USAGE


def test_the_version_is_the_projects(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == version("lorasam")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_listed(arguments, capsys):
    cli.main(arguments)
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_named_and_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["sgement"])
    assert ended.value.code == 2
    assert "there is no command 'sgement'" in capsys.readouterr().err


def test_the_wheel_installs_the_command():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"lorasam": "lorasam_core.cli:main"}
