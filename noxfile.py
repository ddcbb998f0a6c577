"""The commands of the project: `nox -l` lists them; what follows `--` is handed on."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint"]

ROOT = Path(__file__).parent

ENV = {
    # glibc hands every large tensor back to the kernel when it is freed; the page faults that follow can cost more
    # than the arithmetic. Other allocators do not read these two.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "PYTHONDONTWRITEBYTECODE": "",  # every kernel imports torch: without cached bytecode that takes 10 s and more
}


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
    """Make the report: do the runs that are missing, execute the notebooks, build the book; prints its index.html."""
    install(session, "book")
    session.run("python", "-m", "lorasam_core.cli", "experiments", *session.posargs, env=ENV)


@nox.session(venv_backend="none")
def book(session: nox.Session) -> None:
    """Build the book from records: the newest local edition, else the published one; -- --edition NAME chooses."""
    session.run(shared_python(session), "-m", "lorasam_core.cli", "book", *session.posargs, external=True, env=ENV)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; -- takes pytest's arguments."""
    install(session, "book", "test")
    together = ("-n", "logical", "--maxprocesses=4", "--dist=loadscope", "--no-loadscope-reorder")
    session.run("python", "-m", "pytest", *together, *session.posargs, env=ENV | {"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff) and types (mypy)."""
    extras = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    session.install(*extras["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def pretrain(session: nox.Session) -> None:
    """Train the compact model's weights, resumed where it was left; -- takes the recipe's arguments."""
    install(session, "pretrain")
    # the process that draws windows needs a core too: threads that spin while they wait would take it
    session.run("python", "-m", "pretrain", *session.posargs, env=ENV | {"OMP_WAIT_POLICY": "passive"})


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Time everything against segment-anything, side by side; -- --device cuda, --only TEXT, --list, --publish."""
    session.run(shared_python(session), "-m", "bench.run", *session.posargs, external=True, env=ENV)
