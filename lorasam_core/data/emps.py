"""EMPS: 465 electron micrographs of particles from 322 papers, with instance labels and an official test set of 99.

Yildirim and Cole, Bayesian Particle Instance Segmentation for Electron Microscopy Image Quantification, J. Chem. Inf.
Model. 2021; https://github.com/by256/emps (MIT). Layout: images/ID.png, segmaps/ID.png (uint16 ids), train.csv and
test.csv (an id a line, no header), metadata.csv (filename, doi).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from lorasam_core.data.folders import by_stem, read_table
from lorasam_core.data.readers import Record, read_record
from lorasam_core.data.sample import DataError, content_hash
from lorasam_core.data.splits import Split, check_groups, split_by_group, thin

COMMIT = "dd8f86d714894fd08f3db80041893982ce058dd6"
URL = f"https://codeload.github.com/by256/emps/zip/{COMMIT}"
TIMEOUT = 60  # seconds without a byte
# Of ids, official parts, papers and decoded pixels: the archive's own bytes may change, what is in it may not.
CONTENT_SHA256 = "3ee7be91b7a68f4e5dc58e0e32f83b72abe8c275bb465a4fd3e0ea398fafb9b1"


def is_emps_layout(folder: Path) -> bool:
    """Whether the folder is laid out as EMPS is."""
    return (folder / "segmaps").is_dir() and (folder / "test.csv").is_file()


def list_emps(folder: Path) -> tuple[list[Record], set[str]]:
    """Records in the order of train.csv and test.csv, and the ids of the official test set; the group is the DOI.

    Raises DataError for a table or a file that is missing, an id in both lists, and a paper on both sides.
    """
    train, test = (_ids(folder / name) for name in ("train.csv", "test.csv"))
    images, labels = by_stem(folder / "images"), by_stem(folder / "segmaps")
    table = read_table(folder / "metadata.csv", ("filename", "doi"))
    papers = dict(zip((Path(name).stem for name in table["filename"]), table["doi"], strict=True))
    for i in (*train, *test):
        if i not in images or i not in labels:
            missing = folder / ("images" if i not in images else "segmaps") / f"{i}.png"
            raise DataError(f"{missing} is missing; copy it, or take {i} out of train.csv and test.csv.")
        if not papers.get(i):
            raise DataError(f"{folder / 'metadata.csv'} names no paper for {i}; add a line for it.")
    check_groups(Split(tuple(train), (), tuple(test)), papers)
    return [Record(i, images[i], labels[i], papers[i], instances=True) for i in (*train, *test)], set(test)


def thin_emps(groups: Mapping[str, str], official_test: set[str], limit: int, seed: int = 0) -> list[str]:
    """At most `limit` ids with the official proportion of test images (at least one), one of each paper in turn."""
    parts = [{i: g for i, g in groups.items() if (i in official_test) == wanted} for wanted in (False, True)]
    n_test = max(1, round(limit * len(parts[1]) / len(groups)))
    if limit <= n_test or not parts[1]:
        raise DataError(f"limit is {limit}; EMPS needs at least 3 images for training, validation and test.")
    return thin(parts[0], limit - n_test, seed) + thin(parts[1], n_test, seed)


def split_emps(groups: Mapping[str, str], official_test: set[str], seed: int = 0) -> Split:
    """The official test set; validation is 2/9 of the other papers, so that the whole is 7:2:1 or near it."""
    rest = split_by_group({i: g for i, g in groups.items() if i not in official_test}, (7, 2, 0), seed)
    split = Split(rest.train, rest.val, tuple(i for i in groups if i in official_test))
    check_groups(split, groups)
    return split


def content_sha256(records: Iterable[Record], official_test: set[str], digests: Mapping[str, str]) -> str:
    """SHA-256 hex over ids, official parts, papers and decoded pixels."""
    lines = (f"{r.id} {'test' if r.id in official_test else 'train'} {r.group} {digests[r.id]}\n" for r in records)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def find_emps() -> Path:
    """$LORASAM_DATA/emps where it exists, else the folder in pooch's cache, downloaded and verified first.

    Raises DataError when the data can neither be found nor downloaded, or are not what they should be.
    """
    local = os.environ.get("LORASAM_DATA")
    if local and (Path(local) / "emps").is_dir():
        return Path(local) / "emps"
    import pooch  # only where something is downloaded

    cache = Path(pooch.os_cache("lorasam"))
    folder = cache / f"emps-{COMMIT[:7]}"
    if not folder.is_dir():  # it gets this name once it is verified
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="emps-part-") as part:
            found = _download(Path(part))
            verify(found)
            try:
                found.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    return folder


def verify(folder: Path) -> None:
    """Read every file and raise DataError unless the contents are those of the commit."""
    records, official_test = list_emps(folder)
    bar = tqdm(records, desc="verifying EMPS", unit="image", delay=2, disable=None)
    digests = {record.id: content_hash(read_record(record)[0]) for record in bar}
    if content_sha256(records, official_test, digests) != CONTENT_SHA256:
        raise DataError(
            f"The images in {URL} are not those of EMPS at {COMMIT[:7]}; "
            "set LORASAM_DATA to a folder that holds a copy of it as emps/."
        )


def _download(part: Path) -> Path:
    """Download and unpack below `part`; returns the folder that holds train.csv."""
    import pooch

    download = pooch.HTTPDownloader(progressbar=bool(sys.stderr and sys.stderr.isatty()), timeout=TIMEOUT)
    pooch.get_logger().setLevel("WARNING")  # it would advise to note the archive's hash
    try:
        archive = pooch.retrieve(URL, known_hash=None, fname="emps.zip", path=part, downloader=download)
        shutil.unpack_archive(archive, part / "unpacked", "zip")
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # requests' errors are OSErrors
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"EMPS could not be downloaded from {URL} ({reason}); go online with some space in {part.parent}, "
            "or set LORASAM_DATA to a folder that holds a copy of it as emps/."
        ) from error
    tables = sorted((part / "unpacked").rglob("train.csv"))
    if not tables:
        raise DataError(f"The archive from {URL} holds no train.csv; set LORASAM_DATA to a folder that holds emps/.")
    return tables[0].parent


def _ids(path: Path) -> list[str]:
    """The ids of a list without header."""
    return [i.strip() for i in read_table(path, None)[0] if i.strip()]
