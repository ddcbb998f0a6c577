"""What the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "LORASAM_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["LORASAM_DATA"] = str(_SHARED)


@pytest.fixture(scope="session")
def emps_folder() -> Path:
    """The real micrographs of EMPS; the test is skipped where they are missing."""
    local = os.environ.get("LORASAM_DATA")
    if not local or not (Path(local) / "emps" / "test.csv").is_file():
        pytest.skip("no EMPS here: set LORASAM_DATA to a folder that holds emps/")
    return Path(local) / "emps"
