"""Find the annotations of a folder's images, by what the files hold: COCO, VIA, labelme, CVAT, YOLO, ImageJ, masks."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lorasam_core.data.annotations import DAMAGED, Annotations, reason
from lorasam_core.data.decode import LOSSLESS
from lorasam_core.data.formats_json import Indexed, index_csv, index_json
from lorasam_core.data.formats_other import index_masks, index_rois, index_txt, index_xml
from lorasam_core.data.sample import DataError

PLACES = ("labels", "masks", "annotations")
READ_AS = "Labels are read as "
NAMED = 3  # files in a note
KINDS = {  # suffix: what may have it
    ".json": "COCO, labelme or VIA", ".csv": "VIA", ".xml": "CVAT for images 1.1", ".txt": "YOLO segments",
    ".zip": "ROIs of ImageJ", ".roi": "ROIs of ImageJ",
}  # fmt: skip


def find_annotations(
    folder: Path, images: Mapping[str, Path], *, needed: bool = True
) -> tuple[dict[str, Annotations], list[str]]:
    """The annotations of each image (id to path) that has some, and notes: what they are read as, and what is left out.

    They are in labels/, masks/ or annotations/, with the images, or in the folder itself. A file of many images names
    them, with or without their folders; that of one image has its name. A folder that has the name of an image holds
    its masks, one a particle, or its ROIs. needed: whether there are no other labels; then a file that is damaged is an
    error, and so is one among the labels that is of no known kind, where nothing else is found.
    Raises DataError for these, and for an image that two files describe in different ways.
    """
    found, notes, problems, strange = dict[str, Annotations](), list[str](), list[DataError](), list[Path]()
    spare, short = list[Annotations](), _short_names(images)
    for path, stem, own in _files(folder, images):
        try:
            indexed = _index(path, stem, own, images)
        except DataError as error:
            problems.append(error)
            continue
        if indexed is None:
            strange += [path] if own and path.suffix.lower() != ".txt" else []
            continue
        notes += indexed[1]
        for one in indexed[0]:
            image = _match(one.names, images, short)
            if image is None:
                spare.append(one)
            elif image not in found:
                found[image] = one
            elif path == found[image].path:
                raise DataError(f"{path} describes {image} twice; keep one of the two.")
            elif (one.kind, one.objects) != (found[image].kind, found[image].objects):
                raise DataError(f"{found[image].path} and {path} give {image} different labels; keep one of them.")
    if needed and problems:
        raise problems[0]
    if needed and not found and spare:
        raise DataError(f"{spare[0].path} names none of the images ({spare[0].names[0]}); give them the same names.")
    if needed and not found and strange:
        kinds = KINDS.get(strange[0].suffix.lower(), "masks or ROIs of one image")
        raise DataError(f"{strange[0]} is not {kinds}; export the labels as COCO, or as label images.")
    said = []
    for kind in dict.fromkeys(one.kind for one in found.values()):
        files = dict.fromkeys(one.path.relative_to(folder).as_posix() for one in found.values() if one.kind == kind)
        said.append(f"{READ_AS}{kind} from {few(files)}.")
    if found and spare:
        missing = dict.fromkeys(f"{one.names[0]} in {one.path.name}" for one in spare)
        notes.append(f"Left out, for their images are missing: {few(missing)}.")
    return found, said + notes if found else []


def _files(folder: Path, images: Mapping[str, Path]) -> Iterator[tuple[Path, str, bool]]:
    """What may hold annotations: path, the id of the image that has its name, and whether it is among labels."""
    seen = set[Path]()
    beside = folder / "images" if (folder / "images").is_dir() else folder
    for place, own in (*((folder / name, True) for name in PLACES), (beside, False), (folder, False)):
        if place in seen:
            continue
        seen.add(place)
        deep = place != folder
        for path in sorted(place.rglob("*") if deep else place.glob("*")):
            inside = path.relative_to(place)
            if any(part.startswith(".") for part in inside.parts) or plain(inside.parent.as_posix()) in images:
                continue
            if path.is_dir():
                if own and plain(inside.as_posix()) in images:
                    yield path, plain(inside.as_posix()), own
            elif path.suffix.lower() in KINDS and path.name not in ("groups.csv", "pixel_size.csv"):
                yield path, plain(inside.as_posix().removesuffix(path.suffix)), own


def _index(path: Path, stem: str, own: bool, images: Mapping[str, Path]) -> Indexed | None:
    """What a file or folder says; None where it is of another kind. DataError where it is damaged."""
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            masks = [p for p in files if p.suffix.lower() in LOSSLESS]
            rois = [p for p in files if p.suffix.lower() == ".roi"]
            if masks and rois:
                raise DataError(f"{path} holds masks and ROIs; keep one of the two.")
            return index_masks(path, stem, masks) if masks else index_rois(path, stem, rois) if rois else None
        if suffix == ".json":
            return index_json(path, stem)
        if suffix == ".csv":
            return index_csv(path)
        if suffix == ".xml":
            return index_xml(path)
        if suffix == ".txt":
            return index_txt(path, stem, own) if stem in images else None
        return index_rois(path, stem)
    except DataError:
        raise
    except (*DAMAGED, OSError) as error:
        kind = KINDS.get(suffix, "labels of one image")
        raise DataError(f"{path} cannot be read as {kind} ({reason(error)}); export it again.") from error


def _match(names: tuple[str, ...], images: Mapping[str, Path], short: Mapping[str, str]) -> str | None:
    """The id of the image that has one of these names: with its folders, fewer of them, or none if that is clear."""
    for name in names:
        parts = plain(name.replace("\\", "/")).split("/")
        for start in range(len(parts)):
            whole = "/".join(parts[start:])
            for candidate in (whole.removesuffix(Path(whole).suffix), whole):
                if candidate in images:
                    return candidate
        for candidate in (parts[-1].removesuffix(Path(parts[-1]).suffix), parts[-1]):
            if len(parts) == 1 and candidate in short:
                return short[candidate]
    return None


def _short_names(images: Mapping[str, Path]) -> dict[str, str]:
    """Ids by their last part, where it is that of one image alone."""
    short = {i: i.rpartition("/")[2] for i in images}
    counts = Counter(short.values())
    return {name: i for i, name in short.items() if counts[name] == 1}


def plain(name: str) -> str:
    """Composed letters, as ids have them: systems differ in how they store the name of a file."""
    return unicodedata.normalize("NFC", name)


def few(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    first, more = (listed := list(names))[:NAMED], len(listed) - NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
