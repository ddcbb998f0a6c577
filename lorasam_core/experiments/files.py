"""JSON and tables of runs and results: written whole, and read with an error that names file and remedy."""

from __future__ import annotations

import errno
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.errors import brief

AGAIN = "delete its folder and run the experiments again"
NAMES = ("run", "id", "group", "data", "source", "evaluator")  # columns of text, whatever they spell
NEEDED = {"per_image": ("evaluator", "id", "group"), "history": ("step",)}  # of tables that hold but numbers and NAMES


def read_json(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """A JSON object from a file, packed where its name ends in .xz; raises ValueError that names file and remedy."""
    try:
        content = path.read_bytes()
        values = json.loads(lzma.decompress(content) if path.suffix == ".xz" else content)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); run the experiments again.") from error
    except (ValueError, RecursionError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path} is not valid JSON; {remedy}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object; {remedy}.")
    return values


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside and rename: a file under its final name is whole. Raises OSError that names the file."""
    part = path.with_name(f".part-{path.name}")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:  # numpy's, of a full disk, has no number
        raise OSError(error.errno or errno.ENOSPC, error.strerror or brief(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write whole, by `replace`; packed for a name in .xz."""
    text = (json.dumps(values, indent=1, default=str) + "\n").encode()
    content = lzma.compress(text, preset=lzma.PRESET_EXTREME) if path.suffix == ".xz" else text
    replace(path, lambda part: part.write_bytes(content))


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """<name>.csv or <name>.csv.xz in a folder, ids, groups and names of data sets as text; empty where none is.

    Raises ValueError, with file and remedy, for one that is no table.
    """
    for path in (folder / f"{name}.csv", folder / f"{name}.csv.xz"):
        if path.is_file():
            try:
                # only an empty cell is a missing value; by default a group called NA would be one, even as text
                table = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
            except (OSError, ValueError, OverflowError, EOFError, lzma.LZMAError) as error:
                raise ValueError(f"{path} cannot be read as a table ({brief(error)}); {AGAIN}.") from error
            if missing := [column for column in NEEDED.get(name, ()) if column not in table]:
                raise ValueError(f"{path} has no column {missing[0]!r}; {AGAIN}.")
            texts = table.drop(columns=[*NAMES], errors="ignore").select_dtypes(exclude="number").columns
            if name in NEEDED and len(texts):
                raise ValueError(f"{path} holds other than numbers in the column {brief(texts[0])!r}; {AGAIN}.")
            return table
    return pd.DataFrame()
