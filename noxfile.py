"""The commands of the project: `nox -l` lists them; what follows `--` is handed on."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint"]

ROOT = Path(__file__).parent
INDEX = ROOT / "book" / "_build" / "html" / "index.html"
NO_BOOK = {"--dry-run", "-h", "--help"}  # nothing has changed that a page could show

# glibc hands every large tensor back to the kernel when it is freed; the page faults that follow can cost more than
# the arithmetic. Other allocators do not read these variables.
ENV = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


def install(session: nox.Session, *extras: str) -> None:
    """Install the package, editable, with extras; once for each state of pyproject.toml."""
    wanted = (ROOT / "pyproject.toml").read_bytes() + repr((extras, str(ROOT))).encode()
    stamp = Path(session.virtualenv.location) / "lorasam-installed"
    digest = hashlib.sha256(wanted).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        session.install("-e", f".[{','.join(extras)}]")
        stamp.write_text(digest)


def shared_python(session: nox.Session) -> str:
    """The interpreter of the experiments session, whose environment the book and the pretraining use too."""
    session.run(sys.executable, "-m", "nox", "-s", "experiments", "--install-only", external=True, silent=True)
    folder = ROOT / ".nox" / "experiments"
    return str(folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


@nox.session
def experiments(session: nox.Session) -> None:
    """Make the report: run what is not finished yet, execute the notebooks, build the book."""
    install(session, "book")
    failed = False
    try:
        session.run("python", "-m", "lorasam_core.experiments", "run", *session.posargs, env=ENV)
    except CommandFailed:
        failed = True  # the book still shows the runs that did finish
    if not NO_BOOK.intersection(session.posargs):
        session.run("python", "-m", "lorasam_core.pages", "build", env=ENV)
        session.log(f"The book: {INDEX}")
    if failed:
        session.error("A run failed: its name and its log stand above.")


@nox.session(venv_backend="none")
def book(session: nox.Session) -> None:
    """Build the book from records: the newest local edition, else the published one; -- --edition NAME chooses."""
    session.run(shared_python(session), "-m", "lorasam_core.pages", "build", *session.posargs, external=True, env=ENV)
    session.log(f"The book: {INDEX}")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; -- takes pytest's arguments."""
    install(session, "book", "test")
    session.run("python", "-m", "pytest", *session.posargs, env=ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff) and types (mypy)."""
    extras = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    session.install(*extras["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(venv_backend="none")
def pretrain(session: nox.Session) -> None:
    """Train the compact model's weights on generated scenes; -- takes the recipe's arguments."""
    session.run(shared_python(session), "-m", "lorasam_core.pretraining", *session.posargs, external=True, env=ENV)
