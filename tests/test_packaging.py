"""What the project says about itself: dependencies, commands, versions and files agree."""

from __future__ import annotations

import ast
import lzma
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from lorasam_core.experiments.records import published_editions
from lorasam_core.report.page import update_readme

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CORE = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {name: {r.name: r for r in map(Requirement, rows)} for name, rows in PROJECT["optional-dependencies"].items()}
CONDA_NAMES = {"pytorch": "torch"}
IMPORT_NAMES = {"segmentation_models_pytorch": "segmentation-models-pytorch", 
    "cv2": "opencv-python-headless", "IPython": "ipython", "lightning_fabric": "lightning-fabric", "PIL": "pillow",
    "segment_anything": "segment-anything", "skimage": "scikit-image", "yaml": "pyyaml",
}  # fmt: skip


def tracked() -> list[Path]:
    """Text files of the project; skipped where git does not know them."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("this is not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in (".png", ".safetensors", ".npz", ".tif")]


def test_conda_gets_the_same_names_and_ranges() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [row for row in environment["dependencies"] if isinstance(row, str)]
    (pip,) = [row["pip"] for row in environment["dependencies"] if isinstance(row, dict)]
    assert pip[-1] == "-e ."
    rows = [Requirement(row) for row in [*conda, *pip[:-1]]]
    found = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in rows}
    assert found.pop("python") == Requirement(f"python{PROJECT['requires-python']}").specifier
    found.pop("pip")
    wanted = {**CORE, **EXTRAS["book"], "nox": EXTRAS["test"]["nox"]}
    assert found == {name: r.specifier for name, r in wanted.items()}


def test_what_was_tested_lies_in_the_ranges_that_are_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {r.name.lower().replace("_", "-"): r for r in map(Requirement, (row for row in lines if row[0] != "#"))}
    assert all(len(r.specifier) == 1 and not r.url for r in pins.values())
    for wanted in [CORE, EXTRAS["book"], EXTRAS["test"], EXTRAS["export"], EXTRAS["formats"]]:
        for name, requirement in wanted.items():
            (pin,) = pins[name.lower().replace("_", "-")].specifier
            assert pin.operator == "==" and pin.version in requirement.specifier, name


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    used = set()
    for path in [*(ROOT / "lorasam_core").rglob("*.py"), *(ROOT / "notebooks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.split(".")[0])
    used -= sys.stdlib_module_names | {"lorasam_core", "pretrain", "bench"}  # pages are executed in a checkout
    declared = CORE.keys() | EXTRAS["book"].keys() | EXTRAS["export"].keys() | EXTRAS["label"].keys()
    assert {name for name in used if IMPORT_NAMES.get(name, name) not in declared} == set()


def test_torch_and_torchvision_are_ranges_that_meet() -> None:
    assert CORE["torch"].specifier.contains("2.9.0") and CORE["torchvision"].specifier.contains("0.24.0")
    assert not any("==" in str(CORE[name].specifier) for name in ("torch", "torchvision"))


@pytest.fixture(scope="module")
def sessions() -> dict[str, bool]:
    """nox's sessions, and whether plain `nox` runs them."""
    done = subprocess.run([sys.executable, "-m", "nox", "-l"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: mark == "*" for mark, name in re.findall(r"^([*-]) ([\w-]+)", done.stdout, re.MULTILINE)}


def test_plain_nox_runs_tests_and_lint(sessions: dict[str, bool]) -> None:
    assert {name for name, chosen in sessions.items() if chosen} == {"tests", "lint"}


@pytest.mark.parametrize("file", ["README.md", "book/reproduce.md", ".ci/run", ".github/workflows/tests.yml"])
def test_commands_exist(file: str, sessions: dict[str, bool]) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    named = re.findall(r"nox -s (\w+)", text)
    assert named and set(named) <= sessions.keys()
    if file.endswith(".md"):
        assert sessions.keys() <= set(named)


@pytest.mark.parametrize("file", ["README.md", "book/reproduce.md"])
def test_options_exist(file: str) -> None:
    from lorasam_core.experiments.sweeps import parser

    for line in re.findall(r"nox -s experiments -- ([^`#\n]+)", (ROOT / file).read_text(encoding="utf-8")):
        parser().parse_args(line.split())


def test_the_readme_names_both_commands_and_their_other_forms() -> None:
    for session in ("experiments", "tests"):
        assert f"python -m pip install nox && python -m nox -s {session}" in README
        assert f"pipx run nox -s {session}" in README
        assert f"uvx nox -s {session}" in README


def test_the_readmes_table_is_that_of_the_published_records(tmp_path: Path) -> None:
    published = published_editions()
    if not published:
        pytest.skip("no edition is published yet")
    copy = tmp_path / "README.md"
    shutil.copyfile(ROOT / "README.md", copy)
    update_readme(published[0], copy)
    assert "| predictor: Dice |" in README and "| mask generator: AP50 |" in README  # its tables can be read
    assert copy.read_text(encoding="utf-8") == README


def test_files_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_citation_and_changelog_have_the_projects_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def content(path: Path) -> str:
    """A file's text; of a packed one, what is in it."""
    packed = path.read_bytes()
    return (lzma.decompress(packed) if path.suffix == ".xz" else packed).decode("utf-8")


def test_no_file_names_a_registry_or_a_home_folder() -> None:
    pattern = re.compile(r"https?://[^ )\"']*/simple/|--(extra-)?index-url|(?<![\w.])/(home|Users|root)/\w")
    named = [path.name for path in tracked() if path != Path(__file__) and pattern.search(content(path))]
    assert named == []


def test_no_executed_notebook_and_no_large_file_is_kept() -> None:
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in kept if name and (ROOT / name).is_file()]
    assert [p.name for p in paths if p.suffix == ".ipynb" or p.stat().st_size > 16 * 2**20] == []


def test_the_workflows_are_valid_and_the_check_is_executable() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n", script], check=True)
